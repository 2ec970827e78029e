"""How a pipeline calls its network, learned from one step of it.

A rehearsal runs the pipeline's own call up to its first scheduler step, with a recording network in the place of its
own. Random states are put back, callbacks and progress bars do not run, and the network is evaluated once at most: the
other answers are made up. Two rehearsals, at the call's own guidance scale and with guidance switched off, show which
calls and which rows belong to the conditional and to the null prediction, and which arguments differ between them.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.encoder_memory import EncoderMemory
from fairlead.diffusers.guiding.recorder import LastStep, Recorder, Rehearsal
from fairlead.diffusers.guiding.stand_in import behind, running
from fairlead.diffusers.pretrained import inner_network, library, setting

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


_DENOISERS = re.compile(r"(unconditional_)?(transformer|unet|prior|decoder|dit|denoiser|network|model)(_\d+)?")


def denoisers_of(pipe: Any) -> dict[str, Any]:
    """Name -> network, of the components of a pipeline that may denoise."""
    parts = {name: behind(part) for name, part in pipe.components.items() if _DENOISERS.fullmatch(name)}
    return {name: part for name, part in parts.items() if isinstance(inner_network(part), nn.Module)}


def scales_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the arguments of a pipeline's call that say how much it guides by itself."""
    true = tuple(name for name in _TRUE_SCALES if name in parameters)
    return true or tuple(name for name in _SCALES if name in parameters)


class Stepped(tuple[Any]):
    """What a scheduler's step returns, in both of its forms."""

    @property
    def prev_sample(self) -> Any:
        return self[0]


class Rehearsals:
    """Rehearses calls of one pipeline.

    Args:
        pipe: the pipeline, its networks stood in for.
        call: its own ``__call__``, unguided.
        memory: what its text encoders have answered before.
        answers: what its networks have, see :class:`Recorder`.
    """

    def __init__(
        self, pipe: Any, call: Callable[..., Any], memory: EncoderMemory, answers: dict[Hashable, Any] | None = None
    ) -> None:
        self.pipe, self.call, self.memory = pipe, call, memory
        self.answers: dict[Hashable, Any] = {} if answers is None else answers
        self.signature = inspect.signature(call)
        self._scales = scales_of(self.signature.parameters)

    def run(self, bound: inspect.BoundArguments, recorder: Recorder, steps: int = 1, **changes: Any) -> Rehearsal:
        """One rehearsal of the first steps, with ``changes`` to the arguments of the call.

        Raises:
            UsageError: if the pipeline ends without so many steps of its scheduler.
        """

        def step(name: str, model_output: Any, sample: Any) -> Any:
            found = recorder.found
            found.scheduler, found.output, found.sample = name, model_output, sample
            found.ends.append(len(found.calls))
            if len(found.ends) == steps:
                raise LastStep
            return sample

        try:
            self._called(bound, recorder, step, changes)
        except LastStep:
            return recorder.found
        raise UsageError(
            f"{type(self.pipe).__name__} ended without a step of its scheduler, so how it guides cannot be seen; "
            "attach to the pipeline inside it that denoises"
        )

    def first_step(self, bound: inspect.BoundArguments, recorder: Recorder, changes: Mapping[str, Any]) -> Rehearsal:
        """A rehearsal of the first step, at guidance scales that need not be the call's own.

        Raises:
            UsageError: if the step has calls of two networks, or fails in or after one.
        """
        kind, calls = type(self.pipe).__name__, recorder.found.calls
        try:
            return self.run(bound, recorder, **changes)
        except RuntimeError as error:
            if not calls:  # for the pipeline's own reasons, in its own words
                raise
            self.run(bound, Recorder(answers=self.answers))  # likewise, if it fails by itself
            reason = str(error).splitlines()[0][:80]
            raise UsageError(
                f"{kind} fails in a rehearsal at other scales, from which its calls are learned ({reason}); make one "
                "image per call, or use the pipeline's own guidance"
            ) from error
        finally:  # before the other reason, for made-up answers of one network need not fit the other
            names = list(dict.fromkeys(call.name for call in calls))
            if len(names) > 1:
                raise UsageError(
                    f"{kind} calls two networks for the predictions of a step ({', '.join(names)}), which attach "
                    "cannot "
                    "combine yet; use the pipeline's own guidance"
                )

    def ending(self, bound: inspect.BoundArguments, recorder: Recorder, samples: Any, **changes: Any) -> Any:
        """What the pipeline returns if every step of its scheduler gives ``samples``."""
        return self._called(bound, recorder, lambda name, output, sample: samples, changes)

    def _called(
        self,
        bound: inspect.BoundArguments,
        recorder: Recorder,
        step: Callable[[str, Any, Any], Any],
        changes: dict[str, Any],
    ) -> Any:
        scale = changes.pop(GUIDER, None)
        changes |= {name: None for name in _QUIET if name in self.signature.parameters}
        given = {
            name: list(value) if isinstance(value, list) else value  # some pipelines write into a list of prompts
            for name, value in {**bound.arguments, **changes}.items()
        }
        arguments = inspect.BoundArguments(self.signature, {k: given[k] for k in self._ordered(given)})
        kept, quiet = random_states_kept(given.get("generator")), _without_bar(self.pipe)
        with (
            kept,
            quiet,
            self._stepping(step),
            guider_at(self.pipe, scale),
            running(self.pipe, self.memory.around(recorder)),
        ):
            return self.call(*arguments.args, **arguments.kwargs)

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
        distilled = any(setting(part, "guidance_embeds") for part in denoisers_of(self.pipe).values())
        if "negative_prompt" in self.signature.parameters and none and not distilled:  # which has no null of its own
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
    def _stepping(self, step: Callable[[str, Any, Any], Any]) -> Iterator[None]:
        """Inside, ``step(name, model_output, sample)`` steps in the place of the scheduler of that name."""

        def stepped(name: str) -> Callable[..., Stepped]:
            def own(model_output: Any, timestep: Any = None, sample: Any = None, *_: Any, **__: Any) -> Stepped:
                return Stepped((step(name, model_output, sample),))

            return own

        # one that may be left out is an attribute only
        named = {**self.pipe.components, "scheduler": getattr(self.pipe, "scheduler", None)}
        parts = {id(part): (name, vars(part)) for name, part in named.items() if hasattr(part, "set_timesteps")}
        schedulers = [(part, part.get("step")) for _, part in parts.values()]
        for name, part in parts.values():
            part["step"] = stepped(name)
        try:
            yield
        finally:
            for part, was in schedulers:
                del part["step"]
                if was is not None:  # somebody has put one there
                    part["step"] = was


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
