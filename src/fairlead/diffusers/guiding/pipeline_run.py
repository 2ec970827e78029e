"""One call of a pipeline under guidance: its network calls, answered by the executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.denoiser import level_at, remember_levels
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.diffusers.caches import check_switched_off
from fairlead.diffusers.guiding.branch_calls import Control, Network, NetworkCall, PipelineDenoiser, Weak
from fairlead.diffusers.guiding.call_conditions import Feed, Halves, LabelSpecs, NoSpecs, PromptSpecs, Specs
from fairlead.diffusers.guiding.request import Request
from fairlead.diffusers.network_calls import time_scale
from fairlead.diffusers.pipelines import Wiring, image_scale
from fairlead.diffusers.schedulers import Levels, level_after, objective_of, position_of
from fairlead.guide.batching import Batching
from fairlead.guide.branch import NULL
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.observation import Observation
from fairlead.guide.terms import Guidance
from fairlead.models.model import LabelEncoder, Model
from fairlead.sample.noise import NoiseStream


class PipelineRun:
    """Answers the network calls of one call of a pipeline; holds its state, so make a new one for each.

    Args:
        pipe: the pipeline.
        wiring: how it calls its network.
        guidance: what to do.
        model: what is known of the pipeline before the call.
        resources: what the guidance names, by name.
        request: what this call asked for.
        batching: as of :class:`GuidedDenoiser`.
        observe: likewise.
    """

    def __init__(
        self,
        pipe: Any,
        wiring: Wiring,
        guidance: Guidance,
        model: Model,
        resources: Mapping[str, Any],
        request: Request,
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self.pipe, self.wiring, self.guidance, self.request = pipe, wiring, guidance, request
        self.model, self.resources = model, resources
        self.batching, self.observe = batching, observe
        self._guided: tuple[GuidedDenoiser, PipelineDenoiser, Levels, int] | None = None
        self._control: NetworkCall | None = None

    def answer(self, name: str, network: Network, *args: Any, **kwargs: Any) -> Any:
        """What a part of the pipeline returns to it, by name: the network, or its control network, which is watched."""
        if name == self.wiring.network:
            return self.guided(network, *args, **kwargs)
        self._control = NetworkCall.of(network, args, kwargs)
        return network(*args, **kwargs)

    def guided(self, network: Network, *args: Any, **kwargs: Any) -> Any:
        """The guided prediction, in every half of the pipeline's batch, in the form of the network's answer."""
        check_switched_off(network, f"pipe.{self.wiring.network}")
        call = NetworkCall.of(network, args, kwargs)
        position = position_of(self.pipe.scheduler, call.timestep, time_scale(network, self.wiring.packed))
        if self._guided is None:
            self._guided = self._begin(call, position)
        guided, denoiser, levels, start = self._guided
        t = self._entries[position]
        x_t = denoiser.receive(call, self._controlled())
        prediction = guided.at((position - start) // levels.stages)(x_t, t, guided.condition)
        if self.guidance.renoising():
            after = level_after(self.pipe.scheduler, levels, position)
            mixing = level_at(self.model.schedule, t, x_t).mixing
            prediction = tied(prediction, x_t, mixing.alpha, mixing.sigma, after)
        output = denoiser.output(prediction, x_t, t)
        return call.answered(torch.cat([output, output]) if self.request.doubled else output)

    def _begin(self, call: NetworkCall, position: int) -> tuple[GuidedDenoiser, PipelineDenoiser, Levels, int]:
        scheduler, schedule, wiring = self.pipe.scheduler, self.model.schedule, self.wiring
        halves = self._halves(len(call.x))
        denoiser = PipelineDenoiser(call.network, wiring, schedule, objective_of(scheduler), self._feed(halves))
        x_t = denoiser.receive(call, None)
        specs = self._specs()
        labels = call.arguments.get("class_labels") if wiring.labels else None
        own = None if labels is None else labels[halves.own : halves.own + halves.n]
        resources = {
            name: replace(thing, beside=denoiser) if isinstance(thing, Weak) else thing
            for name, thing in self.resources.items()
        }
        seeds = seeds_of(self.request.generator, halves.n)
        model = replace(
            self.model,
            denoiser=denoiser,
            shape=tuple(x_t.shape[1:]),
            image_shape=self._image_shape(x_t),
            encode=specs,
            embed=denoiser.embedded if wiring.texts else None,
        )
        levels = Levels.of(scheduler)
        self._entries = levels.entries(schedule)
        remember_levels(schedule, self._entries, x_t)
        guided = GuidedDenoiser.of(
            model,
            self.guidance,
            specs.own(halves.n, own, self.request.empty),
            resources=resources,
            draw=lambda number, shape: NoiseStream(seeds, shape).extra(number),
            times=levels.times(schedule, position),
            batching=self.batching,
            observe=self.observe,
        )
        self._check_null(guided, halves)
        return guided, denoiser, levels, position

    def _image_shape(self, x_t: Tensor) -> tuple[int, ...]:
        if getattr(self.pipe, "vae", None) is None:
            return tuple(x_t.shape[1:])
        scale = image_scale(self.pipe)
        return 3, x_t.shape[2] * scale, x_t.shape[3] * scale

    def _halves(self, rows: int) -> Halves:
        half = self.wiring.null_half
        if not self.request.doubled or half is None:
            return Halves(rows)
        if rows % 2:
            raise UsageError(f"{type(self.pipe).__name__} called its network with {rows} rows, expected two halves")
        n = rows // 2
        return Halves(n, own=n * (1 - half), null=n * half)

    def _feed(self, halves: Halves) -> Feed:
        texts, given = tuple(self.wiring.texts or ()), self.request.null
        wrong = {len(value) for value in given.values()} - {1, halves.n}
        if wrong:
            raise UsageError(
                f"the negative gave {max(wrong)} null rows for {halves.n} samples; give one, or one a sample"
            )
        named = {path: [rows[path] for rows in self.request.named.values()] for path in texts}
        return Feed(halves, given, named, texts)

    def _controlled(self) -> Control | None:
        """The control network's call of this step; in guess mode it saw the conditional half alone."""
        if self._control is None:
            return None
        assert self._guided is not None
        halves = self._guided[1].feed.halves
        mine = halves if len(self._control.x) == halves.rows else Halves(halves.n)
        return Control(self._control, self._feed(mine), self.wiring.control)

    def _specs(self) -> Specs:
        if self.wiring.labels:
            return LabelSpecs(LabelEncoder(self.model.classes))
        return PromptSpecs(tuple(self.request.named)) if self.wiring.texts else NoSpecs()

    def _check_null(self, guided: GuidedDenoiser, halves: Halves) -> None:
        """Null rows that a later step wants must be there, and a negative that was given must be wanted."""
        wanted = guided.looks_at(NULL)
        if self.wiring.texts and wanted and halves.null is None and not self.request.null:
            raise UsageError(f"{self.guidance} asks for the null prediction, but {self.request.without_null}")
        if self.request.negative and not wanted:
            raise UsageError(
                f"{self.request.negative} was given, but {self.guidance} never looks at it in the steps of this run; "
                "leave it out"
            )


def tied(prediction: Prediction, x_t: Tensor, alpha: Tensor, sigma: Tensor, after: float) -> Prediction:
    """The prediction with eps = (x_t - alpha x0) / sigma whose first-order step leads to the same x.

    The step x' = alpha' x0 + sigma' eps, with eps free, is that of x0 + gain (eps - eps of x0), where
    gain = r' / (1 - alpha r' / sigma).

    Args:
        after: r' = sigma' / alpha', the level that the step leads to.
    """
    gain = after / (1 - after * alpha / sigma)
    own = Prediction.from_x0(prediction.x0, x_t, alpha, sigma)
    return Prediction.from_x0(prediction.x0 + gain * (prediction.eps - own.eps), x_t, alpha, sigma)


def seeds_of(generator: Any, n: int) -> tuple[int, ...]:
    """A seed for every sample, for guidance that draws noise: from the generators of the call, else from torch's seed.
    No generator is advanced."""
    if isinstance(generator, list | tuple):
        return tuple(int(g.initial_seed()) % 2**63 for g in generator)
    first = torch.initial_seed() if generator is None else generator.initial_seed()
    return tuple((int(first) + i) % 2**63 for i in range(n))
