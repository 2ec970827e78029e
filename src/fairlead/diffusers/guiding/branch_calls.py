"""A pipeline's network as a denoiser: called with the arguments that the pipeline passes in this step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction
from fairlead.core.schedule import NoiseSchedule
from fairlead.diffusers.guiding.call_conditions import Feed
from fairlead.diffusers.negative_text import told_with_negative
from fairlead.diffusers.network_calls import check_differentiable, latent_channels, null_label, tokens_of
from fairlead.diffusers.perturbation import perturbing, plain
from fairlead.diffusers.pipelines import Wiring, packed, unpacked
from fairlead.diffusers.pretrained import setting

Network = Callable[..., Any]


@dataclass(eq=False)
class NetworkCall:
    """A call of a network as the pipeline made it.

    Attributes:
        names: of the arguments for the sample and the time.
        arguments: those beside the sample, the time and the form of the answer.
        answer: what the network returned last.
    """

    network: Network
    names: tuple[str, str]
    x: Tensor
    timestep: Any
    arguments: dict[str, Any]
    as_tuple: bool
    answer: Any = None

    @classmethod
    def of(cls, network: Network, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NetworkCall:
        kind: Any = type(plain(network))
        parameters = _parameters(kind)
        named = dict(zip(parameters, args, strict=False)) | dict(kwargs)
        x, timestep = named.pop(parameters[0]), named.pop("timestep", None)
        as_tuple = not named.pop("return_dict", True)
        return cls(network, (parameters[0], "timestep"), x, timestep, named, as_tuple)

    def again(self, x: Tensor, arguments: Mapping[str, Any], network: Network | None = None) -> Any:
        """What the network returns for other rows at the same time."""
        time = self.timestep
        if isinstance(time, Tensor) and time.ndim and len(time) == len(self.x) != len(x):
            time = time[:1].expand(len(x))
        given = {self.names[0]: x, self.names[1]: time, **arguments}
        self.answer = (self.network if network is None else network)(**given, return_dict=not self.as_tuple)
        return self.answer

    def answered(self, output: Tensor) -> Any:
        """An output in the form of the network's own answer."""
        if self.as_tuple:
            return (output,)
        if self.answer is None:  # nothing was evaluated in this step
            return import_module("diffusers.models.unets.unet_2d").UNet2DOutput(sample=output)
        return type(self.answer)(sample=output)


@lru_cache(maxsize=32)
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


class Control:
    """The last call of a pipeline's control network, for rows that the pipeline did not ask it for.

    Args:
        call: as the pipeline made it.
        feed: picks its arguments.
        names: the network's arguments that its answer becomes.
    """

    def __init__(self, call: NetworkCall, feed: Feed, names: Sequence[str]) -> None:
        self.call, self.feed, self.names = call, feed, tuple(names)
        self.feed.arguments = call.arguments

    def renewed(self, arguments: dict[str, Any], x: Tensor, condition: Condition, anew: Tensor) -> dict[str, Any]:
        """The arguments with the residuals of the rows ``anew`` (bool [rows]) made for x [rows, ...]."""
        rows = anew.nonzero()[:, 0]
        answer = self.call.again(x[rows.to(x.device)], self.feed.of(condition[rows]))
        made = dict(zip(self.names, answer, strict=False))
        return {**arguments, **{name: _placed(arguments[name], value, rows) for name, value in made.items()}}


def _placed(old: Any, new: Any, rows: Tensor) -> Any:
    """``new`` [k, ...] in these rows of ``old`` [rows, ...], tensors or lists of them."""
    if isinstance(old, Tensor):
        return old.index_copy(0, rows.to(old.device), new.to(old.dtype))
    return [_placed(a, b, rows) for a, b in zip(old, new, strict=True)]


def unasked(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
    """The denoiser of a pipeline between its calls."""
    raise AssertionError("a pipeline denoises inside its calls only")


class PipelineDenoiser:
    """The pipeline's network as a denoiser, with the arguments of the network call that the pipeline makes now."""

    counts = True

    def __init__(
        self, network: Network, wiring: Wiring, schedule: NoiseSchedule, objective: Objective, feed: Feed
    ) -> None:
        self.network, self.wiring, self.schedule, self.objective = network, wiring, schedule, objective
        self.feed = feed
        self.channels = latent_channels(network, wiring.packed)
        self._call: NetworkCall | None = None
        self._control: Control | None = None
        self._stacked: Tensor | None = None
        self._x_t: Tensor | None = None
        self._sized: tuple[Tensor, tuple[int, int]] | None = None
        self._rest: Tensor | None = None
        self._last: tuple[Prediction, Tensor] | None = None

    def receive(self, call: NetworkCall, control: Control | None) -> Tensor:
        """Take over a call of the pipeline; its noisy samples, one row each, [n, c, h, w] in float64.

        Raises:
            UsageError: if the pipeline has changed its batch since the last call.
        """
        halves, x = self.feed.halves, call.x
        if len(x) != halves.rows:
            raise UsageError(
                f"the pipeline's batch went from {halves.rows} rows to {len(x)} within one run (a callback that "
                "switches its guidance?); say when to guide in the guidance: cfg(7).during(sigma=(low, high))"
            )
        self._call, self._control, self._rest, self._last = call, control, None, None
        self.feed.arguments = call.arguments
        own = x[halves.own : halves.own + halves.n]
        if self.wiring.packed:
            ids = call.arguments["img_ids"]
            if self._sized is None or self._sized[0] is not ids:
                self._sized = ids, _size(ids)
            own = unpacked(own, self._sized[1])
        elif x.shape[1] > self.channels:
            self._stacked = x[:, self.channels :]
        own = own[:, : self.channels]
        # at low noise eps is a small difference of large numbers; one kind of device has no float64
        self._x_t = own.to(torch.float32 if own.device.type == "mps" else torch.float64)
        return self._x_t

    @property
    def call(self) -> NetworkCall:
        assert self._call is not None
        return self._call

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return self.predict(self.network, x_t, t, condition)

    def predict(self, network: Network, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """The prediction of ``network``, which may be another one of the same kind."""
        x, size = x_t.to(self.call.x.dtype), (x_t.shape[-2], x_t.shape[-1])
        arguments, text = told_with_negative(plain(network), condition, partial(self._arguments, x, x_t, network))
        if x_t.requires_grad:
            check_differentiable(network)
        if self._stacked is not None:
            x = torch.cat([x, self.feed.picked(self._stacked, condition)], 1)
        with perturbing(network, condition.perturb, tokens_of(network, size, self.wiring.packed), text):
            output = self.call.again(packed(x) if self.wiring.packed else x, arguments, network)[0]
        tally(len(x_t))
        if self.wiring.packed:
            output = unpacked(output, size)
        output, rest = output[:, : self.channels].to(x_t.dtype), output[:, self.channels :]
        if network is self.network and rest.shape[1]:
            self._keep_rest(rest.detach(), condition)
        mixing = level_at(self.schedule, t, x_t).mixing
        prediction = Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))
        self._last = prediction, output
        return prediction

    def _arguments(self, x: Tensor, x_t: Tensor, network: Network, condition: Condition) -> dict[str, Any]:
        arguments = self.feed.of(condition)
        if self.wiring.labels:
            labels, keep = condition.values["label"], condition.keep["label"]
            null = null_label(plain(network))
            arguments["class_labels"] = torch.where(keep, labels, null).to(x.device)
        if self._control is None:
            return arguments
        anew = condition.keep["prompt"] & (condition.values["prompt"] > 0)
        assert self._x_t is not None
        here = self._x_t[condition.values["sample"].to(x_t.device)]
        if x_t.requires_grad or not torch.equal(here, x_t):
            anew = torch.ones_like(anew)
        return self._control.renewed(arguments, x, condition, anew) if bool(anew.any()) else arguments

    def output(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network would have returned for a prediction, [n, ...], as the pipeline expects it."""
        if self._last is not None and self._last[0] is prediction:
            output = self._last[1]  # one branch alone: its own bits
        else:
            output = level_at(self.schedule, t, x_t).mixing.target(prediction.x0, prediction.eps, self.objective)
        output = output.detach().to(self.call.x.dtype)
        missing = int(setting(self.network, "out_channels") or 0) - self.channels
        if missing > 0 and not self.wiring.packed:
            rest = self._rest if self._rest is not None else output.new_zeros(len(output), missing, *output.shape[2:])
            output = torch.cat([output, rest], 1)
        return packed(output) if self.wiring.packed else output

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values, for guidance that changes them."""
        more = self.feed.text(condition)
        kept = dict.fromkeys(more, condition.keep["prompt"])
        return replace(condition, values={**condition.values, **more}, keep={**condition.keep, **kept})

    def _keep_rest(self, rest: Tensor, condition: Condition) -> None:
        """The learned variance [rows, c, h, w] of the samples: that of their own prediction where it is evaluated."""
        sample = condition.values["sample"]
        own = torch.ones(len(rest), dtype=torch.bool)
        for mask in condition.perturb.values():
            own &= ~mask.cpu()
        for name, keep in condition.keep.items():
            own &= keep.cpu() if name != "sample" else True
        if "prompt" in condition.values:
            own &= condition.values["prompt"].cpu() == 0
        if self._rest is None:
            self._rest = rest.new_zeros(self.feed.halves.n, *rest.shape[1:])
            own = torch.ones_like(own) if not bool(own.any()) else own
            self._rest.index_copy_(0, sample.to(rest.device), rest)
        rows = own.nonzero()[:, 0].to(rest.device)
        self._rest.index_copy_(0, sample.to(rest.device)[rows], rest[rows])


def _size(ids: Tensor) -> tuple[int, int]:
    """Height and width of latents from the positions [..., 3] of their patches of 2 x 2."""
    last = ids.reshape(-1, ids.shape[-1]).amax(0)
    return 2 * (int(last[1]) + 1), 2 * (int(last[2]) + 1)


class BranchPredictor(Protocol):
    """A denoiser of a pipeline's calls that can ask another network of the same kind."""

    def predict(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction: ...


@dataclass(frozen=True, eq=False)
class Weak:
    """Another network of the same kind, named by a guidance; it sees the arguments of the pipeline's own."""

    network: Network
    beside: BranchPredictor | None = None

    def denoiser(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        assert self.beside is not None
        return self.beside.predict(self.network, x_t, t, condition)
