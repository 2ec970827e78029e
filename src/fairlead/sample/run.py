"""Sampling: a model, conditions, a guidance and seeds -> frames, and a run that knows how to be repeated.

Over 300 lines, as what is checked before sampling starts stands beside the sampling itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fairlead
from fairlead.core.arguments import as_mapping
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, autocast, counting, lowered
from fairlead.core.errors import UsageError, note, remark
from fairlead.data.images import to_uint8
from fairlead.guide.batching import Batching
from fairlead.guide.checks import check_condition, check_samples
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from fairlead.guide.observation import Observation
from fairlead.guide.rewards.reward import Fn, Reward
from fairlead.guide.terms import Guidance, Term
from fairlead.models.compiled import compiled, compiled_resources
from fairlead.models.load import as_model
from fairlead.models.model import Given, Model, Spec
from fairlead.models.resources import load_resources
from fairlead.nets.compiling import no_compiler
from fairlead.sample.edit.inverted import start_of
from fairlead.sample.edit.start import Start, times_from
from fairlead.sample.grids import make_grid
from fairlead.sample.noise import NoiseStream
from fairlead.sample.particles import Particles, Population, Steering, repeated
from fairlead.sample.result import Run
from fairlead.sample.sampler import Frame, Sampler
from fairlead.sample.samples import named_specs, samples_of, with_vocabulary
from fairlead.sample.sampling import Precision, Sampling


def sample(
    model: Model | str | Path,
    cond: Given | Sequence[Given] = None,
    *,
    guidance: Guidance | Term | str | None = None,
    n: int | None = None,
    seeds: int | Sequence[int] = 0,
    sampler: Sampler | str = "ddim",
    steps: int = 20,
    grid: str = "trailing",
    batch_size: int = 64,
    precision: Precision = "fp32",
    batching: Batching = "auto",
    compile: bool = False,
    resources: Mapping[str, Any] | None = None,
    particles: int | Particles | None = None,
    reward: Reward | Fn | str | None = None,
    start: Any = None,
    strength: float | None = None,
    mask: Any = None,
    resample: int | None = None,
) -> Run:
    """Sample images from a model under a guidance, from noise or from images.

    Args:
        model: from ``fl.load`` or ``fl.toy``, or a path that ``fl.load`` takes.
        cond: one condition for all samples (a class name or index, a prompt, several by name such as
            {"label": 7, "text": "a red seven"}, None for null), or a sequence with one each. Indices are refused where
            they could be names (:mod:`fairlead.data.names`); the run knows the names.
        guidance: an expression such as "cfg(4)", an object such as ``fl.cfg(4)``, or None.
        n: number of samples; only needed when neither ``cond`` nor ``seeds`` is a sequence (default 1).
        seeds: one per sample, or the first of n consecutive seeds. Sample i depends on its own seed only.
        sampler: a name or expression ("ddim(eta=0.5)"), or an object.
        steps: steps of the sampler, at least 1.
        grid: name of the time grid, or ``sigmas(3.4, 1.5, 0.2)``: the noise levels at which the second step and those
            after it begin.
        batch_size: samples denoised together; does not change the result beyond rounding.
        precision: "bf16" autocasts the network.
        batching: how branches share network calls, see ``GuidedDenoiser``.
        compile: compile the networks that were trained here: the first calls take as long as compiling does, the
            samples differ by rounding. Where there is no compiler, one line says so and nothing is compiled.
        resources: models and classifiers by the name that the guidance calls them; what is not given is loaded from
            the path that the name is.
        particles: streams of each sample that compete by the reward, or :class:`Particles` with more settings: they
            need a sampler that draws noise, such as "ddpm". Each costs as many rows as a sample alone, and counts in
            ``batch_size``.
        reward: what they compete by, with a gradient or without: an expression such as '10 * judged("seven")', an
            object, or a function (x0, t, condition) -> [n]. The samples follow p(x0) exp(reward).
        start: images to begin with (SDEdit), one for all samples or one each: uint8 [n, c, h, w], or floating in
            [-1, 1]; files, a folder or a data set; samples [n, *shape] of a model whose samples are no images. Or what
            ``fl.invert`` gives, whose sampler, steps and grid have to be the run's.
        strength: how much noise they get, the time in (0, 1] that sampling begins at; steps of the grid above it are
            not taken. Default: 0.6, with a mask 1.
        mask: bool or 0 and 1, [h, w] or [n, 1, h, w]: True where the images are made anew; or a file, transparent or
            white there. The rest stays; in latents, what it is encoded to.
        resample: how often each step is taken with a mask, so that both parts agree (RePaint); default 4.

    Raises:
        UsageError: for anything that cannot be sampled, before the first network call; and at the first step whose
            samples are not finite, naming it.
    """
    sampling, model = Sampling(sampler, steps, grid, batch_size, precision, batching, compile), as_model(model)
    begin = start_of(model, start, strength, mask, resample)
    return Plan.of(
        model, cond, guidance, sampling, n=n, seeds=seeds, resources=resources, start=begin, particles=particles,
        reward=reward,
    ).run()  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """A checked request for samples; ``frames`` carries out a batch of it as a stream that previews, progress bars and
    traces can read too. See :func:`sample` for the fields."""

    model: Model
    conds: tuple[Spec, ...]
    guidance: Guidance
    sampling: Sampling
    seeds: tuple[int, ...]
    times: Tensor
    resources: Mapping[str, Any]
    start: Start | None = None
    steering: Steering | None = None

    __repr__ = brief

    @classmethod
    def of(
        cls,
        model: Model | str | Path,
        cond: Given | Sequence[Given] = None,
        guidance: Guidance | Term | str | None = None,
        sampling: Sampling | None = None,
        *,
        n: int | None = None,
        seeds: int | Sequence[int] = 0,
        resources: Mapping[str, Any] | None = None,
        start: Start | None = None,
        particles: int | Particles | None = None,
        reward: Reward | Fn | str | None = None,
    ) -> Plan:
        model, sampling = as_model(model), Sampling() if sampling is None else sampling
        specs, all_seeds = samples_of(cond, n, seeds, None if start is None else start.n)
        guidance, resources = to_guidance(guidance), as_mapping("resources", resources)
        check_samples(guidance, len(specs))
        if guidance.renoising() and not sampling.sampler.renoises:
            raise UsageError(
                f"{guidance.renoising()[0]} re-noises with another prediction than it denoises with, which sampler "
                f"'{sampling.sampler}' cannot do: take ddim, ddim(eta=1) for ddpm, or dpmpp_2m"
            )
        steering = Steering.of(particles, reward, guidance, sampling.sampler)
        times = make_grid(sampling.grid, model.schedule, sampling.steps)
        _check_steps(model, sampling)
        if start is not None:
            if steering is not None:
                raise UsageError("particles begin from noise, and a start was given; leave one of the two out")
            start.check(sampling)
            start, times = start.of_n(len(specs)), times_from(times, start.strength, model.schedule)
        steered_by = None if steering is None else steering.reward
        wanted = (*guidance.resources(), *(() if steered_by is None else steered_by.resources()))
        loaded = load_resources(wanted, model, resources)
        model = with_vocabulary(model, guidance, loaded, wanted)
        conds, guidance = named_specs(model, specs), guidance.by_name(model.named)
        if sampling.compile:
            sampled, helpers = compiled(model), compiled_resources(loaded)
            if reason := no_compiler(model.device.type):
                remark(f"sampling runs uncompiled: {reason}")
                sampling = replace(sampling, compile=False)
            else:
                model, loaded = sampled, helpers
        plan = cls(model, conds, guidance, sampling, all_seeds, times, loaded, start, steering)
        NoiseStream(all_seeds, model.shape)
        check_condition(guidance, plan._condition)
        if steered_by is not None:
            if steered_by.needs_condition() and plan._condition.is_null:
                raise UsageError(f"reward {steered_by} is of the run's condition, but none was given; pass one")
            steered_by.check(plan._checked.context)
        plan._checked.fresh()
        return plan

    @property
    def batches(self) -> list[slice]:
        n, size = len(self.seeds), max(1, self.sampling.batch_size // self._streams)
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def frames(self, batch: slice, observe: Callable[[Observation], object] | None = None) -> Iterator[Frame]:
        """Every step of the samples of ``batch``; ``observe`` sees every evaluation of the guidance.

        Of several particles a frame holds the one of largest weight of each sample, in the end the one that is the
        sample; ``observe`` sees all of them.

        Raises:
            UsageError: at the first step whose samples are not finite.
        """
        model, device = self.model, self.model.device
        lower = torch.bfloat16 if self.sampling.precision == "bf16" else None
        noise = NoiseStream(self.seeds[batch], model.shape, device, self._streams)
        alpha, sigma = map(float, model.schedule.alpha_sigma(self.times[0]))
        denoiser, select = self._checked if batch == self.batches[0] else self.denoiser(batch), None
        population: Population | None = None
        if self.steering is not None and self._streams > 1:
            population = Population(self.steering, denoiser.context, noise, self.guidance)
            observe = population.watching(observe)
        denoiser = denoiser.fresh(observe)
        if population is not None:
            select = population.selecting(denoiser.select)
        begin, sampler = self.start, self.sampling.sampler
        x_t = noise.start() * sigma if begin is None else begin.x_t(batch, noise, alpha, sigma)
        sampler = sampler if begin is None else begin.sampler(sampler, batch)
        frames = sampler.frames(denoiser, x_t, self.times, model.schedule, denoiser.condition, noise, select)
        while True:
            if torch.is_grad_enabled() or lowered(device) != lower:
                with torch.no_grad(), autocast(device, lower):
                    frame = next(frames, None)
            else:
                frame = next(frames, None)
            if frame is None:
                return
            suspicious = not math.isfinite(float(frame.x_t.sum()))  # cheap, and sums of finite values may overflow
            if suspicious and bool((broken := ~frame.x_t.isfinite().flatten(1).all(1)).any()):
                bad = int(broken.nonzero()[0]) // self._streams
                hint = f"lower the scale of {self.guidance}" if self.guidance.terms else "the model itself gives them"
                raise UsageError(
                    f"sampling: step {frame.step + 1} of {frame.steps} (to t = {frame.t:.3f}) gave values that are "
                    f"not finite, first for seed {self.seeds[batch][bad]}; {hint}"
                )
            yield frame if population is None else self._one_each(frame, population)

    def _one_each(self, frame: Frame, population: Population) -> Frame:
        """The frame with one particle of each sample."""
        last = frame.step == frame.steps - 1
        rows = (population.final(frame.x_t) if last else population.heaviest()).to(frame.x_t.device)
        return replace(frame, x_t=frame.x_t[rows], prediction=frame.prediction[rows])

    @property
    def _streams(self) -> int:
        """Rows of a sample."""
        return 1 if self.steering is None else self.steering.count

    @cached_property
    def _condition(self) -> Condition:
        """Of all samples."""
        return self.model.encode(self.conds)

    @cached_property
    def _checked(self) -> GuidedDenoiser:
        """The guided denoiser of the first batch, which every run of this plan starts afresh."""
        return self.denoiser(self.batches[0])

    def denoiser(
        self,
        batch: slice,
        null: Sequence[Condition] | None = None,
        observe: Callable[[Observation], object] | None = None,
    ) -> GuidedDenoiser:
        """The guided denoiser of a batch; ``null`` stands in the place of the null condition, one for each step."""
        model, k = self.model, self._streams
        whole, specs = batch == slice(0, len(self.conds)) and k == 1, repeated(self.conds[batch], k)
        return GuidedDenoiser.of(
            model,
            self.guidance,
            (self._condition if whole else model.encode(specs)).to(model.device),
            resources=self.resources,
            draw=NoiseStream(self.seeds[batch], model.shape, model.device, k).extra,
            times=self.times,
            samples=repeated(range(batch.start, batch.stop), k),
            batching=self.sampling.batching,
            observe=observe,
            null=null or (None if self.start is None else self.start.null(batch)),
            specs=specs,
        )

    def run(self, on_frame: Callable[[Frame], object] | None = None) -> Run:
        """Carry the plan out; ``on_frame`` sees every frame, e.g. for a progress bar."""
        finals: list[Tensor] = []
        began = time.perf_counter()
        with counting() as cost, torch.no_grad():
            for batch in self.batches:
                for frame in self.frames(batch):
                    if on_frame is not None:
                        on_frame(frame)
                finals.append(frame.x_t.float().cpu())
        return self.finish(torch.cat(finals), cost, time.perf_counter() - began)

    def named(self) -> dict[str, Any]:
        """What the guidance names, by the metadata that identifies it."""
        found = {name: dict(getattr(thing, "metadata", {})) for name, thing in self.resources.items()}
        return {"resources": found} if found else {}

    def finish(self, x0: Tensor, cost: Cost, seconds: float) -> Run:
        """Decode the final samples [n, *shape] and put the run together."""
        with torch.no_grad():
            decoded = torch.cat([self.model.decode(part) for part in torch.split(x0, self.sampling.batch_size)])
        images = to_uint8(decoded) if decoded.ndim == 4 else None
        settings = {
            "guidance": str(self.guidance),
            **self.sampling.described(),
            **({} if self.steering is None else self.steering.described()),
            **({} if self.start is None else {"start": self.start.described()}),
            "model": dict(self.model.metadata),
            **self.named(),
            "fairlead": fairlead.__version__,
            "torch": torch.__version__,
        }
        shown = decoded if images is not None else None
        return Run(x0, images, self.conds, self._condition, self.seeds, cost, seconds, settings, self.guidance, shown)


def _check_steps(model: Model, sampling: Sampling) -> None:
    """Say so where a student of few steps is asked for others than it was taught."""
    taught = (model.metadata.get("distilled") or {}).get("steps")
    asked = str(sampling.sampler), sampling.steps, sampling.grid
    if taught and asked != ("ddim", taught, "trailing"):
        note(
            f"this student was taught {taught} steps of ddim on grid trailing, the run takes {asked[1]} of {asked[0]} "
            f"on grid {asked[2]}: at other times it guesses"
        )
