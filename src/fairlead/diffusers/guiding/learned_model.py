"""A pipeline of any class as a Model: its calls are rehearsed, our samplers step, its own ending decodes.

The pipeline's call is rehearsed once for every prompt, which gives the arguments of its network; the noise level is put
in their place by what the first steps show. Images are what the pipeline returns when its scheduler answers every step
with given samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating, gradients_of
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.diffusers.caches import check_switched_off, check_uncached
from fairlead.diffusers.guiding.call_arguments import (
    Rows,
    asked_by_kind,
    leaves,
    nested_again,
    picked,
    same,
    scaled_rows,
    stacked,
)
from fairlead.diffusers.guiding.encoder_memory import EncoderMemory
from fairlead.diffusers.guiding.learned import denoisers_of
from fairlead.diffusers.guiding.learned_denoiser import image_tokens
from fairlead.diffusers.guiding.pattern import Pattern, Segment, block_of, learned
from fairlead.diffusers.guiding.recorder import Path, RecordedCall, Recorder, Rehearsal, output_of
from fairlead.diffusers.guiding.rehearsal import OWN_PERTURBATION, Rehearsals
from fairlead.diffusers.guiding.stand_in import standing_in
from fairlead.diffusers.network_calls import check_differentiable
from fairlead.diffusers.perturbation import check_reachable, layers_of, perturbing
from fairlead.diffusers.pipelines import EXAMPLES, diffusers, has_text_encoder
from fairlead.diffusers.pretrained import setting, weight_hash
from fairlead.diffusers.schedulers import is_flow, objective_of, schedule_of
from fairlead.models.model import Given, Model, Spec, listed, only_texts

_STEPS = 4
"""Of the call that is rehearsed, of which three are seen."""
_NULL = 0
_REMEMBERED = 256


def learned_model(pipe: Any, name: str, size: int | tuple[int, int] | None) -> Model:
    """A pipeline of text to image as a model.

    Args:
        name: for the metadata.
        size: height and width of its latents; None: of what it makes by default.

    Raises:
        UsageError: for pipelines that need more than a prompt, and those whose network is called in a way that can be
            followed inside a call only; ``fl.attach`` takes these.
    """
    calls = PipelineCalls.of(pipe, size)
    scheduler = pipe.scheduler
    schedule = schedule_of(scheduler, float(setting(scheduler, "shift", 1.0)) if is_flow(scheduler) else 1.0)
    objective = objective_of(scheduler)
    network = calls.own.network
    prompts = RehearsedPrompts(calls)
    denoiser = RehearsedNetwork(calls, prompts, schedule, objective)
    image = calls.image_shape
    return Model(
        denoiser=denoiser,
        schedule=schedule,
        shape=calls.shape,
        encode=prompts,
        decode=calls.decoded,
        conditions=("text",),
        examples=EXAMPLES,
        objective=objective,
        layers=layers_of(network),
        embed=prompts.embedded,
        metadata={
            "pipeline": name,
            "kind": calls.kind,
            "weights_hash": weight_hash(network),
            "objective": objective,
            "scheduler": type(scheduler).__name__,
            "diffusers": diffusers().__version__,
        },
        device=network.device,
        to_space=partial(_no_encoder, calls.kind),
        image_shape=image,
        reachable=partial(check_reachable, network),
    )


@dataclass(eq=False)
class PipelineCalls:
    """The call of a pipeline with a prompt and nothing else, as rehearsals show it.

    Attributes:
        kind: name of the pipeline's class.
        pattern: of a call for one sample.
        own: the network's call for the conditional prediction.
        times: argument -> (factor, offset) from the scheduler's time to what the network is told.
        rows: arguments with rows for each sample; None: not known, samples are evaluated one by one.
    """

    pipe: Any
    kind: str
    memory: EncoderMemory
    bound: inspect.BoundArguments
    pattern: Pattern
    own: RecordedCall
    sample: Any
    times: Mapping[Path, tuple[float, float]]
    rows: Rows | None

    @classmethod
    def of(cls, pipe: Any, size: int | tuple[int, int] | None) -> PipelineCalls:
        kind = type(pipe).__name__
        networks = denoisers_of(pipe)
        if len(networks) != 1 or not hasattr(pipe, "scheduler"):
            raise UsageError(
                f"{kind} has {len(networks)} networks that may denoise ({', '.join(networks) or 'none'}), and fl.load "
                "takes pipelines with one; use fl.attach on it"
            )
        for network in networks.values():
            check_uncached(network, f"pipe.{next(iter(networks))}")
        bound = _call_of(pipe, kind, next(iter(networks.values())), size)
        objective_of(pipe.scheduler)  # refuses one whose noise levels are not known
        memory = EncoderMemory(pipe)
        with _rehearsing(pipe, tuple(networks), memory) as rehearsals:
            pattern = learned(rehearsals, bound, _quiet(rehearsals))
            if pattern.n != 1 or pattern.latents is None or pattern.output is None:
                what = f"makes {pattern.n} samples of one prompt" if pattern.n != 1 else (
                    "changes its network's answers before its scheduler sees them"
                )  # fmt: skip
                raise UsageError(f"{kind} {what}, which fl.load cannot follow; use fl.attach on it")
            again = partial(_again, rehearsals, pattern)
            steps = again(bound, steps=_STEPS - 1)
            times = _times(pipe, steps, pattern, kind)
            two = _two(again, pattern, bound)
        own = _conditional(steps, pattern, 0)
        flats = [leaves(call.arguments, pattern.listed) for call in (own, two) if call is not None]
        rows = scaled_rows(flats[0], flats[1], 2, 1) if two is not None else None
        return cls(pipe, kind, memory, bound, pattern, own, steps.sample, times, rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the noisy samples, where the network has them."""
        region = self._region
        x = stacked(self.own.x)
        return tuple((x if region.dim is None else x.narrow(region.dim, 0, region.size)).shape[1:])

    @property
    def _region(self) -> Segment:
        assert self.pattern.latents is not None
        return replace(self.pattern.latents, factor=1.0)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of an image; () where it is not known before one is made."""
        given = self.bound.arguments
        video = "num_frames" in self.bound.signature.parameters
        if video or not all(isinstance(given.get(edge), int) for edge in ("height", "width")):
            return ()
        return 3, given["height"], given["width"]

    def arguments(self, prompt: str) -> RecordedCall:
        """The network's call for a prompt."""
        with _rehearsing(self.pipe, (self.own.name,), self.memory) as rehearsals:
            found = _conditional(_again(rehearsals, self.pattern, self.bound, prompt=prompt), self.pattern, 0)
        return found

    def null(self) -> Mapping[Path, Any]:
        """The arguments of the network's call for no prompt, those that the pipeline's own guidance has there."""
        pattern = self.pattern
        if pattern.null is None:
            return leaves(self.arguments("").arguments, pattern.listed)
        if pattern.count > 1:
            whole = replace(self.own, arguments=dict(pattern.form))
            return leaves(block_of(whole, pattern, pattern.null_at).arguments, pattern.listed)
        return {**leaves(self.own.arguments, pattern.listed), **pattern.null}

    def samples(self, x_t: Tensor) -> Any:
        """The network's argument for noisy samples [n, *shape]."""
        template = stacked(self.own.x)
        whole = self._region.put(x_t.to(template.dtype), template.expand(len(x_t), *template.shape[1:]))
        return list(whole) if isinstance(self.own.x, list) else whole

    def decoded(self, x0: Tensor) -> Tensor:
        """Samples [n, *shape] as images [n, 3, h, w] in [-1, 1], or frames [n, f, 3, h, w], by the pipeline's own
        ending. No gradient gets through."""
        if torch.is_grad_enabled() and x0.requires_grad:
            raise UsageError(
                f"{self.kind} decodes its samples in its own call, which no gradient gets through, so scores of images "
                "cannot guide it; use other terms"
            )
        with _rehearsing(self.pipe, (self.own.name,), self.memory) as rehearsals:
            return torch.cat([self._decoded(rehearsals, part) for part in x0.split(1)]).to(x0)

    def _decoded(self, rehearsals: Rehearsals, x0: Tensor) -> Tensor:
        like = self.sample
        samples = x0.reshape(like.shape).to(like) if isinstance(like, Tensor) else [part.to(x0.dtype) for part in x0]
        changes: dict[str, Any] = {**_quiet(rehearsals), **self.pattern.off}
        if "output_type" in rehearsals.signature.parameters:
            changes["output_type"] = "np"
        result = rehearsals.ending(self.bound, Recorder(self.pattern.answer, self.pattern.n), samples, **changes)
        return _image_tensor(result[0] if isinstance(result, tuple) else next(iter(result.values()))) * 2 - 1


def _image_tensor(made: Any) -> Tensor:
    """What a pipeline returns for one sample as a tensor in [0, 1], [1, 3, h, w] or [1, f, 3, h, w]."""
    if isinstance(made, list) and not isinstance(made[0], np.ndarray | Tensor | list):  # PIL
        made = np.stack([np.asarray(image) / 255.0 for image in made])
    if isinstance(made, list):
        made = np.stack([np.stack([np.asarray(frame) for frame in part]) for part in made])
    pixels = torch.as_tensor(np.asarray(made))
    return pixels.movedim(-1, -3).float()


def _call_of(pipe: Any, kind: str, network: Any, size: int | tuple[int, int] | None) -> inspect.BoundArguments:
    """The arguments of a call with a prompt and nothing else."""
    signature = inspect.signature(type(pipe).__call__)
    parameters = signature.parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and n not in ("self", "prompt")]
    needed = [n for n in needed if parameters[n].kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD,)]
    if "prompt" not in parameters or needed:
        what = f"needs {needed[0]} beside the prompt" if needed else "takes no prompt"
        raise UsageError(f"{kind} {what}, which fl.sample has not; use fl.attach on it")
    if not has_text_encoder(pipe):
        raise UsageError(f"{kind} has no text encoder, so prompts cannot be encoded; load it with one")
    given: dict[str, Any] = {"prompt": EXAMPLES[0]}
    if "num_inference_steps" in parameters:
        given["num_inference_steps"] = _STEPS
    if {"height", "width"} <= set(parameters):
        edges = _pixels(pipe, network, parameters, kind, size)
        given |= {} if edges is None else {"height": edges[0], "width": edges[1]}
        given |= (
            {"use_resolution_binning": False} if size is not None and "use_resolution_binning" in parameters else {}
        )
    elif size is not None:
        raise UsageError(f"size: {kind} makes images of one size only; leave it out")
    return signature.bind(pipe, **given)


def _pixels(
    pipe: Any,
    network: Any,
    parameters: Mapping[str, inspect.Parameter],
    kind: str,
    size: int | tuple[int, int] | None,
) -> tuple[int, int] | None:
    """Height and width of the images, those that the call has by default; None where these are not known."""
    factor = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None)
    if size is not None:
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or min(pair) < 1 or not isinstance(factor, int):
            raise UsageError(f"size: expected the height and width of the latents of {kind}, got {size!r}")
        return pair[0] * factor, pair[1] * factor
    defaults = parameters["height"].default, parameters["width"].default
    if all(isinstance(edge, int) for edge in defaults):
        return defaults
    own = getattr(pipe, "default_sample_size", None) or setting(network, "sample_size")
    return (own * factor, own * factor) if isinstance(own, int) and isinstance(factor, int) else None


@contextmanager
def _rehearsing(pipe: Any, names: tuple[str, ...], memory: EncoderMemory) -> Iterator[Rehearsals]:
    """Rehearsals of a pipeline, which is after the block what it was."""
    kept, call = [(part, dict(vars(part))) for part in (pipe, pipe.scheduler)], type(pipe).__call__
    try:
        with torch.no_grad(), standing_in(pipe, (*names, *memory.names), _NoBlock()):
            yield Rehearsals(pipe, call, memory)
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a pipeline raises for a call with a prompt alone
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(
            f"{type(pipe).__name__} cannot be called with a prompt alone ({reason}); use fl.attach on it"
        ) from error
    finally:
        for part, state in kept:
            vars(part).clear()
            vars(part).update(state)


class _NoBlock:
    """Nothing guides a pipeline that is only rehearsed."""

    def call(self, original: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any:
        return original(pipe, *args, **kwargs)


def _quiet(rehearsals: Rehearsals) -> dict[str, Any]:
    """Changes that switch off what a pipeline perturbs by itself."""
    return {name: 0.0 for name in OWN_PERTURBATION if name in rehearsals.signature.parameters}


def _again(
    rehearsals: Rehearsals, pattern: Pattern, bound: inspect.BoundArguments, steps: int = 1, **changes: Any
) -> Rehearsal:
    """A rehearsal with the pipeline's own guidance off; no network is evaluated."""
    recorder = Recorder(pattern.answer, pattern.calls[0].rows)
    return rehearsals.run(bound, recorder, steps, **{**_quiet(rehearsals), **pattern.off, **changes})


def _conditional(found: Rehearsal, pattern: Pattern, step: int) -> RecordedCall:
    """The call of the conditional prediction in a step."""
    call = found.calls[[0, *found.ends][step]]
    always = call.rows > pattern.n and call.rows == pattern.count * pattern.n
    return block_of(call, pattern, pattern.own_at) if always else call


def _two(again: Callable[..., Rehearsal], pattern: Pattern, bound: inspect.BoundArguments) -> RecordedCall | None:
    """The network's call for two prompts at once; None for a pipeline that does not take two."""
    prompt = bound.arguments["prompt"]
    try:
        found = again(bound, prompt=[prompt, prompt])
    except Exception:  # whatever a pipeline raises that takes one prompt only
        return None
    call = found.calls[0]
    always = call.rows > 2
    return block_of(call, replace(pattern, n=2), pattern.own_at) if always else call


def _times(pipe: Any, steps: Rehearsal, pattern: Pattern, kind: str) -> dict[Path, tuple[float, float]]:
    """Argument -> (factor, offset) from the scheduler's timestep to what the network is told, from the first steps."""
    calls = [_conditional(steps, pattern, step) for step in range(len(steps.ends))]
    flats = [leaves(call.arguments, pattern.listed) for call in calls]
    told = [float(t) for t in pipe.scheduler.timesteps[: len(flats)]]
    found: dict[Path, tuple[float, float]] = {}
    for path, value in flats[0].items():
        if path == (steps.calls[0].sample,) or all(same(value, flat.get(path)) for flat in flats[1:]):
            continue
        numbers = [_number(flat.get(path)) for flat in flats]
        if any(number is None for number in numbers):
            raise UsageError(
                f"{kind} passes its network {'.'.join(map(str, path))}, which changes from step to step in a way that "
                "fl.load cannot follow; use fl.attach on it"
            )
        factor, offset = np.polyfit(told, [float(n) for n in numbers if n is not None], 1)
        off = max(abs(factor * t + offset - float(n or 0)) for t, n in zip(told, numbers, strict=True))
        if off > 1e-2 * max(abs(float(n or 0)) for n in numbers):
            raise UsageError(
                f"{kind} passes its network {'.'.join(map(str, path))}, which is no multiple of the scheduler's "
                "timestep; use fl.attach on it"
            )
        found[path] = float(factor), float(offset)
    return found


def _number(value: Any) -> float | None:
    """The one number that a tensor holds."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() and bool((value == value.flatten()[0]).all()):
        return float(value.flatten()[0])
    return None


class RehearsedPrompts:
    """Prompts -> Condition of their numbers; null is what the pipeline's own guidance takes for it. The arguments of
    the network for a prompt are those of a rehearsal, and are remembered."""

    __repr__ = brief

    def __init__(self, calls: PipelineCalls) -> None:
        self.calls = calls
        self._numbers: dict[str, int] = {}
        self._known: dict[int, tuple[Mapping[str, Any], Mapping[Path, Any]]] = {}
        self._null = calls.null()
        own = leaves(calls.own.arguments, calls.pattern.listed)
        other = leaves(calls.arguments(EXAMPLES[1]).arguments, calls.pattern.listed)
        texts = [p for p, v in own.items() if p not in calls.times and p != (calls.own.sample,)]
        self._texts = [p for p in texts if not (same(own[p], other.get(p)) and same(own[p], self._null.get(p)))]

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        """Raises UsageError for a spec that is no text."""
        named = [self.named(spec) for spec in listed(specs)]
        numbers = [_NULL if prompt is None else self._number_of(prompt) for prompt in named]
        keep = torch.tensor([prompt is not None for prompt in named])
        return Condition(len(named), {"prompt": torch.tensor(numbers)}, {"prompt": keep})

    def named(self, spec: Given) -> str | None:
        return only_texts("takes prompts, write one as text", spec)

    def _number_of(self, prompt: str) -> int:
        number = self._numbers.setdefault(prompt, len(self._numbers) + 1)
        self.of(number)  # encoded before sampling starts
        return number

    def of(self, number: int) -> tuple[Mapping[str, Any], Mapping[Path, Any]]:
        """The arguments of the network for a prompt by its number, nested and by path; 0 is null."""
        if number == _NULL:
            return self.calls.own.arguments, self._null
        if number not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            prompt = next(text for text, known in self._numbers.items() if known == number)
            call = self.calls.arguments(prompt)
            self._known[number] = call.arguments, leaves(call.arguments, self.calls.pattern.listed)
        return self._known[number]

    def numbers(self, condition: Condition) -> list[int]:
        """Of every row, the number of its prompt."""
        keep, numbers = condition.keep["prompt"].tolist(), condition.values["prompt"].tolist()
        return [int(number) if kept else _NULL for kept, number in zip(keep, numbers, strict=True)]

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values, for guidance that changes them; as it is where prompts have
        embeddings of different lengths."""
        parts = [self.of(number)[1] for number in self.numbers(condition)]
        values: dict[str, Tensor] = {}
        for path in self._texts:
            rows = [part.get(path) for part in parts]
            tensors = [row for row in rows if isinstance(row, Tensor) and row.is_floating_point() and len(row) == 1]
            alike = len(tensors) == len(parts) and all(row.shape == tensors[0].shape for row in tensors)
            if len(path) == 1 and alike and tensors:
                values[str(path[0])] = torch.cat(tensors)
        kept = dict.fromkeys(values, condition.keep["prompt"])
        return replace(condition, values={**condition.values, **values}, keep={**condition.keep, **kept})


class RehearsedNetwork:
    """A pipeline's network as a denoiser of conditions by :class:`RehearsedPrompts`."""

    counts = True

    def __init__(
        self, calls: PipelineCalls, prompts: RehearsedPrompts, schedule: NoiseSchedule, objective: Any
    ) -> None:
        self.calls, self.prompts, self.schedule, self.objective = calls, prompts, schedule, objective
        self.network = calls.own.network

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        check_switched_off(self.network, f"pipe.{self.calls.own.name}")
        if torch.is_grad_enabled() and x_t.requires_grad:
            check_differentiable(self.network)
        level = level_at(self.schedule, as_time(t), x_t)
        told = 1000 * level.mixing.sigma.float() if self.objective == "flow" else level.time
        timestep = told.reshape(-1).expand(len(x_t))

        def arguments(number: int, rows: list[int]) -> dict[Path, Any]:
            return self._arguments(number, rows, x_t, timestep, condition)

        def ask(number: int, flat: Mapping[Path, Any], rows: Tensor | None) -> Tensor:
            return self._asked(number, flat, x_t, condition if rows is None else condition[rows])

        with evaluating(self.network), gradients_of(x_t, *condition.values.values()):
            if self.calls.rows is None or self._uneven(timestep):
                parts = [ask(n, arguments(n, [i]), torch.tensor([i])) for i, n in enumerate(self._kinds(condition))]
                output = torch.cat(parts)
            else:
                output = asked_by_kind(self._kinds(condition), arguments, ask, self._rows)
        tally(len(x_t))
        assert self.calls.pattern.output is not None
        output = self.calls.pattern.output.of(output).to(x_t.dtype).reshape(x_t.shape)
        mixing = level.mixing
        return Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))

    def _kinds(self, condition: Condition) -> list[int]:
        return self.prompts.numbers(condition)

    @property
    def _rows(self) -> Rows:
        return {(self.calls.own.sample,): 0, **(self.calls.rows or {})}

    def _uneven(self, timestep: Tensor) -> bool:
        """Whether rows differ in their time, where the network takes one for all."""
        shared = any(path not in self._rows for path in self.calls.times)
        return shared and bool((timestep != timestep[0]).any())

    def _arguments(
        self, number: int, rows: list[int], x_t: Tensor, timestep: Tensor, condition: Condition
    ) -> dict[Path, Any]:
        calls, flat = self.calls, dict(self.prompts.of(number)[1])
        for path, dim in (calls.rows or {}).items():
            if path in flat:
                flat[path] = picked(flat[path], [0] * len(rows), 1, dim)
            if len(path) == 1 and path[0] in condition.values:  # embeddings that guidance has changed
                flat[path] = condition.values[str(path[0])][rows].to(flat[path])
        flat[(calls.own.sample,)] = calls.samples(x_t[rows].to(device=self.network.device))
        for path, (factor, offset) in calls.times.items():
            flat[path] = _like(factor * timestep[rows] + offset, flat[path])
        return flat

    def _asked(self, number: int, flat: Mapping[Path, Any], x_t: Tensor, condition: Condition) -> Tensor:
        arguments = nested_again(self.prompts.of(number)[0], self.calls.pattern.listed, flat)
        with perturbing(self.network, condition.perturb, image_tokens(self.network, x_t)):
            answer = self.network(**arguments, return_dict=not self.calls.own.as_tuple)
        output: Tensor = stacked(output_of(answer))
        return output


def _like(times: Tensor, known: Any) -> Any:
    """Times [rows] in the form of an argument with one entry for each row, or one for all."""
    if not isinstance(known, Tensor):
        return float(times[0])
    own = times.to(known.device, known.dtype if known.is_floating_point() else times.dtype)
    return own.reshape(-1, *[1] * (known.ndim - 1)).expand(known.shape) if known.ndim else own[0]


def _no_encoder(kind: str, images: Tensor) -> Tensor:
    raise UsageError(f"how {kind} encodes images as latents is not known, so errors on real images are not measured")
