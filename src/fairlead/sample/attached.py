"""One call of a pipeline under guidance: its network calls, answered by the executor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like, level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction
from fairlead.core.schedule import NoiseSchedule
from fairlead.guide.algebra import NULL, Guidance
from fairlead.guide.executor import Batching, GuidedDenoiser, Observation
from fairlead.guide.seen import Surroundings
from fairlead.models.levels import Levels, level_after, objective_of, position_of
from fairlead.models.model import LabelEncoder, Spec
from fairlead.models.perturbed import Tokens, perturbing, plain
from fairlead.models.pipelines import Wiring, latent_channels, packed, time_scale, tokens_of, unpacked
from fairlead.sample.feed import Feed, Halves, samples_condition
from fairlead.sample.noise import NoiseStream

Network = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Request:
    """What a call of the pipeline asked for, checked.

    Attributes:
        arguments: of the pipeline's call, with its defaults.
        doubled: whether the pipeline assembles a null and a conditional half.
        null: text argument -> null rows, where the batch will not have them.
        named: the prompts that the guidance names -> text argument -> one row.
        without_null: why null rows cannot be had, where they cannot.
        negative: how a negative was given, which then has to be used; "" if none was.
        empty: whether the prompt stands for no condition at all.
    """

    arguments: Mapping[str, Any]
    doubled: bool
    null: Mapping[str, Tensor] = field(default_factory=dict)
    named: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    without_null: str = ""
    negative: str = ""
    empty: bool = False


class PipelineRun:
    """Answers the network calls of one call of a pipeline; holds its state, so make a new one for each.

    Args:
        pipe: the pipeline.
        wiring: how it calls its network.
        guidance: what to do.
        around: what is known of the pipeline before the call.
        request: what this call asked for.
        batching: as of :class:`GuidedDenoiser`.
        observe: likewise.
    """

    def __init__(
        self,
        pipe: Any,
        wiring: Wiring,
        guidance: Guidance,
        around: Surroundings,
        request: Request,
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self.pipe, self.wiring, self.guidance, self.around, self.request = pipe, wiring, guidance, around, request
        self.batching, self.observe = batching, observe
        self.guided: GuidedDenoiser | None = None
        self.control: ControlCall | None = None

    def answer(self, network: Network, *args: Any, **kwargs: Any) -> Any:
        """What the network returns to the pipeline: the guided prediction in every half of its batch."""
        call = NetworkCall.of(network, args, kwargs)
        rows = len(call.x)
        n = rows // 2 if self.request.doubled else rows
        position = position_of(self.pipe.scheduler, call.timestep, time_scale(network, self.wiring))
        if self.guided is None:
            if self.request.doubled and rows % 2:
                raise UsageError(f"{type(self.pipe).__name__} called its network with {rows} rows, expected two halves")
            self._begin(call, n, position)
        assert self.guided is not None
        denoiser: PipelineDenoiser = self.guided.denoiser  # type: ignore[assignment]
        x_t = denoiser.receive(call, self.control)
        t = self.levels.time(self.around.schedule, position)
        step = (position - self.start) // self.levels.stages
        prediction = self.guided.at(step)(x_t, t, self.guided.condition)
        output = denoiser.output(self._tied(prediction, x_t, t, position), x_t, t)
        return call.answered(torch.cat([output, output]) if self.request.doubled else output)

    def _begin(self, call: NetworkCall, n: int, position: int) -> None:
        scheduler, schedule = self.pipe.scheduler, self.around.schedule
        self.start, self.levels = position, Levels.of(scheduler)
        halves = Halves(n, 1 - self.wiring.null_half, self.wiring.null_half) if self._two_halves() else Halves(n)
        if halves.null is not None:
            halves = Halves(n, halves.own * n, halves.null * n)
        specs = list(self.request.named)
        texts = tuple(self.wiring.texts or ())
        named = {path: [rows[path] for rows in self.request.named.values()] for path in texts} if specs else {}
        feed = Feed(halves, self.request.null, named, texts)
        denoiser = PipelineDenoiser(call.network, self.wiring, schedule, objective_of(scheduler), feed)
        x_t = denoiser.receive(call, self.control)
        encoder = self._encoder(call.network, specs)
        condition = encoder.own(n, call.arguments.get("class_labels"), self.request.empty, halves)
        resources = {
            name: replace_network(thing, denoiser) if isinstance(thing, Weak) else thing
            for name, thing in self.around.resources.items()
        }
        self.around = replace(
            self.around,
            shape=tuple(x_t.shape[1:]),
            encode=encoder,
            embed=denoiser.embedded if texts else None,
            resources=resources,
            draw=self._draw(n),
        )
        times = self.levels.times(schedule, position)
        self.guided = GuidedDenoiser(
            denoiser,
            self.guidance,
            schedule,
            condition,
            around=self.around,
            times=times,
            batching=self.batching,
            observe=self.observe,
        )
        self._check_null(halves)

    def _two_halves(self) -> bool:
        return self.request.doubled and self.wiring.null_half is not None

    def _check_null(self, halves: Halves) -> None:
        """Null rows that a later step wants must be there, and a negative that was given must be wanted."""
        assert self.guided is not None
        guided, grid = self.guided, self.guided.grid
        assert grid is not None
        null = guided._kept(NULL)
        wanted = null == NULL and any(null in guided.needed(guided._step(i)) for i in range(grid.steps))
        if self.wiring.texts and wanted and halves.null is None and not self.request.null:
            raise UsageError(f"{self.guidance} asks for the null prediction, but {self.request.without_null}")
        if self.request.negative and not wanted:
            raise UsageError(
                f"{self.request.negative} was given, but {self.guidance} never looks at it in the steps of this run; "
                "leave it out"
            )

    def _encoder(self, network: Network, specs: Sequence[Spec]) -> Encoder:
        if self.wiring.labels:
            return LabelSpecs(LabelEncoder(self.around.classes))
        if self.wiring.texts:
            return PromptSpecs(specs)
        return NoSpecs()

    def _draw(self, n: int) -> Callable[[int, tuple[int, ...]], Tensor]:
        seeds = seeds_of(self.request.arguments.get("generator"), n)
        return lambda number, shape: NoiseStream(seeds, shape).extra(number)

    def _tied(self, prediction: Prediction, x_t: Tensor, t: Tensor, position: int) -> Prediction:
        """A prediction whose eps is another than that of its x0, as the one whose first-order step leads to the same x.

        x' = alpha' x0 + sigma' eps with eps free becomes a step with eps = (x - alpha x0) / sigma.
        """
        if not self.guidance.unties():
            return prediction
        level = level_at(self.around.schedule, t, x_t)
        own = Prediction.from_x0(prediction.x0, x_t, level.alpha, level.sigma)
        ratio = level_after(self.pipe.scheduler, self.levels, position)
        # in units of alpha': x0 counts 1 - ratio' alpha / sigma, and eps ratio'
        gain = ratio / (1 - ratio * level.alpha / level.sigma)
        return Prediction.from_x0(prediction.x0 + gain * (prediction.eps - own.eps), x_t, level.alpha, level.sigma)


@dataclass(eq=False)
class NetworkCall:
    """A call of a network as the pipeline made it: ``arguments`` are those beside the sample, the time and the form of
    the answer."""

    network: Network
    names: tuple[str, str]
    x: Tensor
    timestep: Any
    arguments: dict[str, Any]
    as_tuple: bool
    answer: Any = None

    @classmethod
    def of(cls, network: Network, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NetworkCall:
        parameters = list(inspect.signature(type(plain(network)).forward).parameters)[1:]
        named = dict(zip(parameters, args, strict=False)) | dict(kwargs)
        x, timestep = named.pop(parameters[0]), named.pop("timestep", None)
        as_tuple = not named.pop("return_dict", True)
        return cls(network, (parameters[0], "timestep"), x, timestep, named, as_tuple)

    def again(self, x: Tensor, arguments: Mapping[str, Any], network: Network | None = None) -> Tensor:
        """The network's output for other rows at the same time."""
        time = self.timestep
        if isinstance(time, Tensor) and time.ndim and len(time) == len(self.x) != len(x):
            time = time[:1].expand(len(x))
        given = {self.names[0]: x, self.names[1]: time, **arguments}
        self.answer = (network or self.network)(**given, return_dict=not self.as_tuple)
        output: Tensor = self.answer[0]
        return output

    def answered(self, output: Tensor) -> Any:
        """The output in the form of the network's own answer."""
        return (output,) if self.as_tuple else type(self.answer)(sample=output)


@dataclass(eq=False)
class ControlCall:
    """The last call of a ``controlnet`` component, and the arguments of the network that its answer became."""

    call: NetworkCall


class PipelineDenoiser:
    """The pipeline's network as a denoiser, with the arguments of the network call that the pipeline makes now."""

    def __init__(
        self, network: Network, wiring: Wiring, schedule: NoiseSchedule, objective: Objective, feed: Feed
    ) -> None:
        self.network, self.wiring, self.schedule, self.objective = network, wiring, schedule, objective
        self.feed = feed
        self.channels = latent_channels(network, wiring)
        self.call: NetworkCall | None = None
        self._control: ControlCall | None = None
        self._stacked: Tensor | None = None
        self._rest: Tensor | None = None
        self._last: tuple[Prediction, Tensor] | None = None
        self._x: Tensor | None = None

    def receive(self, call: NetworkCall, control: ControlCall | None) -> Tensor:
        """Take over a call of the pipeline; its noisy samples, one row each, [n, c, h, w] in float64."""
        self.call, self._control, self._rest, self._last = call, control, None, None
        self.feed.arguments = call.arguments
        halves = self.feed.halves
        x = call.x[halves.own : halves.own + halves.n]
        if self.wiring.packed:
            ids = call.arguments["img_ids"].reshape(-1, call.arguments["img_ids"].shape[-1])
            size = 2 * (int(ids[:, 1].max()) + 1), 2 * (int(ids[:, 2].max()) + 1)
            x = unpacked(x, size)
        self._stacked = call.x[:, self.channels :] if not self.wiring.packed and call.x.shape[1] > self.channels else None
        x = x[:, : self.channels]
        # at low noise eps is a small difference of large numbers; one device has no float64
        self._x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
        return self._x

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return self.predict(self.network, x_t, t, condition)

    def predict(self, network: Network, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        call = self.call
        assert call is not None
        x = x_t.to(call.x.dtype)
        if self._stacked is not None:
            x = torch.cat([x, self.feed.picked(self._stacked, condition)], 1)
        arguments = self.feed.of(condition)
        if "class_labels" in arguments and "label" in condition.values:
            labels, keep = condition.values["label"], condition.keep["label"]
            null = int(plain(network).config["num_embeds_ada_norm"])
            arguments["class_labels"] = torch.where(keep, labels, null).to(x.device)
        tokens = tokens_of(network, (x_t.shape[-2], x_t.shape[-1]), self.wiring)
        with perturbing(network, condition.perturb, tokens):
            output = call.again(packed(x) if self.wiring.packed else x, arguments, network)
        tally(len(x_t))
        if self.wiring.packed:
            output = unpacked(output, (x_t.shape[-2], x_t.shape[-1]))
        output, rest = output[:, : self.channels].to(x_t.dtype), output[:, self.channels :]
        if network is self.network and rest.shape[1]:
            self._keep_rest(rest, condition)
        level = level_at(self.schedule, t, x_t)
        prediction = Prediction.from_output(output, self.objective, x_t, level.alpha, level.sigma)
        self._last = prediction, output
        return prediction

    def output(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network would have returned for a prediction, [n, ...], as the pipeline expects it."""
        call = self.call
        assert call is not None
        if self._last is not None and self._last[0] is prediction:
            output = self._last[1]  # one branch alone: its own bits
        else:
            level = level_at(self.schedule, t, x_t)
            output = prediction.output(self.objective, level.alpha, level.sigma)
        output = output.to(call.x.dtype)
        if self._rest is not None:
            output = torch.cat([output, self._rest], 1)
        return packed(output) if self.wiring.packed else output

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values."""
        more = self.feed.text(condition)
        return replace(
            condition,
            values={**condition.values, **more},
            keep={**condition.keep, **{name: condition.keep["prompt"] for name in more}},
        )

    def _keep_rest(self, rest: Tensor, condition: Condition) -> None:
        """The learned variance [n, c, h, w] of the samples: that of their own condition where it is evaluated."""
        n = self.feed.halves.n
        sample = condition.values["sample"]
        first = self._rest is None
        if self._rest is None:
            self._rest = rest.new_zeros(n, *rest.shape[1:])
        if first:
            self._rest.index_copy_(0, sample.to(rest.device), rest.detach())
        worse = torch.zeros(len(rest), dtype=torch.bool)
        for mask in condition.perturb.values():
            worse |= mask.cpu()
        names = [name for name in condition.keep if name != "sample"]
        own = ~worse
        for name in names:
            own &= condition.keep[name].cpu()
        if "prompt" in condition.values:
            own &= condition.values["prompt"].cpu() == 0
        rows = own.nonzero()[:, 0]
        self._rest.index_copy_(0, sample[rows].to(rest.device), rest.detach()[rows.to(rest.device)])


@dataclass(frozen=True, eq=False)
class Weak:
    """Another network of the same kind, named by a guidance; it sees the arguments of the pipeline's own."""

    network: Network
    denoiser: Callable[[Tensor, Tensor, Condition], Prediction] | None = None


def replace_network(weak: Weak, denoiser: PipelineDenoiser) -> Weak:
    return replace(weak, denoiser=lambda x_t, t, condition: denoiser.predict(weak.network, x_t, t, condition))


# conditions


class Encoder:
    """Specs that a guidance names -> conditions, and the run's own condition."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        raise NotImplementedError

    def own(self, n: int, labels: Tensor | None, empty: bool, halves: Halves) -> Condition:
        raise NotImplementedError


@dataclass(frozen=True)
class PromptSpecs(Encoder):
    """Prompts by name: ``prompt`` is 0 for a sample's own and i for the i-th of ``known``."""

    known: Sequence[Spec]

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        places = torch.tensor([0 if spec is None else 1 + list(self.known).index(spec) for spec in specs])
        keep = torch.tensor([spec is not None for spec in specs])
        return samples_condition(len(specs), prompt=(places, keep))

    def own(self, n: int, labels: Tensor | None, empty: bool, halves: Halves) -> Condition:
        keep = torch.full((n,), not empty)
        return samples_condition(n, prompt=(torch.zeros(n, dtype=torch.long), keep))


@dataclass(frozen=True)
class LabelSpecs(Encoder):
    labels: LabelEncoder

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        made = self.labels(specs)
        return samples_condition(len(specs), label=(made.values["label"], made.keep["label"]))

    def own(self, n: int, labels: Tensor | None, empty: bool, halves: Halves) -> Condition:
        assert labels is not None
        mine = labels[halves.own : halves.own + n].cpu().long()
        keep = mine < len(self.labels.classes)
        return samples_condition(n, label=(mine.where(keep, 0), keep))


@dataclass(frozen=True)
class NoSpecs(Encoder):
    def __call__(self, specs: Sequence[Spec]) -> Condition:
        given = [spec for spec in specs if spec is not None]
        if given:
            raise UsageError(f"this pipeline is unconditional, but the guidance names the condition {given[0]!r}")
        return samples_condition(len(specs))

    def own(self, n: int, labels: Tensor | None, empty: bool, halves: Halves) -> Condition:
        return samples_condition(n)


def seeds_of(generator: Any, n: int) -> tuple[int, ...]:
    """A seed for every sample, for guidance that draws noise: from the generators of the call, else from torch's seed.
    No generator is advanced."""
    if isinstance(generator, list | tuple):
        return tuple(int(g.initial_seed()) % 2**63 for g in generator)
    first = torch.initial_seed() if generator is None else generator.initial_seed()
    return tuple((int(first) + i) % 2**63 for i in range(n))


__all__ = ["ControlCall", "NetworkCall", "PipelineRun", "Request", "Tokens", "Weak", "expand_like"]
