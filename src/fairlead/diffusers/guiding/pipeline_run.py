"""One call of a pipeline under guidance: every call of its network is answered with the guided prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.denoiser import level_at, remember_levels, tally
from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_switched_off
from fairlead.diffusers.guiding.attached_resources import Weak
from fairlead.diffusers.guiding.call_arguments import block, join_rows
from fairlead.diffusers.guiding.call_conditions import PromptSpecs, Specs
from fairlead.diffusers.guiding.control_calls import ControlCall
from fairlead.diffusers.guiding.pattern import Pattern, PromptCall, block_of
from fairlead.diffusers.guiding.pipeline_denoiser import NULL_KIND, PipelineDenoiser, rest_of
from fairlead.diffusers.guiding.pipeline_levels import tied, unknown_levels
from fairlead.diffusers.guiding.recorder import CONTROL, Path, RecordedCall, output_of, with_output
from fairlead.diffusers.network_calls import LABELS
from fairlead.diffusers.pipelines import IMAGE_AUTOENCODERS, decoders_of, image_scale
from fairlead.diffusers.pretrained import setting
from fairlead.diffusers.schedulers import Levels, level_after, position_of
from fairlead.guide.batching import Batching
from fairlead.guide.branch import NULL
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.observation import Observation
from fairlead.guide.terms import Guidance
from fairlead.models.model import Model
from fairlead.sample.noise import NoiseStream


class PipelineRun:
    """Answers the network calls of one call of a pipeline; holds its state, so make a new one for each.

    Args:
        pipe: the pipeline.
        pattern: how it calls its network.
        named: prompt that the guidance names -> the call with it.
        guidance: what to do.
        model: what is known of the pipeline before the call.
        resources: what the guidance names, by name.
        generator: of the call, one or a list.
        specs: conditions of the pipeline, by prompt or by label.
        empty: whether the call is one without a condition.
        negative: how a negative was given, "" if none was.
    """

    def __init__(
        self,
        pipe: Any,
        pattern: Pattern,
        named: Mapping[str, PromptCall],
        guidance: Guidance,
        model: Model,
        resources: Mapping[str, Any],
        generator: Any,
        specs: Specs,
        empty: bool,
        negative: str,
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self.pipe, self.pattern, self.guidance, self.model = pipe, pattern, guidance, model
        self.empty, self.resources, self.negative = empty, resources, negative
        self.batching, self.observe = batching, observe
        self.named, self.specs = named, specs
        self.seeds = seeds_of(generator, pattern.n)
        self.unknown = unknown_levels(pipe, pattern, model)
        """Why the samples' noise levels are not known; "" if they are."""
        texts = enumerate([pattern.control_null, {}, *(call.control for call in named.values())], NULL_KIND)
        self._control_texts: dict[int, Mapping[Path, Any]] = dict(texts)
        self._control: ControlCall | None = None
        self._guided: tuple[GuidedDenoiser, PipelineDenoiser, Levels | None, int] | None = None
        self._count = 0
        self._second: Any = None
        self._first: tuple[RecordedCall, Any] | None = None

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        """What a part of the pipeline returns to it: of its network the guided prediction, in the form of the network's
        answer; its control network is watched."""
        pattern, call = self.pattern, RecordedCall.of(name, network, args, kwargs)
        if name == CONTROL:
            answer = network(*args, **kwargs)
            self._control = ControlCall(call, answer, pattern, self._control_texts)
            return answer
        check_switched_off(network, f"pipe.{name}")
        if pattern.in_turn:
            return with_output(pattern.answer, self._in_turn(call), call)
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
        whole, answered = call, {}
        if pattern.count > 1:
            call, null = block_of(call, pattern, pattern.own_at), block_of(call, pattern, pattern.null_at)
        if pattern.weight is not None:
            answered = dict(enumerate(self._blocks(whole)))
        output, denoiser = self.guided(call, null, answered)
        if pattern.weight is not None:
            return with_output(pattern.answer, join_rows(self._three(answered, output, pattern.weight)), call)
        if pattern.scale is None:
            return with_output(pattern.answer, join_rows([output] * pattern.count), call)
        both = denoiser.parted(output, pattern.scale)
        both = both if pattern.own_at == 0 else both[::-1]
        if pattern.count == 2:
            return with_output(pattern.answer, join_rows(both), call)
        self._count, self._second = self._count + 1, both[1]
        return with_output(pattern.answer, both[0], call)

    def _in_turn(self, call: RecordedCall) -> Any:
        """The outputs for the two calls of a step that have noisy samples of their own: the network's to the first, and
        to the second what makes the guided prediction of the pipeline's combination of both."""
        pattern = self.pattern
        if self._first is None:
            with torch.no_grad():
                output = output_of(call.network(**call.arguments, return_dict=not call.as_tuple))
            tally(call.rows)
            self._first = call, output
        else:
            (first, answered), self._first = self._first, None
            own, null = (first, call) if pattern.own_at == 0 else (call, first)
            assert pattern.scale is not None
            weight = pattern.scale if pattern.own_at == 0 else 1 - pattern.scale
            output = rest_of(self.guided(own, null)[0], answered, weight)
        self._count += 1
        return output

    def _blocks(self, whole: RecordedCall) -> list[Tensor]:
        """What the network returns for each block of rows of a call."""
        with torch.no_grad():
            output = output_of(whole.network(**whole.arguments, return_dict=not whole.as_tuple))
        tally(whole.rows)
        return [block(output, place, self.pattern.count) for place in range(self.pattern.count)]

    def _three(self, answered: Mapping[int, Tensor], guided: Tensor, weight: float) -> list[Tensor]:
        """The answers for three blocks that the pipeline combines as ours in the place of its own text guidance: the
        other two are what the network returned for them, so that the scale of the third one stays the pipeline's."""
        null = answered[self.pattern.null_at]
        own = (null.double() + (guided.double() - null.double()) / weight).to(guided)
        return [own if place == self.pattern.own_at else answered[place] for place in range(self.pattern.count)]

    def guided(
        self, call: RecordedCall, null: RecordedCall | None, answered: Mapping[int, Tensor] | None = None
    ) -> tuple[Any, PipelineDenoiser]:
        """The output that the network would have for the guided prediction.

        Args:
            call: the conditional call of this step.
            null: the null call, where it is not that with the arguments of the pattern.
            answered: place of a prediction among those of the step -> what the network has returned for it already.
        """
        position = self._position(call)
        if self._guided is None:
            self._guided = self._begin(call, null, position)
        guided, denoiser, levels, start = self._guided
        x_t = denoiser.receive(call, null, self._control, answered)
        t = self._times[min(position, len(self._times) - 2)] if levels is None else self._entries[position]
        stages = 1 if levels is None else levels.stages
        prediction = guided.at(min((position - start) // stages, len(self._times) - 2))(x_t, t, guided.condition)
        if self.guidance.renoising():
            assert levels is not None
            after = level_after(self.pipe.scheduler, levels, position)
            mixing = level_at(self.model.schedule, t, x_t).mixing
            prediction = tied(prediction, x_t, mixing.alpha, mixing.sigma, after)
        return denoiser.answered(prediction, x_t, t), denoiser

    def _without_null(self, call: RecordedCall) -> str:
        kind = type(self.pipe).__name__
        if setting(call.network, "time_cond_proj_dim") is not None:
            return (
                f"{kind}'s network is distilled: it takes the guidance scale as an input (time_cond_proj_dim) and has "
                "no null prediction; use the call's guidance_scale, or methods without one such as pag"
            )
        return (
            f"{kind} makes none of its own (its guidance is distilled into its network, or off for good); give a "
            "negative: attach(..., negative='')"
        )

    def _image_shape(self, x_t: Tensor) -> tuple[int, ...]:
        """Of an image; () where it is not known."""
        vae = getattr(self.pipe, "vae", None)
        if hasattr(self.pipe, "components") and not decoders_of(self.pipe):
            return tuple(x_t.shape[1:])
        if x_t.ndim != 4 or type(vae).__name__ not in IMAGE_AUTOENCODERS:
            return ()
        scale = image_scale(self.pipe)
        return 3, x_t.shape[2] * scale, x_t.shape[3] * scale

    def _position(self, call: RecordedCall) -> int:
        apart = self.pattern.scale is not None and self.pattern.count == 1
        here = self._count // (2 if apart else max(1, len(self.pattern.calls)))
        self._count += not apart
        if self.unknown:
            return here
        scheduler = self.pipe.scheduler
        for name in ("step_index", "begin_index"):
            known = getattr(scheduler, name, None)
            if known is not None:
                return int(known)
        if here:
            return self._guided[3] + here if self._guided is not None else here
        timestep = call.arguments.get("timestep")
        try:
            return (
                0
                if timestep is None or type(scheduler).__name__.startswith("Flow")
                else position_of(scheduler, timestep)
            )
        except UsageError:
            return 0

    def _begin(
        self, call: RecordedCall, null: RecordedCall | None, position: int
    ) -> tuple[GuidedDenoiser, PipelineDenoiser, Levels | None, int]:
        pattern, model, scheduler = self.pattern, self.model, self.pipe.scheduler
        denoiser = PipelineDenoiser(self.pipe, pattern, list(self.named.values()), model, not self.unknown)
        x_t, prompts = denoiser.receive(call, null), isinstance(self.specs, PromptSpecs)
        levels = None
        if not self.unknown:
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
                encode=self.specs,
                embed=denoiser.embedded if prompts else None,
            ),
            self.guidance,
            self.specs.own(pattern.n, call.arguments.get(LABELS), self.empty),
            resources=resources,
            draw=lambda number, shape: NoiseStream(self.seeds, shape).extra(number),
            times=times,
            batching=self.batching,
            observe=self.observe,
        )
        wanted = guided.looks_at(NULL)
        if wanted and prompts and pattern.null is None:
            raise UsageError(f"{self.guidance} asks for the null prediction, and {self._without_null(call)}")
        if self.negative and not wanted:
            raise UsageError(
                f"{self.negative} was given, but {self.guidance} never evaluates it in the steps of this run; leave it "
                "out"
            )
        return guided, denoiser, levels, position


def seeds_of(generator: Any, n: int) -> tuple[int, ...]:
    """A seed for every sample, for guidance that draws noise: from the generators of the call, else from torch's seed.
    No generator is advanced."""
    if isinstance(generator, list | tuple):
        return tuple(int(g.initial_seed()) % 2**63 for g in generator)
    first = torch.initial_seed() if generator is None else generator.initial_seed()
    return tuple((int(first) + i) % 2**63 for i in range(n))
