"""The one engine: turns a guidance and a denoiser into a guided denoiser, evaluating only the branches needed now.

In every step the terms are asked what they want evaluated (``Term.ask``). Branches that are equal for this run are
merged (``branch_conditions.py``), branches with coefficient 0 that nobody looks at are not evaluated (per sample, when
scales are; ``plan.py``), the rest of one network ride in as few calls as memory allows (``batching.py``), the
terms add what is not affine (``Term.add``), and the finishers run.

Over 300 lines, as one step is assembled, evaluated and combined in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fairlead.core.arguments import as_mapping, as_tensor, plain_list, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, autocast, level_at, lowered
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction, TiedPrediction
from fairlead.core.schedule import NoiseSchedule, as_schedule, as_time
from fairlead.guide.batching import Attention, Batching, Calls, in_row_order
from fairlead.guide.branch import COND, Branch, Weight, combine
from fairlead.guide.branch_conditions import BranchConditions, BranchValues, StepConditions
from fairlead.guide.checks import check_condition, check_samples
from fairlead.guide.moment import Context, Moment, NoiseSource, Seen
from fairlead.guide.observation import Observation, contributions
from fairlead.guide.plan import StepPlan, check_renoising, plan_key
from fairlead.guide.step import Grid, Memory, Step
from fairlead.guide.terms import Ask, Guidance, Term, as_guidance
from fairlead.models.load import as_model
from fairlead.models.model import Model, Spec, identity

Encode = Callable[[Sequence[Any]], Condition]
MOST_PLANS = 4096
"""Plans that a run keeps."""


class GuidedDenoiser:
    """A denoiser under a guidance, called as any other: ``(x_t, t, condition) -> Prediction``. It holds the state of
    one run; make a new one for each.

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
        observe: Callable[[Observation], object] | None = None,
    ) -> None:
        if not callable(denoiser):
            raise UsageError(
                f"denoiser: expected a function (x_t, t, condition) -> Prediction, got {shown(denoiser)}; a model goes "
                "into GuidedDenoiser.of(model, guidance, condition)"
            )
        if encode is not None and not callable(encode):
            raise UsageError(f"encode: expected a function of a list of conditions, got {shown(encode)}")
        objective: Objective = getattr(denoiser, "objective", "eps")
        schedule, encode = as_schedule(schedule), _no_encode if encode is None else encode
        model = Model(denoiser, schedule, (), encode, identity, data_range=data_range, objective=objective)
        self._begin(model, guidance, condition, {}, None, times, samples, batching, observe)

    @classmethod
    def of(
        cls,
        model: Model | str | Path,
        guidance: Guidance | Term | str | None,
        condition: Condition,
        *,
        resources: Mapping[str, Any] | None = None,
        draw: NoiseSource | None = None,
        times: Tensor | None = None,
        samples: Sequence[int] | None = None,
        batching: Batching = "auto",
        observe: Callable[[Observation], object] | None = None,
        specs: Sequence[Spec] = (),
        null: Condition | Sequence[Condition] | None = None,
    ) -> GuidedDenoiser:
        """A model under guidance.

        Args:
            resources: what ``guidance.resources()`` names, loaded.
            draw: the samples' own noise, for methods that draw some.
            specs: what the condition was encoded from, for rewards that read it.
            null: see :class:`BranchConditions`; one for each step needs ``times``.
        """
        self = cls.__new__(cls)
        given = as_mapping("resources", resources)
        self._begin(as_model(model), guidance, condition, given, draw, times, samples, batching, observe, specs, null)
        return self

    def _begin(
        self,
        model: Model,
        guidance: Guidance | Term | str | None,
        condition: Condition,
        resources: Mapping[str, Any],
        draw: NoiseSource | None,
        times: Tensor | None,
        samples: Sequence[int] | None,
        batching: Batching,
        observe: Callable[[Observation], object] | None,
        specs: Sequence[Spec] = (),
        null: Condition | Sequence[Condition] | None = None,
    ) -> None:
        if not isinstance(condition, Condition):
            raise UsageError(
                f"condition: expected one from model.encode([...]) or Condition.of(...), got {shown(condition)}"
            )
        samples = plain_list(samples)
        if samples is not None and not isinstance(samples, Sequence):
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {shown(samples)}")
        self.guidance, self.observe = as_guidance(guidance), observe
        self.context = Context(model=model, condition=condition, resources=resources, draws=draw, specs=tuple(specs))
        self.schedule, self.condition = model.schedule, condition
        self.grid = None if times is None else Grid.of(times, self.schedule)
        self.samples = tuple(range(condition.n)) if samples is None else tuple(samples)
        if samples is None:
            check_samples(self.guidance, condition.n)
            check_condition(self.guidance, condition)
        elif len(self.samples) != condition.n:
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {len(self.samples)}")
        self.guidance.check(self.context)
        self.conditions = BranchConditions(self.guidance, self.context, null)
        self._calls = Calls(self.context, batching)
        self._memory = Memory()
        self._steps: dict[int, Step] = {}
        self._plans: dict[tuple[Any, ...], StepPlan] = {}
        renoising = self.guidance.renoising()
        for i in () if self.grid is None else range(self.grid.steps):
            if len(renoising) > 1:
                check_renoising(self.guidance, self._step(i))
            if model.shape:  # maps over pixels depend on it
                self._plan(self._step(i))  # what a step cannot do is refused here, not in the middle of the run

    def fresh(self, observe: Callable[[Observation], object] | None = None) -> GuidedDenoiser:
        """The same for another run: it remembers nothing, and shares the encoded conditions."""
        other = copy(self)
        other.observe, other._memory, other._steps = observe, Memory(), {}
        other._calls = copy(self._calls)
        return other

    def select(self, rows: Tensor) -> None:
        """Go on with samples ``rows`` (int64 [n]) in the place of all: what was remembered of them moves along."""
        self._memory.select(rows)

    def at(self, step: int) -> Denoiser:
        """The guided denoiser of this step of the grid, wherever inside the step it is called."""
        if self.grid is None:
            return self
        return partial(self._guide, step=self._step(step))

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        first = _one_time(t)
        if self.grid is not None:
            return self._guide(x_t, first, condition, self._step(self.grid.index(float(first))))
        level = float(self.schedule.ratio(first)), float(self.schedule.log_snr(first))
        return self._guide(x_t, first, condition, Step(float(first), *level, samples=self.samples))

    def moment(self, step: Step) -> Moment:
        """This step of the run, as the terms see it."""
        context = self.context
        return Moment(
            model=context.model,
            condition=context.condition,
            resources=context.resources,
            draws=context.draws,
            specs=context.specs,
            step=step,
        )

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The affine coefficients at a step after equal branches have been merged; what has none is left out."""
        return dict(self._plan(step)[0].weights)

    def needed(self, step: Step) -> dict[Branch, Tensor | None]:
        """The branches evaluated at this step -> for which samples (bool [n]); None is all. The row formula: rows are
        the samples counted here, plus ``ask.rows`` for each sample and term."""
        return dict(self._plan(step)[0].needed)

    def looks_at(self, branch: Branch) -> bool:
        """Whether any step of the grid evaluates this branch, or reads its text, rather than one that is equal to it in
        this run."""
        plans = [self._plan(self._step(i)) for i in range(self.grid.steps)] if self.grid is not None else []
        return any(conditions.kept(branch) == branch and branch in plan.read for plan, _, conditions in plans)

    @property
    def remembers(self) -> bool:
        """Whether a term has kept something for later steps."""
        return not self._memory.empty

    def _step(self, index: int) -> Step:
        found = self._steps.get(index)
        if found is None:
            assert self.grid is not None
            shape = self.context.model.shape
            found = self._steps[index] = Step.of(self.grid, index, self.samples, shape, self._memory)
        return found

    def _plan(self, step: Step) -> tuple[StepPlan, tuple[Ask, ...], StepConditions]:
        """What this step evaluates, what its terms ask for, and the conditions of its branches."""
        at = self.moment(step)
        asks = tuple(term.ask(at) for term in self.guidance.terms)
        finishing = tuple(finisher.ask(at) for finisher in self.guidance.finishers)
        conditions = self.conditions.at(at, [ask.alter for ask in asks if ask.alter is not None])
        key = plan_key((*asks, *finishing))
        plan = None if key is None else self._plans.get(key)
        if plan is None:
            plan = StepPlan.of(asks, finishing, conditions)
            if key is not None and len(self._plans) < MOST_PLANS:
                self._plans[key] = plan
        return plan, asks, conditions

    def _guide(self, x_t: Tensor, t: Tensor, condition: Condition, step: Step) -> Prediction:
        if condition is not self.condition:
            raise UsageError("a guided denoiser is made for one run: call it with the condition it was made with")
        if not isinstance(x_t, Tensor) or not x_t.ndim:
            raise UsageError(f"x_t: expected a tensor [{condition.n}, ...], one row per sample, got {shown(x_t)}")
        t = t if isinstance(t, Tensor) and not t.ndim else _one_time(t)
        if step.memory is not self._memory or step.shape != x_t.shape[1:]:
            step = replace(step, shape=tuple(x_t.shape[1:]), memory=self._memory)
        self._memory.begin(step.index)
        if self.grid is None:
            check_renoising(self.guidance, step)
        plan, asks, conditions = self._plan(step)
        calls = self._calls
        alone: Prediction | None = None
        predictions: dict[Branch, Tensor] = {}
        mass: Attention = {layer: [] for layer in plan.layers}
        if plan.alone is not None:
            alone = calls.alone(plan.alone, x_t, t, conditions)
            predictions[plan.alone] = alone.x0
            if not (self.guidance.terms or self.guidance.finishers) and self.observe is None:
                return alone
        mixing = level_at(self.schedule, t, x_t).mixing
        graph = calls.graph(x_t, t, conditions, mass) if plan.graph else None
        kept = conditions.kept
        if graph is not None:
            predictions[kept(COND)] = graph[1].detach()
        predictions |= calls.all(plan.groups, x_t, t, conditions, mass)
        x0 = combined = combine(predictions, plan.weights, x_t)
        seen = Seen(
            **vars(conditions.moment),
            x_t=x_t,
            t=t,
            mixing=mixing,
            predictions=BranchValues(predictions, kept),
            evaluate=partial(calls.again, t=t, conditions=conditions, lower=lowered(x_t.device)),
            graph=graph,
            attention={layer: in_row_order(parts) for layer, parts in mass.items()},
        )
        with autocast(x_t.device, None):  # only the network runs in a lower precision
            directions = [term.add(seen) for term in self.guidance.terms]
            for direction in directions:
                if direction is not None:
                    x0 = x0 + direction
            finished = x0
            for finisher in self.guidance.finishers:
                finished = finisher.finish(finished, seen)
        if self.observe is not None:
            rows = BranchValues({**plan.needed, **({} if graph is None else {kept(COND): None})}, kept)
            parts = contributions(self.guidance, seen, asks, directions)
            self.observe(Observation(seen, asks, parts, x0, finished, plan.weights, rows))
        if alone is not None and finished is combined:
            return alone
        return (
            TiedPrediction(finished, x_t, mixing)
            if plan.renoise is None
            else Prediction(finished, seen.eps(plan.renoise))
        )


def _no_encode(specs: Sequence[Any]) -> Condition:
    raise UsageError(f"the guidance names the condition {specs[0]!r}, but no encode function was given to read it")


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
