"""The one executor: turns a guidance and a denoiser into a guided denoiser, evaluating only the branches needed now.

Branches that are equal for this run are merged, branches with coefficient 0 are not evaluated (per sample, when scales
are), and the rest ride in as few network calls as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, expand_like
from fairlead.core.errors import UsageError, unknown
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.guide.algebra import COND, NULL, Branch, Guidance, Term, Weight, as_guidance, is_one, is_zero
from fairlead.guide.step import Grid, Step

Batching = Literal["auto", "fused", "sequential"]
FUSED_ROWS_ON_CPU = 16
"""Larger calls spill out of a processor's caches: measured in benchmarks/cost.py, table "fused"."""
Encode = Callable[[Sequence[Any]], Condition]


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

    Raises:
        UsageError: for a spec the model does not know, a condition that the guidance never uses, a finisher that does
            not suit the data, per-sample scales of the wrong number.
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
    ) -> None:
        if batching not in get_args(Batching):
            raise unknown("batching", batching, get_args(Batching))
        self.denoiser, self.guidance, self.schedule = denoiser, as_guidance(guidance), schedule
        self.condition, self.data_range, self.batching = condition, data_range, batching
        self.grid = None if times is None else Grid.of(times, schedule)
        self.samples = tuple(range(condition.n)) if samples is None else tuple(samples)
        if samples is None:
            check_samples(self.guidance, condition.n)
            check_condition(self.guidance, condition)
        elif len(self.samples) != condition.n:
            raise UsageError(f"samples: expected the indices of {condition.n} samples, got {len(self.samples)}")
        for finisher in self.guidance.finishers:
            finisher.check(data_range)
        self._conditions, self._same = self._resolve(encode)
        self._joined: dict[tuple[Branch, ...], Condition] = {}
        self._max_rows: int | None = None

    def _resolve(self, encode: Encode | None) -> tuple[dict[Branch, Condition], dict[Branch, Branch]]:
        """The condition of every branch, and for each branch the first one that is the same for this run."""
        n, device = self.condition.n, _device_of(self.condition)
        conditions = {COND: self.condition, NULL: self.condition.drop()}
        for term in self.guidance.terms:
            for spec in term.specs():
                if encode is None:
                    raise UsageError(
                        f"{term}: names the condition {spec!r}, but no encode function was given to read it"
                    )
                conditions[Branch(spec)] = encode([spec] * n).to(device)
        same: dict[Branch, Branch] = {}
        order = [NULL, *(branch for branch in conditions if branch != NULL)]
        for branch in order:
            same[branch] = next((b for b in same if conditions[b].equals(conditions[branch])), branch)
        return conditions, same

    def at(self, step: int) -> Denoiser:
        """The guided denoiser of this step of the grid, wherever inside the step it is called."""
        if self.grid is None:
            return self
        grid = self.grid
        here = Step(grid.times[step], grid.sigma[step], grid.log_snr[step], step, grid, self.samples)
        return lambda x_t, t, condition: self._guide(x_t, _one_time(t), condition, here)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        first = _one_time(t)
        if self.grid is not None:
            return self.at(self.grid.index(float(first)))(x_t, first, condition)
        level = float(self.schedule.ratio(first)), float(self.schedule.log_snr(first))
        return self._guide(x_t, first, condition, Step(float(first), *level, samples=self.samples))

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The coefficients at a step after equal branches have been merged; what has none is not evaluated."""
        merged: dict[Branch, Weight] = {}
        for branch, weight in self.guidance.coefficients(step).items():
            kept = self._same[branch]
            merged[kept] = merged[kept] + weight if kept in merged else weight
        return {branch: weight for branch, weight in merged.items() if not is_zero(weight)}

    def _guide(self, x_t: Tensor, t: Tensor, condition: Condition, step: Step) -> Prediction:
        if condition is not self.condition:
            raise UsageError("a guided denoiser is made for one run: call it with the condition it was made with")
        weights = self.coefficients(step)
        if len(weights) == 1 and not self.guidance.finishers:
            ((branch, weight),) = weights.items()
            if is_one(weight):
                return self.denoiser(x_t, t, self._conditions[branch])
        x0 = self._combine(x_t, t, weights)
        for finisher in self.guidance.finishers:
            x0 = finisher.finish(x0, self.data_range)
        alpha, sigma = (expand_like(value, x_t) for value in self.schedule.alpha_sigma(t))
        return Prediction.from_x0(x0, x_t, alpha, sigma)

    def _combine(self, x_t: Tensor, t: Tensor, weights: Mapping[Branch, Weight]) -> Tensor:
        """sum_b weight_b x0_b, evaluating of each branch only the samples whose weight is not 0."""
        if any(isinstance(weight, Tensor) for weight in weights.values()):
            return self._combine_rows(x_t, t, weights)
        n = len(x_t)
        branches = tuple(weights)
        if len(branches) == 1 or self._apart(n * len(branches), x_t.device):
            outputs = [self._evaluate(x_t, t, self._conditions[branch]) for branch in branches]
        else:
            if branches not in self._joined:
                self._joined[branches] = Condition.cat([self._conditions[branch] for branch in branches])
            together = self._evaluate(_repeat(x_t, len(branches)), t, self._joined[branches])
            outputs = list(torch.split(together, n))
        total = outputs[0] * weights[branches[0]]
        for branch, output in zip(branches[1:], outputs[1:], strict=True):
            total.add_(output, alpha=float(weights[branch]))
        return total

    def _combine_rows(self, x_t: Tensor, t: Tensor, weights: Mapping[Branch, Weight]) -> Tensor:
        each = {
            branch: weight
            if isinstance(weight, Tensor)
            else torch.full((len(x_t),), float(weight), dtype=torch.float64)
            for branch, weight in weights.items()
        }
        rows = {branch: weight.nonzero()[:, 0].to(x_t.device) for branch, weight in each.items()}
        conditions = [self._conditions[branch][index] for branch, index in rows.items()]
        if self._apart(sum(map(len, rows.values())), x_t.device):
            parts = [
                self._evaluate(x_t[index], t, condition)
                for index, condition in zip(rows.values(), conditions, strict=True)
            ]
        else:
            every = self._evaluate(x_t[torch.cat(list(rows.values()))], t, Condition.cat(conditions))
            parts = list(torch.split(every, [len(index) for index in rows.values()]))
        total = torch.zeros_like(x_t, dtype=parts[0].dtype)
        for (branch, index), part in zip(rows.items(), parts, strict=True):
            total.index_add_(0, index, part * expand_like(each[branch].to(x_t.device)[index], part))
        return total

    def _apart(self, rows: int, device: torch.device) -> bool:
        """Whether each branch gets a network call of its own, rather than all of them one of ``rows`` rows."""
        if self.batching == "auto":
            return device.type == "cpu" and rows > FUSED_ROWS_ON_CPU
        return self.batching == "sequential"

    def _evaluate(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x0 of these rows, in one call, or in halves if that ran out of memory."""
        if self._max_rows is None or len(x_t) <= self._max_rows:
            try:
                return self.denoiser(x_t, t, condition).x0
            except torch.OutOfMemoryError:
                if self.batching != "auto" or len(x_t) == 1:
                    raise
                self._max_rows = (len(x_t) + 1) // 2
                torch.cuda.empty_cache()
        starts = range(0, len(x_t), self._max_rows)
        pieces = [slice(start, start + self._max_rows) for start in starts]
        return torch.cat([self._evaluate(x_t[piece], t, condition[piece]) for piece in pieces])


def _repeat(x: Tensor, times: int) -> Tensor:
    return x.repeat(times, *([1] * (x.ndim - 1)))


def _device_of(condition: Condition) -> torch.device:
    return next((value.device for value in condition.values.values()), torch.device("cpu"))


def _one_time(t: Tensor) -> Tensor:
    """t of shape [] or [n] -> the one time of the whole batch, []."""
    times = as_time(t).flatten()
    if not bool((times == times[0]).all()):
        raise UsageError("a guided denoiser takes one time for the whole batch, got several")
    return times[0]


def check_condition(guidance: Guidance, condition: Condition) -> None:
    """Raise UsageError when the condition of a whole run is one that the guidance never uses, or lacks."""
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
