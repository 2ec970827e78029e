"""What a student is taught: a model's answer under a guidance, in one evaluation or in several steps of a solver.

At any time (2210.03142, section 3.1) the student's x0 is the guided one. For a student of N steps the teacher takes
``each`` steps from t to t'', and the student is taught the x0 with which one step of DDIM gets there:

    x0 = (x'' - r x_t) / (alpha'' - r alpha_t),    r = sigma'' / sigma_t

That is the target of progressive distillation (2202.00512, algorithm 2), whose teacher takes two steps of DDIM and
whose students halve the steps in rounds. Here the teacher takes all of them at once, with a solver of third order, so
that the student's errors are its own and not those of the students before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance
from fairlead.models.model import Model
from fairlead.models.resources import load_resources
from fairlead.nets.inputs import ConditionedNet
from fairlead.sample.dpmpp_3m import DPMpp3M
from fairlead.sample.grids import make_grid
from fairlead.train.objective import Draw

SCALE = "{scale}"
"""Stands in an expression for the scale that the student takes."""
_PROBED = 8
"""Times at which a guidance is tried before anything is trained."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """Made by :meth:`of`, which checks it.

    Attributes:
        model: whose answers are taught; on its own schedule, which is the student's too.
        guidance: an expression, with ``{scale}`` where the condition's "scale" is to stand; samples whose condition
            keeps none are answered without any guidance then.
        span: the range of that scale; None: there is none.
        steps: of DDIM that the student is for, on the grid "trailing"; 0: it is taught every time.
        each: the teacher's steps of ``dpmpp_3m`` in one of the student's.
        resources: what the guidance names, loaded.
    """

    model: Model
    guidance: str
    span: tuple[float, float] | None = None
    steps: int = 0
    each: int = 1
    resources: Mapping[str, Any] | None = None

    __repr__ = brief

    @classmethod
    def of(
        cls,
        model: Model,
        guidance: str,
        span: tuple[float, float] | None = None,
        steps: int = 0,
        each: int = 1,
        resources: Mapping[str, Any] | None = None,
    ) -> Teacher:
        """
        Raises:
            UsageError: for an expression that cannot be read or that this model cannot take; for methods that remember
                earlier steps, draw noise, re-noise, or stand in place of the condition; for steps that do not nest.
        """
        if (SCALE in guidance) != (span is not None):
            raise UsageError(
                f"distill: a guidance with {SCALE} and a range go together, as in --guidance 'cfg({SCALE})' --range "
                f"scale=1:8; got {guidance!r} {'with' if span else 'without'} a range"
            )
        if span is not None and not span[0] < span[1]:
            raise UsageError(f"distill: expected a range with its low end below its high end, got {span[0]}:{span[1]}")
        ends = [to_guidance(guidance.replace(SCALE, f"{end!r}")) for end in span or (1.0,)]
        wanted = dict.fromkeys(resource for end in ends for resource in end.resources())
        teacher = cls(model, guidance, span, steps, each, load_resources(tuple(wanted), model, resources))
        for end in ends:
            teacher._try(end)
        return teacher

    def _try(self, guidance: Guidance) -> None:
        """Refuse what cannot be taught, by evaluating it on noise at several times."""
        if guidance.renoising():
            raise UsageError(f"distill: {guidance.renoising()[0]} re-noises with another prediction than its x0; a "
                             "student has one")  # fmt: skip
        if guidance.replacing():
            raise UsageError(f"distill: {guidance.replacing()[0]} replaces the condition that a student is "
                             "conditioned on; choose a method that steers towards it")  # fmt: skip
        if not self.steps and not guidance.terms and not guidance.finishers:
            raise UsageError("distill: without a guidance or fewer steps there is nothing to teach; give --guidance "
                             "'cfg(3)' or --steps-to 4")  # fmt: skip
        spec = next(iter(self.model.examples), None)
        condition = self.model.encode([spec]).to(self.model.device)
        noise = torch.randn(1, *self.model.shape, generator=torch.Generator().manual_seed(0)).to(self.model.device)
        with torch.no_grad():
            for i in range(_PROBED):
                t = self.times(torch.tensor([(i + 0.5) / _PROBED], dtype=torch.float64))[0]
                _, sigma = self.model.schedule.alpha_sigma(t)
                try:
                    self._answered(noise * float(sigma), t, condition, guidance)
                except UsageError as error:
                    raise UsageError(f"distill: {guidance} cannot be taught: {error}") from error

    @cached_property
    def _times(self) -> Tensor:
        """The teacher's grid, float64 [steps * each + 1]."""
        fine = make_grid("trailing", self.model.schedule, self.steps * self.each)
        if not torch.equal(fine[:: self.each], make_grid("trailing", self.model.schedule, self.steps)):
            raise UsageError(
                f"distill: {self.steps} steps are no part of {self.steps * self.each} on this schedule's table of "
                f"{self.model.schedule.table_size}; take a number of steps that divides it"
            )
        return fine

    def times(self, t: Tensor) -> Tensor:
        """The time of the student's grid in whose step each of ``t`` [n] in (0, 1] lies; ``t`` where all are taught."""
        if not self.steps:
            return t
        own = self._times[: -1 : self.each]
        return own[(own >= t.cpu()[:, None] - 1e-9).sum(1).clamp(min=1) - 1]

    @property
    def recorded(self) -> None:
        """It is asked in every step."""

    def noised(self, x0: Tensor, draw: Draw, schedule: NoiseSchedule) -> tuple[Tensor, Tensor, None]:
        """x_t [n, ...] of the data x0 [n, ...], and its times [n]."""
        t = self.times(draw.t)
        alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(t))
        return alpha * x0 + sigma * draw.eps.to(x0.device), t, None

    def answer(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the student is to answer, [n, ...].

        Args:
            x_t: [n, ...].
            t: float64 [n], as :meth:`times` gives them; best few different ones, for each is a call of its own.
            condition: of n samples, with "scale" where the student takes one.
        """
        values, keep = dict(condition.values), dict(condition.keep)
        scale = torch.full((condition.n,), torch.inf, dtype=torch.float64)
        if self.span is not None:
            scales, kept = values.pop("scale"), keep.pop("scale")
            scale = torch.where(kept, scales.double(), torch.inf).cpu()
        own = self._as_specs(replace(condition, values=values, keep=keep))
        answers = torch.empty_like(x_t)
        different, member = torch.stack([t.cpu(), scale], 1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
        for i, (time, at) in enumerate(different):
            rows = (member == i).nonzero()[:, 0].to(x_t.device)
            if self.span is None:
                guidance = to_guidance(self.guidance)
            else:
                guidance = Guidance() if at.isinf() else to_guidance(self.guidance.replace(SCALE, repr(float(at))))
            answers[rows] = self._answered(x_t[rows], time, own[rows], guidance)
        return answers

    def begin(self, network: nn.Module) -> None:
        """Give a fresh student the weights of its teacher, where that is a network: all but those of a head in its
        middle, and of a scale of another range.

        Raises:
            UsageError: if the student's network is another one.
        """
        taught = getattr(self.model.denoiser, "network", None)
        if not isinstance(taught, nn.Module):
            return
        left = ("internal.",) if self.span == self.model.scale_range else ("internal.", "scale.")
        given, own = (
            {name: value for name, value in each.state_dict().items() if not name.startswith(left)}
            for each in (taught, network)
        )
        shapes = [{name: value.shape for name, value in each.items()} for each in (given, own)]
        if shapes[0] != shapes[1]:
            odd = min(dict(shapes[0].items() ^ shapes[1].items()))
            raise UsageError(f"distill: the student's network is not its teacher's: they differ in {odd!r}")
        network.load_state_dict(given, strict=False)

    def _as_specs(self, condition: Condition) -> Condition:
        """A condition of the data as ``model.encode`` would give it: text as states, not as the ids of its tokens."""
        network = getattr(self.model.denoiser, "network", None)
        if not isinstance(network, ConditionedNet) or network.text is None or "text" not in condition.values:
            return condition
        return network.text.embed(condition)

    def _answered(self, x_t: Tensor, t: Tensor, condition: Condition, guidance: Guidance) -> Tensor:
        guidance = guidance.by_name(self.model.named)
        denoiser = GuidedDenoiser.of(
            self.model, guidance, condition, resources=self.resources, samples=range(condition.n)
        )
        x0 = self._stepped(denoiser, x_t, t) if self.steps else denoiser(x_t, t, condition).x0
        if denoiser.remembers:
            raise UsageError(
                f"{guidance} remembers earlier steps, which a student cannot: it sees one x_t; leave that out"
            )
        return x0

    def _stepped(self, denoiser: GuidedDenoiser, x_t: Tensor, t: Tensor) -> Tensor:
        """The x0 with which one step of DDIM from t arrives where the teacher's steps do."""
        schedule, first = self.model.schedule, int((self._times - t).abs().argmin())
        times = self._times[first : first + self.each + 1]
        x = x_t
        for frame in DPMpp3M().frames(denoiser, x_t, times, schedule, denoiser.condition, _no_noise):
            x = frame.x_t
        alpha, sigma = schedule.alpha_sigma(times[[0, -1]])
        r = sigma[1] / sigma[0]
        return (x - float(r) * x_t) / float(alpha[1] - r * alpha[0])


def _no_noise(number: int) -> Tensor:
    raise AssertionError("dpmpp_3m draws none")
