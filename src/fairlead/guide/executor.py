"""The one executor: turns a guidance and a denoiser into a guided denoiser, evaluating only the branches needed now.

Branches that are equal for this run are merged, branches with coefficient 0 that nobody looks at are not evaluated
(per sample, when scales are), and the rest of one network ride in as few calls as memory allows: perturbed branches
too, for a perturbation is a mask of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, autocast, level_at, x0_of
from fairlead.core.errors import UsageError, unknown
from fairlead.core.prediction import Objective, Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.guide.algebra import (
    COND,
    NULL,
    Branch,
    Finisher,
    Guidance,
    Limited,
    Pair,
    Term,
    Weight,
    added,
    as_guidance,
    is_one,
    is_zero,
    nonzero_rows,
    weighted,
)
from fairlead.guide.perturb import located
from fairlead.guide.plan import StepPlan
from fairlead.guide.seen import Draw, Seen, Surroundings
from fairlead.guide.step import Grid, Memory, Step
from fairlead.models.model import Model
from fairlead.nets.blocks import attention_mass

Batching = Literal["auto", "fused", "sequential"]
FUSED_ROWS_ON_CPU = 16
"""Larger calls spill out of a processor's caches: measured in benchmarks/cost.py, table "fused"."""
Encode = Callable[[Sequence[Any]], Condition]
Recorded = dict[str, list[Tensor]]
"""Layer -> the attention that its positions received in successive network calls, each [rows, h, w]."""
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Observation:
    """What a guided denoiser did in one evaluation, for those who watch (``observe``).

    Attributes:
        seen: the step and the branches that were evaluated.
        parts: term -> what it added to x0, in the order of the guidance.
        guided: x0 before the finishers; ``finished`` after them.
        coefficients: of the affine part, merged.
        rows: branch -> the samples that it was evaluated for, bool [n], None for all; the other rows of its x0 are 0.
    """

    seen: Seen
    parts: tuple[tuple[Term, Tensor], ...]
    guided: Tensor
    finished: Tensor
    coefficients: Mapping[Branch, Weight]
    rows: Mapping[Branch, Tensor | None]


class GuidedDenoiser:
    """A denoiser again: ``(x_t, t, condition) -> Prediction``. Holds the state of one run; make a new one for each.

    Args:
        denoiser: any function ``(x_t, t, condition) -> Prediction``.
        guidance: what to do with it.
        schedule: the denoiser's noise schedule.
        condition: the run's condition; calls must pass this object.
        encode: turns specs inside the guidance (negatives, composed conditions) into conditions.
        data_range: of clean data, for finishers that need it.
        times: the sampler's grid; ramps by progress need it.
        samples: which samples of a longer run this batch holds, for per-sample scales; the run then answers for
            :func:`check_samples` and :func:`check_condition` (default: this is the whole run).
        batching: "fused" puts all branches in one network call, "sequential" makes one call a branch. "auto" is fused
            on a GPU, and on a CPU for calls of few rows; it splits a call that runs out of memory.
        around: what else is known of the model, in place of ``encode`` and ``data_range``; see :meth:`of`.
        observe: called with an :class:`Observation` after every evaluation.

    Raises:
        UsageError: for a spec the model does not know, a condition that the guidance never uses, a method or finisher
            that does not suit the model, per-sample scales of the wrong number.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Guidance | Term,
        schedule: NoiseSchedule,
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
        if batching not in get_args(Batching):
            raise unknown("batching", batching, get_args(Batching))
        self.denoiser, self.guidance, self.schedule = denoiser, as_guidance(guidance), schedule
        self.condition, self.batching, self.observe = condition, batching, observe
        objective: Objective = getattr(denoiser, "objective", "eps")
        self.around = around or Surroundings(schedule, objective, encode=encode, data_range=data_range)
        self._parts: tuple[Term | Finisher, ...] = (*self.guidance.terms, *self.guidance.finishers)
        self.grid = None if times is None else Grid.of(times, schedule)
        self.samples = tuple(range(condition.n)) if samples is None else tuple(samples)
        if samples is None:
            check_samples(self.guidance, condition.n)
            check_condition(self.guidance, condition)
        elif len(self.samples) != condition.n:
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {len(self.samples)}")
        for part in self._parts:
            part.check(self.around)
        self._memory = Memory()
        self._keeps = _Keeps(self._equal)
        self._steps: dict[int, Step] = {}
        self._plans: dict[tuple[int | None, tuple[int, ...]], StepPlan] = {}
        self._active = [term for term in self.guidance.terms if _looks(term)]
        self._altering = any(term.alters() for term in self.guidance.terms)
        self._conditions, self._same = self._resolve()
        self._fixed: dict[Branch, Condition] = {}
        self._joined: dict[tuple[Branch, ...], Condition] = {}
        self._altered: tuple[int | None, Condition] | None = None
        self._max_rows: int | None = None
        self._check_steps()

    def _check_steps(self) -> None:
        """Scales that a step cannot have are refused here, not in the middle of the run."""
        for i in range(self.grid.steps if self.grid is not None else 0):
            step = self._step(i)
            if self.around.shape:  # maps over pixels depend on it
                self._plan(step)
                for term in self.guidance.terms:
                    term.rows(step)
            else:
                self._renoise(step)

    def fresh(self, observe: Callable[[Observation], object] | None = None) -> GuidedDenoiser:
        """The same for another run: it remembers nothing, and shares what was worked out at the door."""
        other = copy(self)
        other.observe, other._memory, other._steps, other._altered = observe, Memory(), {}, None
        return other

    @classmethod
    def of(
        cls,
        model: Model,
        guidance: Guidance | Term,
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
            resources=resources or {},
            draw=draw,
        )
        return cls(model.denoiser, guidance, model.schedule, condition, around=around, **options)

    def _resolve(self) -> tuple[dict[Branch, Condition], dict[Branch, Branch]]:
        """The condition of every branch, and for each branch the first one that is the same for this run."""
        n, device, encode = self.condition.n, self.condition.device, self.around.encode
        conditions = {COND: self.condition, NULL: self.condition.drop()}
        for term in self.guidance.terms:
            for spec in term.specs():
                if encode is None:
                    raise UsageError(
                        f"{term}: names the condition {spec!r}, but no encode function was given to read it"
                    )
                conditions[Branch(spec)] = encode([spec] * n).to(device)
            for names in term.drops():
                conditions[Branch(drop=names)] = _without(self.condition, names, term)
        same: dict[Branch, Branch] = {}
        order = [NULL, *(branch for branch in conditions if branch != NULL)]
        altered = self._altering and not self.condition.is_null  # the run's own then equals no other
        own = {branch for branch in conditions if branch.spec is None and branch != NULL} if altered else set()
        for branch in order:
            equal = (b for b in same if not {b, branch} & own and conditions[b].equals(conditions[branch]))
            same[branch] = next(equal, branch)
        return conditions, same

    def at(self, step: int) -> Denoiser:
        """The guided denoiser of this step of the grid, wherever inside the step it is called."""
        if self.grid is None:
            return self
        here = self._step(step)
        return lambda x_t, t, condition: self._guide(x_t, _one_time(t), condition, here)

    def _step(self, index: int) -> Step:
        if index not in self._steps:
            assert self.grid is not None
            grid = self.grid
            level = grid.times[index], grid.sigma[index], grid.log_snr[index]
            self._steps[index] = Step(*level, index, grid, self.samples, self.around.shape, self._memory)
        return self._steps[index]

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        first = _one_time(t)
        if self.grid is not None:
            return self.at(self.grid.index(float(first)))(x_t, first, condition)
        level = float(self.schedule.ratio(first)), float(self.schedule.log_snr(first))
        return self._guide(x_t, first, condition, Step(float(first), *level, samples=self.samples))

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The affine coefficients at a step after equal branches have been merged; what has none is left out."""
        merged: dict[Branch, Weight] = {}
        for branch, weight in self.guidance.coefficients(step).items():
            kept = self._kept(branch)
            merged[kept] = added(merged[kept], weight) if kept in merged else weight
        return {branch: weight for branch, weight in merged.items() if not is_zero(weight)}

    def _kept(self, branch: Branch) -> Branch:
        """The branch that is evaluated in the place of this one, equal to it in this run."""
        return self._keeps[branch]

    def _equal(self, branch: Branch) -> Branch:
        if branch.perturb is not None:
            branch = replace(branch, perturb=located(branch.perturb, self.around))
        if branch.source is not None:
            return branch
        plain = self._same[Branch(branch.spec, branch.null, branch.drop)]
        return replace(branch, spec=plain.spec, null=plain.null, drop=plain.drop)

    def needed(self, step: Step) -> dict[Branch, Tensor | None]:
        """The branches evaluated at this step -> for which samples (bool [n]); None is all. The row formula: rows are
        the samples counted here, plus ``term.rows(step)`` for each sample and term."""
        return dict(self._plan(step).needed)

    def _needed(
        self, step: Step, weights: Mapping[Branch, Weight], renoise: Branch | None
    ) -> dict[Branch, Tensor | None]:
        rows: dict[Branch, Tensor | None] = {}
        for branch, weight in weights.items():
            mask = nonzero_rows(weight)
            rows[branch] = mask if isinstance(mask, Tensor) else None
        for part in self._parts:
            for branch, wanted in part.wanted(step).items():
                kept = self._kept(branch)
                there = rows.get(kept, wanted)
                rows[kept] = None if wanted is None or there is None else there | wanted
        if renoise is not None:
            rows[renoise] = None
        return {branch: None if mask is not None and bool(mask.all()) else mask for branch, mask in rows.items()}

    def looks_at(self, branch: Branch) -> bool:
        """Whether any step of the grid evaluates this branch, rather than one that is equal to it in this run."""
        steps = range(self.grid.steps) if self.grid is not None else ()
        return self._keeps[branch] == branch and any(branch in self._plan(self._step(i)).needed for i in steps)

    def _plan(self, step: Step) -> StepPlan:
        """What this step evaluates; kept for the run unless it depends on what the terms remember."""
        own = step.index is not None and step.grid is self.grid
        key = (step.index, step.shape) if own else None
        if key is not None and key in self._plans:
            return self._plans[key]
        reads = step.memory.reads
        weights, renoise = self.coefficients(step), self._renoise(step)
        needed = self._needed(step, weights, renoise)
        differentiated = any(term.differentiates(step) for term in self._active)
        layers = tuple(dict.fromkeys(layer for term in self._active for layer in term.attention(step, self.around)))
        alone: Branch | None = None
        if len(needed) == 1 and not differentiated and not self.guidance.finishers and not layers:
            ((branch, rows),) = needed.items()
            alone = branch if rows is None and branch in weights and is_one(weights[branch]) else None
        plan = StepPlan(weights, needed, renoise, differentiated, layers, alone)
        if key is not None and step.memory.reads == reads:
            self._plans[key] = plan
        return plan

    def _renoise(self, step: Step) -> Branch | None:
        branches = [self._kept(b) for term in self.guidance.terms if (b := term.renoise(step)) is not None]
        if len(branches) > 1:
            raise UsageError(f"{self.guidance}: two methods want to re-noise at once; keep one, or separate intervals")
        return next(iter(branches), None)

    def _guide(self, x_t: Tensor, t: Tensor, condition: Condition, step: Step) -> Prediction:
        if condition is not self.condition:
            raise UsageError("a guided denoiser is made for one run: call it with the condition it was made with")
        if step.memory is not self._memory or step.shape != x_t.shape[1:]:
            step = replace(step, shape=tuple(x_t.shape[1:]), memory=self._memory)
        self._memory.begin(step.index)
        plan, active, finishers = self._plan(step), self._active, self.guidance.finishers
        weights, needed, renoise = plan.weights, plan.needed, plan.renoise
        alone: Prediction | None = None
        predictions: dict[Branch, Tensor] = {}
        mass: Recorded = {layer: [] for layer in plan.layers}
        if plan.alone is not None:
            alone = self._denoiser_of(plan.alone)(x_t, t, self._condition_of(plan.alone, step))
            predictions[plan.alone] = alone.x0
        if alone is not None and not active and self.observe is None:
            return alone
        mixing = level_at(self.schedule, t, x_t).mixing
        alpha, sigma = mixing.alpha, mixing.sigma
        graph = self._graph(x_t, t, step, mass) if plan.differentiated else None
        if graph is not None:
            predictions[self._kept(COND)] = graph[1].detach()
        rest = {branch: rows for branch, rows in needed.items() if branch not in predictions} if predictions else needed
        predictions |= self._predict(x_t, t, step, rest, mass)
        x0 = _combination(predictions, weights, x_t)
        if not active and not finishers and renoise is None and self.observe is None:
            return Prediction(x0, mixing.eps(x0, x_t))
        kind = x_t.device.type
        lower = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        evaluate = partial(self._again, t=t, step=step, lower=lower)
        view = _Merged(predictions, self._kept)
        attention = {layer: _joined(parts) for layer, parts in mass.items()}
        seen = Seen(step, x_t, t, alpha, sigma, condition, self.around, view, evaluate, graph, attention, mixing)
        with autocast(x_t.device, None):  # only the network runs in a lower precision
            directions = [(term, term.direction(seen)) for term in active]
            for _, direction in directions:
                if direction is not None:
                    x0 = x0 + direction
            finished = x0
            for finisher in finishers:
                finished = finisher.finish(finished, seen)
        if self.observe is not None:
            rows_of = _Merged({**needed, **({} if graph is None else {self._kept(COND): None})}, self._kept)
            parts = self._contributions(seen, dict(directions))
            self.observe(Observation(seen, parts, x0, finished, weights, rows_of))
        if alone is not None and all(direction is None for _, direction in directions):
            return alone
        return Prediction(finished, mixing.eps(finished, x_t) if renoise is None else seen.eps(renoise))

    def _contributions(self, seen: Seen, directions: Mapping[Term, Tensor | None]) -> tuple[tuple[Term, Tensor], ...]:
        parts = []
        for term in self.guidance.terms:
            total = torch.zeros_like(seen.x_t)
            for branch, weight in term.coefficients(seen.step).items():
                if seen.has(branch):
                    total = total + weighted(weight, seen.x0(branch))
            direction = directions.get(term)
            parts.append((term, total if direction is None else total + direction))
        return tuple(parts)

    # the network

    def _denoiser_of(self, branch: Branch) -> Denoiser:
        if branch.model is None:
            return self.denoiser
        denoiser: Denoiser = self.around.resource(branch.model).denoiser
        return denoiser

    def _condition_of(self, branch: Branch, step: Step) -> Condition:
        if branch.source is not None or self._altering:
            return self._made(branch, step)
        if branch not in self._fixed:
            self._fixed[branch] = self._made(branch, step)
        return self._fixed[branch]

    def _made(self, branch: Branch, step: Step) -> Condition:
        plain = Branch(branch.spec, branch.null, branch.drop)
        own = branch.spec is None and not branch.null and branch.source is None
        if own and self._altering and branch.model is None:
            condition = self._own(step).drop(names=branch.drop)
        else:
            if branch.source is None:
                condition = self._conditions[plain]
            else:
                condition = branch.source.condition(step, self.around, self.condition)  # type: ignore[attr-defined]
            if self._altering and branch.model is None:
                condition = self._embedded(condition)
        return condition if branch.perturb is None else condition.perturbed(branch.perturb)

    def _own(self, step: Step) -> Condition:
        """The run's condition as the terms alter it at this step."""
        if self._altered is None or step.index is None or self._altered[0] != step.index:
            condition = self._embedded(self.condition)
            for term in self.guidance.terms:
                condition = term.alter(condition, step, self.around)
            self._altered = step.index, condition
        return self._altered[1]

    def _embedded(self, condition: Condition) -> Condition:
        """Conditions that are to ride in one call with an altered one must be embeddings too."""
        assert self.around.embed is not None
        return self.around.embed(condition)

    def _predict(
        self, x_t: Tensor, t: Tensor, step: Step, needed: Mapping[Branch, Tensor | None], mass: Recorded
    ) -> dict[Branch, Tensor]:
        """x0 [n, ...] of every branch, with 0 in the rows that are not needed; ``mass`` is that of the conditional."""
        predictions: dict[Branch, Tensor] = {}
        own = self._kept(COND)
        for name in dict.fromkeys(branch.model for branch in needed):
            mine = {branch: rows for branch, rows in needed.items() if branch.model == name}
            index = {b: None if rows is None else rows.nonzero()[:, 0].to(x_t.device) for b, rows in mine.items()}
            total = sum(len(x_t) if rows is None else len(rows) for rows in index.values())
            if len(mine) == 1 or self._apart(total, x_t.device):
                for branch, rows in index.items():
                    condition = self._rows_of(branch, rows, step)
                    recorded = mass if branch == own else {}
                    part = self._evaluate(self._denoiser_of(branch), _pick(x_t, rows), t, condition, recorded)
                    predictions[branch] = _spread(part, rows, x_t)
            else:
                x, together = self._together(x_t, index, step)
                recorded = {layer: [] for layer in mass} if own in mine else {}
                every = self._evaluate(self._denoiser_of(next(iter(mine))), x, t, together, recorded)
                sizes = [len(x_t) if rows is None else len(rows) for rows in index.values()]
                for layer, parts in recorded.items():
                    mass[layer].append(torch.split(_joined(parts), sizes)[list(index).index(own)])
                for (branch, rows), part in zip(index.items(), torch.split(every, sizes), strict=True):
                    predictions[branch] = _spread(part, rows, x_t)
        return predictions

    def _rows_of(self, branch: Branch, rows: Tensor | None, step: Step) -> Condition:
        condition = self._condition_of(branch, step)
        return condition if rows is None else condition[rows]

    def _together(self, x_t: Tensor, index: Mapping[Branch, Tensor | None], step: Step) -> tuple[Tensor, Condition]:
        """Inputs and condition of one call for several branches."""
        branches = tuple(index)
        if any(rows is not None for rows in index.values()):
            together = Condition.cat([self._rows_of(branch, rows, step) for branch, rows in index.items()])
            return torch.cat([_pick(x_t, rows) for rows in index.values()]), together
        before = self._joined.get(branches)
        if before is None or self._altering or any(branch.source is not None for branch in branches):
            parts = [self._condition_of(branch, step) for branch in branches]
            before = self._joined[branches] = Condition.cat(parts) if before is None else before.renewed(parts)
        return torch.cat([x_t] * len(branches)), before

    def _apart(self, rows: int, device: torch.device) -> bool:
        """Whether each branch gets a network call of its own, rather than all of them one of ``rows`` rows."""
        if self.batching == "auto":
            return device.type == "cpu" and rows > FUSED_ROWS_ON_CPU
        return self.batching == "sequential"

    def _evaluate(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, mass: Recorded | None = None
    ) -> Tensor:
        """x0 of these rows, in one call, or in halves if that ran out of memory; ``mass`` gets the rows in order."""
        if self._max_rows is None or len(x_t) <= self._max_rows:
            try:
                return _recorded(denoiser, x_t, t, condition, mass)
            except torch.OutOfMemoryError:
                if self.batching != "auto" or len(x_t) == 1:
                    raise
                self._max_rows = (len(x_t) + 1) // 2
                torch.cuda.empty_cache()
        starts = range(0, len(x_t), self._max_rows)
        pieces = [slice(start, start + self._max_rows) for start in starts]
        return torch.cat([self._evaluate(denoiser, x_t[piece], t, condition[piece], mass) for piece in pieces])

    def _graph(self, x_t: Tensor, t: Tensor, step: Step, mass: Recorded) -> tuple[Tensor, Tensor]:
        """x_t as a leaf and the conditional x0 as its function."""
        branch = self._kept(COND)
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            return leaf, _recorded(self._denoiser_of(branch), leaf, t, self._condition_of(branch, step), mass)

    def _again(self, branch: Branch, x_t: Tensor, *, t: Tensor, step: Step, lower: torch.dtype | None) -> Tensor:
        kept = self._kept(branch)
        with autocast(x_t.device, lower):
            return self._evaluate(self._denoiser_of(kept), x_t, t, self._condition_of(kept, step))


def _recorded(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, mass: Recorded | None) -> Tensor:
    """x0 of one call; once it has succeeded, the attention of the layers in ``mass`` is appended there."""
    if not mass:
        return x0_of(denoiser, x_t, t, condition)
    with attention_mass(tuple(mass)) as layers:
        x0 = x0_of(denoiser, x_t, t, condition)
    for layer, received in layers.items():
        if received is None:
            raise UsageError(f"layer {layer!r} recorded no attention; name another of the model's attention layers")
        mass[layer].append(received.detach())
    return x0


class _Keeps(dict[Branch, Branch]):
    """Branch -> the one that is evaluated in its place, found once."""

    def __init__(self, find: Callable[[Branch], Branch]) -> None:
        super().__init__()
        self.find = find

    def __missing__(self, branch: Branch) -> Branch:
        kept = self[branch] = self.find(branch)
        return kept


class _Merged(Mapping[Branch, Value]):
    """What is known of branches (their predictions) under every name that they go by."""

    def __init__(self, values: Mapping[Branch, Value], kept: Callable[[Branch], Branch]) -> None:
        self.values_of, self.kept = values, kept

    def __getitem__(self, branch: Branch) -> Value:
        return self.values_of[self.kept(branch)]

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def _looks(term: Term) -> bool:
    """Whether the term has a part that is not affine."""
    inner = term
    while isinstance(inner, Limited):
        inner = inner.term
    affine = isinstance(inner, Pair) and inner.is_difference()
    return type(inner).direction is not Term.direction and not affine


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


def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _spread(part: Tensor, rows: Tensor | None, x_t: Tensor) -> Tensor:
    """These rows among zeros, as many rows as x_t."""
    return part if rows is None else torch.zeros_like(x_t, dtype=part.dtype).index_copy(0, rows, part)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _without(condition: Condition, names: Sequence[str], term: Term) -> Condition:
    missing = [name for name in names if name not in condition.values]
    if missing:
        has = ", ".join(sorted(condition.values)) or "no conditions"
        raise UsageError(f"{term}: drops {missing[0]!r}, the model has {has}; drop one of those")
    return condition.drop(names=names)


def _one_time(t: Tensor) -> Tensor:
    """t of shape [] or [n] -> the one time of the whole batch, []."""
    times = as_time(t)
    if not times.ndim:
        return times
    times = times.flatten()
    if not bool((times == times[0]).all()):
        raise UsageError("a guided denoiser takes one time for the whole batch, got several")
    return times[0]


def check_condition(guidance: Guidance, condition: Condition) -> None:
    """Raise UsageError when the condition of a whole run is one that the guidance never uses, or lacks."""
    replacing = next((term for term in guidance.terms if term.replaces_condition()), None)
    steering = next((term for term in guidance.terms if term.needs_condition()), None)
    if replacing is not None and steering is not None:
        raise UsageError(
            f"{replacing} stands in place of the run's condition, and {steering} steers towards it; keep one of the two"
        )
    for term in guidance.terms:
        if term.replaces_condition() and not condition.is_null:
            raise UsageError(f"{term} stands in place of the run's condition, but one was given too; leave it out")
        if term.needs_condition() and condition.is_null:
            raise UsageError(
                f"{term} steers towards the run's condition, but none was given; pass one or drop the term"
            )


def check_samples(guidance: Guidance, n: int) -> None:
    """Raise UsageError when a per-sample scale is not for n samples."""
    for term in guidance.terms:
        if term.samples() not in (None, n):
            raise UsageError(
                f"{term} has scales for {term.samples()} samples, the run has {n}; give one scale a sample"
            )
