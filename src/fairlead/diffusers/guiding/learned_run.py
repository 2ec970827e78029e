"""One call of a pipeline whose pattern was learned: every network call is answered with the guided prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.denoiser import level_at, remember_levels, tally
from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow
from fairlead.diffusers.caches import check_switched_off
from fairlead.diffusers.guiding.branch_calls import Weak
from fairlead.diffusers.guiding.call_arguments import join_rows
from fairlead.diffusers.guiding.call_conditions import NoSpecs, PromptSpecs, Specs
from fairlead.diffusers.guiding.learned_denoiser import LearnedDenoiser, PromptArguments
from fairlead.diffusers.guiding.pattern import Pattern, block_of
from fairlead.diffusers.guiding.pipeline_run import seeds_of, tied
from fairlead.diffusers.guiding.recorder import RecordedCall, output_of, with_output
from fairlead.diffusers.pipelines import IMAGE_AUTOENCODERS, image_scale
from fairlead.diffusers.schedulers import Levels, level_after, objective_of, position_of, schedule_of
from fairlead.guide.batching import Batching
from fairlead.guide.branch import NULL
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.observation import Observation
from fairlead.guide.step import Grid
from fairlead.guide.terms import Guidance
from fairlead.models.model import Model
from fairlead.sample.noise import NoiseStream


class LearnedRun:
    """Answers the network calls of one call of a pipeline; holds its state, so make a new one for each.

    Args:
        pipe: the pipeline.
        pattern: how it calls its network.
        named: prompt that the guidance names -> the arguments of a call with it, and those of them that differ.
        guidance: what to do.
        model: what is known of the pipeline before the call.
        resources: what the guidance names, by name.
        generator: of the call, one or a list.
        conditional: whether the pipeline takes a prompt or anything else that can be null.
        empty: whether the call is one without a condition.
        negative: how a negative was given, "" if none was.
    """

    def __init__(
        self,
        pipe: Any,
        pattern: Pattern,
        named: Mapping[str, PromptArguments],
        guidance: Guidance,
        model: Model,
        resources: Mapping[str, Any],
        generator: Any,
        conditional: bool,
        empty: bool,
        negative: str,
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self.pipe, self.pattern, self.guidance, self.model = pipe, pattern, guidance, model
        self.empty, self.resources, self.negative = empty, resources, negative
        self.batching, self.observe = batching, observe
        self.named, self.conditional = named, conditional
        self.seeds = seeds_of(generator, pattern.n)
        found = pattern.output is not None and pattern.latents is not None
        self.known = found and bool(model.metadata["levels"]) and _has_grid(pipe.scheduler, model)
        self._guided: tuple[GuidedDenoiser, LearnedDenoiser, Levels | None, int] | None = None
        self._count = 0
        self._second: Any = None

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The guided prediction, in the form of the network's answer."""
        check_switched_off(network, f"pipe.{name}")
        pattern, call = self.pattern, RecordedCall.of(name, network, args, kwargs)
        apart = pattern.scale is not None and pattern.count == 1
        if apart and self._count % 2:
            self._count += 1
            return with_output(pattern.answer, self._second, call)
        null = None
        if call.rows != pattern.count * pattern.n:
            raise UsageError(
                f"the pipeline's batch went from {pattern.count * pattern.n} rows to {call.rows} within one run (a "
                "callback that switches its guidance?); say when to guide in the guidance: cfg(7).during(sigma=(low, "
                "high))"
            )
        whole = call
        if pattern.count > 1:
            call, null = block_of(call, pattern, pattern.own_at), block_of(call, pattern, pattern.null_at)
        output, denoiser = self.guided(call, null)
        if pattern.weight is not None:
            return with_output(pattern.answer, join_rows(self._three(whole, output, pattern.weight)), call)
        if pattern.scale is None:
            return with_output(pattern.answer, join_rows([output] * pattern.count), call)
        both = denoiser.parted(output, pattern.scale)
        both = both if pattern.own_at == 0 else both[::-1]
        if pattern.count == 2:
            return with_output(pattern.answer, join_rows(both), call)
        self._count, self._second = self._count + 1, both[1]
        return with_output(pattern.answer, both[0], call)

    def _three(self, whole: RecordedCall, guided: Tensor, weight: float) -> list[Tensor]:
        """The answers for three blocks that the pipeline combines as ours in the place of its own text guidance: the
        other two are what the network returns for them, so that the scale of the third one stays the pipeline's."""
        pattern = self.pattern
        answers: list[Tensor] = []
        for place in range(pattern.count):
            if place == pattern.own_at:
                answers.append(guided)
                continue
            call = block_of(whole, pattern, place)
            with torch.no_grad():
                answers.append(output_of(call.network(**call.arguments, return_dict=not call.as_tuple)))
            tally(call.rows)
        null = answers[pattern.null_at]
        answers[pattern.own_at] = (null.double() + (guided.double() - null.double()) / weight).to(guided)
        return answers

    def guided(self, call: RecordedCall, null: RecordedCall | None) -> tuple[Any, LearnedDenoiser]:
        """The output that the network would have for the guided prediction.

        Args:
            call: the conditional call of this step.
            null: the null call, where it is not that with the arguments of the pattern.
        """
        position = self._position(call)
        if self._guided is None:
            self._guided = self._begin(call, null, position)
        guided, denoiser, levels, start = self._guided
        x_t = denoiser.receive(call, null)
        t = self._times[min(position, len(self._times) - 2)] if levels is None else self._entries[position]
        stages = 1 if levels is None else levels.stages
        prediction = guided.at(min((position - start) // stages, len(self._times) - 2))(x_t, t, guided.condition)
        if self.guidance.renoising():
            assert levels is not None
            after = level_after(self.pipe.scheduler, levels, position)
            mixing = level_at(self.model.schedule, t, x_t).mixing
            prediction = tied(prediction, x_t, mixing.alpha, mixing.sigma, after)
        return denoiser.answered(prediction, x_t, t), denoiser

    def _image_shape(self, x_t: Tensor) -> tuple[int, ...]:
        """Of an image; () where it is not known."""
        vae = getattr(self.pipe, "vae", None)
        if x_t.ndim != 4 or type(vae).__name__ not in IMAGE_AUTOENCODERS:
            return ()
        scale = image_scale(self.pipe)
        return 3, x_t.shape[2] * scale, x_t.shape[3] * scale

    def _position(self, call: RecordedCall) -> int:
        apart = self.pattern.scale is not None and self.pattern.count == 1
        here = self._count // (2 if apart else max(1, len(self.pattern.calls)))
        self._count += not apart
        if not self.known:
            return here
        scheduler = self.pipe.scheduler
        for name in ("step_index", "begin_index"):
            known = getattr(scheduler, name, None)
            if known is not None:
                return int(known)
        if here:
            return self._guided[3] + here if self._guided is not None else here
        told = call.arguments.get("timestep")
        try:
            return 0 if told is None or type(scheduler).__name__.startswith("Flow") else position_of(scheduler, told)
        except UsageError:
            return 0

    def _begin(
        self, call: RecordedCall, null: RecordedCall | None, position: int
    ) -> tuple[GuidedDenoiser, LearnedDenoiser, Levels | None, int]:
        pattern, model, scheduler = self.pattern, self.model, self.pipe.scheduler
        denoiser = LearnedDenoiser(self.pipe, pattern, list(self.named.values()), model, self.known, self.conditional)
        x_t = denoiser.receive(call, null)
        specs: Specs = PromptSpecs(tuple(self.named)) if self.conditional else NoSpecs()
        levels = None
        if self.known:
            levels = Levels.of(scheduler)
            times = levels.times(model.schedule, position)
            self._entries = levels.entries(model.schedule)
            remember_levels(model.schedule, self._entries, x_t)
        else:  # only affine guidance gets here, which does the same at any level
            steps = len(scheduler.timesteps)
            times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        self._times = times
        resources = {
            name: replace(thing, beside=denoiser) if isinstance(thing, Weak) else thing
            for name, thing in self.resources.items()
        }
        guided = GuidedDenoiser.of(
            replace(
                model,
                denoiser=denoiser,
                shape=tuple(x_t.shape[1:]),
                image_shape=self._image_shape(x_t),
                encode=specs,
                embed=denoiser.embedded if self.conditional else None,
            ),
            self.guidance,
            specs.own(pattern.n, None, self.empty),
            resources=resources,
            draw=lambda number, shape: NoiseStream(self.seeds, shape).extra(number),
            times=times,
            batching=self.batching,
            observe=self.observe,
        )
        wanted = guided.looks_at(NULL)
        if wanted and pattern.null is None:
            raise UsageError(
                f"{self.guidance} asks for the null prediction, and {type(self.pipe).__name__} makes none (its "
                "guidance is distilled into its network, or off for good); give a negative: attach(..., negative='')"
            )
        if self.negative and not wanted:
            raise UsageError(
                f"{self.negative} was given, but {self.guidance} never looks at it in the steps of this run; leave it "
                "out"
            )
        return guided, denoiser, levels, position


def _has_grid(scheduler: Any, model: Model) -> bool:
    """Whether a scheduler that has been given its timesteps goes down through noise levels of its table."""
    try:
        Grid.of(Levels.of(scheduler).times(model.schedule, 0), model.schedule)
    except (UsageError, ValueError, IndexError, AttributeError, RuntimeError):
        return False
    return True


def levels_of(pipe: Any) -> tuple[Any, Any, str]:
    """(schedule, objective, "") of a pipeline's scheduler; where its noise levels are not known, a stand-in for both
    and the reason."""
    scheduler = getattr(pipe, "scheduler", None)
    try:
        objective = objective_of(scheduler)
        return schedule_of(scheduler), objective, ""
    except (UsageError, AttributeError, TypeError) as error:
        return RectifiedFlow(1.0), "x0", str(error)
