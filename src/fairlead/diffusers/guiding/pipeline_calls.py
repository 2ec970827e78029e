"""The call of a pipeline with a prompt and nothing else, and its ending, as rehearsals show them.

The pipeline's call is rehearsed once for every prompt, which gives the arguments of its network; how the network is
given the time is seen in the first steps. Images are what the pipeline returns when its scheduler answers every step
with given samples.

Over 300 lines, as what is learned of a call, and its ending, read the same rehearsals.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.call_arguments import (
    Rows,
    leaves,
    same,
    scaled_rows,
    stacked,
)
from fairlead.diffusers.guiding.encoder_memory import EncoderMemory
from fairlead.diffusers.guiding.pattern import Pattern, block_of, learned
from fairlead.diffusers.guiding.recorder import Path, RecordedCall, Recorder, Rehearsal
from fairlead.diffusers.guiding.rehearsal import OWN_PERTURBATION, Rehearsals, denoisers_of
from fairlead.diffusers.guiding.segments import Segment
from fairlead.diffusers.guiding.stand_in import standing_in
from fairlead.diffusers.pipelines import EXAMPLES, has_text_encoder
from fairlead.diffusers.pretrained import setting
from fairlead.diffusers.schedulers import objective_of

_STEPS = 4
"""Of the call that is rehearsed, of which three are seen."""


@dataclass(eq=False)
class PipelineCalls:
    """The call of a pipeline with a prompt and nothing else, as rehearsals show it.

    Attributes:
        kind: name of the pipeline's class.
        pattern: of a call for one sample.
        own: the network's call for the conditional prediction.
        sample: the samples of one image as the scheduler has them.
        times: argument -> (factor, offset) from the scheduler's time to what the network is given.
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
        ((name, network),) = networks.items()
        check_uncached(network, f"pipe.{name}")
        bound = _call_of(pipe, kind, network, size)
        objective_of(pipe.scheduler)  # refuses one whose noise levels are not known
        memory = EncoderMemory(pipe)
        with _rehearsing(pipe, (name,), memory) as rehearsals:
            pattern = learned(rehearsals, bound, _quiet(rehearsals))
            if pattern.n != 1 or pattern.in_turn or pattern.latents is None or pattern.output is None:
                what = "changes its network's answers before its scheduler sees them"
                if pattern.n != 1 or pattern.in_turn:
                    what = (
                        "makes several samples of one prompt" if pattern.n != 1 else "has two noisy samples in a step"
                    )
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
            return torch.cat([self._decoded(rehearsals, part) for part in torch.split(x0, 1)]).to(x0)

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
    needed = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD and n not in ("self", "prompt")
    ]
    if "prompt" not in parameters or needed:
        what = f"needs {needed[0]} beside the prompt" if needed else "takes no prompt"
        raise UsageError(f"{kind} {what}, which fl.sample does not have; use fl.attach on it")
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
            f"{type(pipe).__name__} cannot be called with a prompt alone ({reason}); give fl.load the size of its "
            "latents if its own is too large, or use fl.attach on it"
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
    """Argument -> (factor, offset) from the scheduler's timestep to what the network is given, from the first steps."""
    calls = [_conditional(steps, pattern, step) for step in range(len(steps.ends))]
    flats = [leaves(call.arguments, pattern.listed) for call in calls]
    timesteps = [float(t) for t in pipe.scheduler.timesteps[: len(flats)]]
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
        factor, offset = np.polyfit(timesteps, [float(n) for n in numbers if n is not None], 1)
        off = max(abs(factor * t + offset - float(n or 0)) for t, n in zip(timesteps, numbers, strict=True))
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
