"""How a pipeline calls its network, learned from one step of it.

A rehearsal runs the pipeline's own call up to its first scheduler step, with a recording network in the place of its
own. Random states are put back, callbacks and progress bars do not run, and the network is evaluated once at most: the
other answers are made up. Two rehearsals, at the call's own guidance scale and with guidance switched off, show which
calls and which rows belong to the conditional and to the null prediction, and which arguments differ between them.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.stand_in import running
from fairlead.diffusers.perturbation import plain
from fairlead.diffusers.pretrained import library

Path = tuple[str | int, ...]
_TRUE_SCALES = ("true_cfg_scale", "true_guidance_scale")
_SCALES = (
    "guidance_scale", "guidance_scale_2", "prior_guidance_scale", "text_guidance_scale", "audio_guidance_scale",
    "min_guidance_scale", "max_guidance_scale", "cfg_scale",
)  # fmt: skip
_QUIET = ("callback", "callback_on_step_end")
OWN_PERTURBATION = ("pag_scale", "pag_adaptive_scale")
"""Arguments of pipelines that perturb attention by themselves."""
GUIDER = "fairlead guider"
"""In the place of an argument: the scale of the pipeline's component ``guider``."""
FORCED = 5.0
"""The scale of a rehearsal where the call's own would not guide."""


class FirstStep(BaseException):
    """Ends a rehearsal at its first scheduler step; no handler of the pipeline's own catches it."""


@dataclass(eq=False)
class RecordedCall:
    """A call of a network as the pipeline made it.

    Attributes:
        name: of the component.
        sample: name of the argument with the noisy samples.
        arguments: all that were passed, by name, but ``return_dict``.
        as_tuple: whether the answer was asked for as a tuple.
    """

    name: str
    network: Any
    sample: str
    arguments: dict[str, Any]
    as_tuple: bool

    @classmethod
    def of(cls, name: str, network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RecordedCall:
        kind: Any = type(plain(network))
        parameters = _parameters(kind)
        named = dict(zip(parameters, args, strict=False)) | dict(kwargs)
        as_tuple = not named.pop("return_dict", True)
        return cls(name, network, parameters[0], named, as_tuple)

    @property
    def x(self) -> Any:
        """The noisy samples: a tensor, or a list with one for each."""
        return self.arguments[self.sample]

    @property
    def rows(self) -> int:
        return len(self.x)


@lru_cache(maxsize=64)
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@dataclass(eq=False)
class Rehearsal:
    """One step of a pipeline.

    Attributes:
        calls: of its network, in order.
        answer: what the first of them returned.
        output: what reached the scheduler.
        sample: the samples that the scheduler was to step.
        made: the made-up answers, one for each block of rows, in order.
    """

    calls: list[RecordedCall] = field(default_factory=list)
    answer: Any = None
    output: Any = None
    sample: Any = None
    made: list[Any] = field(default_factory=list)


class Recorder:
    """Answers a pipeline's network calls in a rehearsal.

    Args:
        template: the answer to a call at guidance off, of ``rows`` rows; None: the network is asked, once.
    """

    def __init__(self, template: Any = None, rows: int = 0) -> None:
        self.found = Rehearsal(answer=template)
        self.rows = rows

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        call = RecordedCall.of(name, network, args, kwargs)
        self.found.calls.append(call)
        if self.found.answer is None:
            with torch.no_grad():
                self.found.answer, self.rows = network.forward(*args, **kwargs), call.rows
            if not answers_alone(self.found.answer):
                raise FirstStep
            return self.found.answer
        blocks = max(1, call.rows // max(1, self.rows))
        output, made = output_of(self.found.answer), self.found.made
        made += [_made_up(output, len(made) + j) for j in range(blocks)]
        return with_output(self.found.answer, _together(made[-blocks:]), call)


def _made_up(output: Any, seed: int) -> Any:
    """Another answer of the same form, for a block of rows of its own."""
    if isinstance(output, list):
        return [_made_up(value, seed) for value in output]
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    return output + noise * output.float().std().clamp(min=1e-3).to(output) if output.numel() > 1 else output + noise


def output_of(answer: Any) -> Any:
    """The output of a network's answer: a tensor, or a list of tensors with one for each sample."""
    if isinstance(answer, Tensor):
        return answer
    return answer[0]


def answers_alone(answer: Any) -> bool:
    """Whether a network's answer is one tensor, or one list of them, and nothing beside."""
    if isinstance(answer, Tensor):
        return True
    if not isinstance(answer, tuple) and not hasattr(answer, "keys"):
        return False
    values = list(answer) if isinstance(answer, tuple) else list(answer.values())
    output = values[0] if values else None
    alone = all(v is None for v in values[1:])
    listed = isinstance(output, list) and bool(output) and all(isinstance(v, Tensor) for v in output)
    return alone and (isinstance(output, Tensor) or listed)


def with_output(answer: Any, output: Any, call: RecordedCall) -> Any:
    """An output in the form of the network's own answer."""
    if isinstance(answer, Tensor):
        return output
    if isinstance(answer, tuple) or call.as_tuple:
        return (output, *(answer[1:] if isinstance(answer, tuple) else ()))
    return type(answer)(**{next(iter(answer.keys())): output})


def _together(parts: Sequence[Any]) -> Any:
    return [value for part in parts for value in part] if isinstance(parts[0], list) else torch.cat(list(parts))


def scales_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the arguments of a pipeline's call that say how much it guides by itself."""
    true = tuple(name for name in _TRUE_SCALES if name in parameters)
    return true or tuple(name for name in _SCALES if name in parameters)


class Rehearsals:
    """Rehearses calls of one pipeline.

    Args:
        pipe: the pipeline, its networks stood in for.
        call: its own ``__call__``, unguided.
    """

    def __init__(self, pipe: Any, call: Callable[..., Any]) -> None:
        self.pipe, self.call = pipe, call
        self.signature = inspect.signature(call)
        self._scales = scales_of(self.signature.parameters)

    def run(self, bound: inspect.BoundArguments, recorder: Recorder, **changes: Any) -> Rehearsal:
        """One rehearsal, with ``changes`` to the arguments of the call.

        Raises:
            UsageError: if the pipeline ends without a step of its scheduler.
        """
        scale = changes.pop(GUIDER, None)
        changes |= {name: None for name in _QUIET if name in self.signature.parameters}
        given = type(bound.arguments)(bound.arguments) | changes
        arguments = inspect.BoundArguments(self.signature, {k: given[k] for k in self._ordered(given)})
        kept, quiet = random_states_kept(given.get("generator")), _without_bar(self.pipe)
        with kept, quiet, self._stopping(recorder.found), guider_at(self.pipe, scale):
            try:
                with running(self.pipe, recorder):
                    self.call(*arguments.args, **arguments.kwargs)
            except FirstStep:
                return recorder.found
        raise UsageError(
            f"{type(self.pipe).__name__} ended without a step of its scheduler, so how it guides cannot be seen; "
            "attach to the pipeline inside it that denoises"
        )

    def _ordered(self, given: Mapping[str, Any]) -> list[str]:
        return [name for name in self.signature.parameters if name in given]

    def scales(self, bound: inspect.BoundArguments) -> list[str]:
        """Its arguments that say how much it guides, but those that it leaves out by default."""
        defaults = self.signature.parameters
        return [name for name in self._scales if bound.arguments.get(name, defaults[name].default) is not None]

    def off(self, bound: inspect.BoundArguments, value: float) -> dict[str, Any]:
        """Changes that switch the pipeline's own guidance off."""
        if self._guided_by_part():
            return {GUIDER: value}
        return dict.fromkeys(self.scales(bound), value)

    def on(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        """Changes that make it guide."""
        given = bound.arguments
        changes: dict[str, Any] = dict.fromkeys(self.scales(bound), FORCED)
        none = all(given.get(name) is None for name in ("negative_prompt", "negative_prompt_embeds"))
        if "negative_prompt" in self.signature.parameters and none:
            prompt = given.get("prompt")
            changes["negative_prompt"] = [""] * len(prompt) if isinstance(prompt, list) else ""
            if given.get("prompt_embeds") is not None:
                del changes["negative_prompt"]
        return changes

    def scale(self, bound: inspect.BoundArguments, changes: Mapping[str, Any], more: float) -> float | None:
        """How much the pipeline guides with these changes to its call, ours; None if there is no such number."""
        names, defaults = self.scales(bound), self.signature.parameters
        if not names:
            return None
        value = changes.get(names[0], bound.arguments.get(names[0], defaults[names[0]].default))
        return float(value) + more if isinstance(value, int | float) else None

    def guider(self) -> dict[str, Any]:
        """Changes that have a pipeline guide which has a guider in the place of a scale."""
        return {} if not self._guided_by_part() else {GUIDER: FORCED}

    def _guided_by_part(self) -> bool:
        return not self._scales and self.pipe.components.get("guider") is not None

    @contextmanager
    def _stopping(self, found: Rehearsal) -> Iterator[None]:
        """Schedulers stop at their first step inside."""

        def step(model_output: Any, timestep: Any = None, sample: Any = None, *_: Any, **__: Any) -> Any:
            found.output, found.sample = model_output, sample
            raise FirstStep

        schedulers = [part for part in self.pipe.components.values() if hasattr(part, "set_timesteps")]
        for scheduler in schedulers:
            vars(scheduler)["step"] = step
        try:
            yield
        finally:
            for scheduler in schedulers:
                vars(scheduler).pop("step", None)


@contextmanager
def guider_at(pipe: Any, scale: float | None) -> Iterator[None]:
    """A pipeline with plain classifier-free guidance at this scale for a guider inside; None: its own."""
    if scale is None:
        yield
        return
    was = vars(pipe)["guider"]
    vars(pipe)["guider"] = library("pipelines", "diffusers").ClassifierFreeGuidance(guidance_scale=scale)
    try:
        yield
    finally:
        vars(pipe)["guider"] = was


@contextmanager
def random_states_kept(generator: Any) -> Iterator[None]:
    """The generators of a call, and those of torch, numpy and Python, are after the block what they were."""
    own = [g for g in (generator if isinstance(generator, list | tuple) else [generator]) if g is not None]
    states = [g.get_state() for g in own]
    others, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for g, state in zip(own, states, strict=True):
            g.set_state(state)
        random.setstate(others)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _without_bar(pipe: Any) -> Iterator[None]:
    was = vars(pipe).get("_progress_bar_config")
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if was is None:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            vars(pipe)["_progress_bar_config"] = was
