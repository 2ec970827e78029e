"""The one executor: turns a guidance and a denoiser into a guided denoiser, evaluating only the branches needed now.

Branches that are equal for this run are merged (``branches.py``), branches with coefficient 0 that nobody looks at are
not evaluated (per sample, when scales are; ``plan.py``), and the rest of one network ride in as few calls as memory
allows (``calls.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import as_mapping, as_tensor, plain_list, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, autocast, counted, level_at, lowered
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction, Tied
from fairlead.core.schedule import NoiseSchedule, as_schedule, as_time
from fairlead.guide.algebra import COND, Branch, Guidance, Term, Weight, as_guidance, weighted
from fairlead.guide.branches import Branches, Merged
from fairlead.guide.calls import Batching, Calls, Recorded, joined
from fairlead.guide.checks import check_condition, check_samples
from fairlead.guide.observation import Observation, contributions
from fairlead.guide.plan import StepPlan, active_terms, merged_coefficients, renoising
from fairlead.guide.seen import Draw, Seen, Surroundings
from fairlead.guide.step import Grid, Memory, Step
from fairlead.models.load import as_model
from fairlead.models.model import Model

Encode = Callable[[Sequence[Any]], Condition]


class GuidedDenoiser:
    """A denoiser again: ``(x_t, t, condition) -> Prediction``. Holds the state of one run; make a new one for each.

    Args:
        denoiser: any function ``(x_t, t, condition) -> Prediction``.
        guidance: what to do with it, an expression or an object.
        schedule: the denoiser's noise schedule, or its name.
        condition: the run's condition; calls must pass this object.
        encode: turns specs inside the guidance (negatives, composed conditions) into conditions.
        data_range: of clean data, for finishers that need it.
        times: the sampler's grid; ramps by progress need it.
        samples: which samples of a longer run this batch holds, for per-sample scales; the run then answers for
            :func:`check_samples` and :func:`check_condition` (default: this is the whole run).
        batching: "fused" puts all branches in one network call, "sequential" makes one call per branch. "auto" is
            fused, and splits a call that runs out of memory.
        around: what else is known of the model, in place of ``encode`` and ``data_range``; see :meth:`of`.
        observe: called with an :class:`Observation` after every evaluation.

    Raises:
        UsageError: for a spec the model does not know, a condition that the guidance never uses, a method or finisher
            that does not suit the model, per-sample scales of the wrong number.
    """

    counts = True

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Guidance | Term | str | None,
        schedule: NoiseSchedule | str,
        condition: Condition,
        *,
        encode: Encode | None = None,
        data_range: tuple[float, float] | None = None,
        times: Tensor | None = None,
        samples: Sequence[int] | None = None,
        batching: Batching = "auto",
        around: Surroundings | None = None,
        observe: Callable[[Observation], object] | None = None,
    ) -> None:
        if not callable(denoiser):
            raise UsageError(
                f"denoiser: expected a function (x_t, t, condition) -> Prediction, got {shown(denoiser)}; a model goes "
                "into GuidedDenoiser.of(model, guidance, condition)"
            )
        if not isinstance(condition, Condition):
            raise UsageError(
                f"condition: expected one from model.encode([...]) or Condition.of(...), got {shown(condition)}"
            )
        schedule = as_schedule(schedule)
        self.denoiser, self.guidance, self.schedule = denoiser, as_guidance(guidance), schedule
        if around is not None and not isinstance(around, Surroundings):
            raise UsageError(f"around: expected Surroundings, or GuidedDenoiser.of(model, ...), got {shown(around)}")
        samples = plain_list(samples)
        if samples is not None and not isinstance(samples, Sequence):
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {shown(samples)}")
        self.condition, self.observe = condition, observe
        objective: Objective = getattr(denoiser, "objective", "eps")
        self.around = around or Surroundings(schedule, objective, encode=encode, data_range=data_range)
        self.grid = None if times is None else Grid.of(times, schedule)
        self.samples = tuple(range(condition.n)) if samples is None else tuple(samples)
        if samples is None:
            check_samples(self.guidance, condition.n)
            check_condition(self.guidance, condition)
        elif len(self.samples) != condition.n:
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {len(self.samples)}")
        for term in self.guidance.terms:
            term.check(self.around)
        for finisher in self.guidance.finishers:
            finisher.check(self.around)
        self.branches = Branches(self.guidance, condition, self.around, self.grid)
        self._calls = Calls(counted(denoiser), self.branches, batching)
        self._memory = Memory()
        self._steps: dict[int, Step] = {}
        self._plans: dict[tuple[int | None, tuple[int, ...]], StepPlan] = {}
        self._active = active_terms(self.guidance)
        self._check_steps()

    def _check_steps(self) -> None:
        """Scales that a step cannot have are refused here, not in the middle of the run."""
        if self.grid is None:
            return
        steps = range(self.grid.steps)
        if not self.around.shape:  # maps over pixels depend on it
            for i in steps:
                renoising(self.guidance, self.branches, self._step(i))
            return
        with suppress(AttributeError):  # what can be planned without knowing the step is the plan of all
            anywhere = Step.anywhere(self.samples, self.around.shape)
            plan = StepPlan.of(self.guidance, self.branches, anywhere, self._active)
            self._check_rows(anywhere)
            self._plans = {(i, anywhere.shape): plan for i in steps}
            return
        for i in steps:
            self._plan(self._step(i))
            self._check_rows(self._step(i))

    def _check_rows(self, step: Step) -> None:
        for term in self.guidance.terms:
            term.rows(step)

    def fresh(self, observe: Callable[[Observation], object] | None = None) -> GuidedDenoiser:
        """The same for another run: it remembers nothing, and shares what was worked out at the door."""
        other = copy(self)
        other.observe, other._memory, other._steps, other.branches = observe, Memory(), {}, self.branches.fresh()
        other._calls = self._calls.fresh(other.branches)
        return other

    @classmethod
    def of(
        cls,
        model: Model | str | Path,
        guidance: Guidance | Term | str | None,
        condition: Condition,
        *,
        resources: Mapping[str, Any] | None = None,
        draw: Draw | None = None,
        **options: Any,
    ) -> GuidedDenoiser:
        """A model under guidance.

        Args:
            resources: what ``guidance.resources()`` names, loaded.
            draw: the samples' own noise, for methods that draw some.
            options: ``times``, ``samples``, ``batching``, ``observe``.
        """
        model = as_model(model)
        around = Surroundings(
            model.schedule,
            model.objective,
            shape=model.shape,
            image_shape=model.image_shape,
            encode=model.encode,
            embed=model.embed,
            decode=model.decode,
            classes=model.classes,
            layers=model.layers,
            data_range=model.data_range,
            resources=as_mapping("resources", resources),
            draw=draw,
            reachable=getattr(model.denoiser, "reachable", None),
        )
        return cls(model.denoiser, guidance, model.schedule, condition, around=around, **options)

    def at(self, step: int) -> Denoiser:
        """The guided denoiser of this step of the grid, wherever inside the step it is called."""
        if self.grid is None:
            return self
        return partial(self._guide, step=self._step(step))

    def _step(self, index: int) -> Step:
        found = self._steps.get(index)
        if found is None:
            assert self.grid is not None
            found = self._steps[index] = Step.of(self.grid, index, self.samples, self.around.shape, self._memory)
        return found

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        first = _one_time(t)
        if self.grid is not None:
            return self._guide(x_t, first, condition, self._step(self.grid.index(float(first))))
        level = float(self.schedule.ratio(first)), float(self.schedule.log_snr(first))
        return self._guide(x_t, first, condition, Step(float(first), *level, samples=self.samples))

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The affine coefficients at a step after equal branches have been merged; what has none is left out."""
        return merged_coefficients(self.guidance, self.branches, step)

    def needed(self, step: Step) -> dict[Branch, Tensor | None]:
        """The branches evaluated at this step -> for which samples (bool [n]); None is all. The row formula: rows are
        the samples counted here, plus ``term.rows(step)`` for each sample and term."""
        return dict(self._plan(step).needed)

    def looks_at(self, branch: Branch) -> bool:
        """Whether any step of the grid evaluates this branch, rather than one that is equal to it in this run."""
        steps = range(self.grid.steps) if self.grid is not None else ()
        kept = self.branches.kept(branch) == branch
        return kept and any(branch in self._plan(self._step(i)).needed for i in steps)

    def _plan(self, step: Step) -> StepPlan:
        """What this step evaluates; kept for the run unless it depends on what the terms remember."""
        own = step.index is not None and step.grid is self.grid
        key = step.index, step.shape
        plan = self._plans.get(key) if own else None
        if plan is None:
            reads = step.memory.reads
            plan = StepPlan.of(self.guidance, self.branches, step, self._active)
            if own and step.memory.reads == reads:
                self._plans[key] = plan
        return plan

    def _guide(self, x_t: Tensor, t: Tensor, condition: Condition, step: Step) -> Prediction:
        if condition is not self.condition:
            raise UsageError("a guided denoiser is made for one run: call it with the condition it was made with")
        if not isinstance(x_t, Tensor) or not x_t.ndim:
            raise UsageError(f"x_t: expected a tensor [{condition.n}, ...], one row a sample, got {shown(x_t)}")
        t = t if isinstance(t, Tensor) and not t.ndim else _one_time(t)
        if step.memory is not self._memory or step.shape != x_t.shape[1:]:
            step = replace(step, shape=tuple(x_t.shape[1:]), memory=self._memory)
        self._memory.begin(step.index)
        plan, active, finishers = self._plan(step), self._active, self.guidance.finishers
        alone: Prediction | None = None
        predictions: dict[Branch, Tensor] = {}
        mass: Recorded = {layer: [] for layer in plan.layers}
        if plan.alone is not None:
            alone = self._calls.alone(plan.alone, x_t, t, step)
            predictions[plan.alone] = alone.x0
        if alone is not None and not active and self.observe is None:
            return alone
        mixing = level_at(self.schedule, t, x_t).mixing
        graph = self._calls.graph(x_t, t, step, mass) if plan.differentiated else None
        kept = self.branches.kept
        if graph is not None:
            predictions[kept(COND)] = graph[1].detach()
        predictions |= self._calls.all(plan.asks, x_t, t, step, mass)
        x0 = _combination(predictions, plan.weights, x_t)
        if not active and not finishers and plan.renoise is None and self.observe is None:
            return Tied(x0, x_t, mixing)
        again = partial(self._calls.again, t=t, step=step, lower=lowered(x_t.device))
        attention = {layer: joined(parts) for layer, parts in mass.items()}
        seen = Seen(step, x_t, t, mixing, condition, self.around, Merged(predictions, kept), again, graph, attention)
        with autocast(x_t.device, None):  # only the network runs in a lower precision
            directions = [(term, term.direction(seen)) for term in active]
            for _, direction in directions:
                if direction is not None:
                    x0 = x0 + direction
            finished = x0
            for finisher in finishers:
                finished = finisher.finish(finished, seen)
        if self.observe is not None:
            rows = Merged({**plan.needed, **({} if graph is None else {kept(COND): None})}, kept)
            parts = contributions(self.guidance, seen, dict(directions))
            self.observe(Observation(seen, parts, x0, finished, plan.weights, rows))
        if alone is not None and all(direction is None for _, direction in directions):
            return alone
        return Tied(finished, x_t, mixing) if plan.renoise is None else Prediction(finished, seen.eps(plan.renoise))


def _combination(predictions: Mapping[Branch, Tensor], weights: Mapping[Branch, Weight], x_t: Tensor) -> Tensor:
    """sum_b weight_b x0_b."""
    if not weights:
        return torch.zeros_like(x_t)
    (branch, weight), *rest = weights.items()
    total = weighted(weight, predictions[branch])
    for branch, weight in rest:
        if isinstance(weight, Tensor):
            total = total + weighted(weight, predictions[branch])
        else:
            total.add_(predictions[branch], alpha=weight)
    return total


def _one_time(t: Tensor) -> Tensor:
    """t of shape [] or [n] -> the one time of the whole batch, []."""
    times = as_time(as_tensor("t", t, wide=True))
    if not times.ndim:
        return times
    times = times.flatten()
    if not len(times):
        raise UsageError("t: expected a time, got none")
    if not bool((times == times[0]).all()):
        raise UsageError("a guided denoiser takes one time for the whole batch, got several")
    return times[0]
