"""The measurements of a :class:`fairlead.sample.trace.Trace`: every evaluation of a guidance, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairlead.core.denoiser import counting
from fairlead.data.images import to_uint8
from fairlead.guide.branch import COND, NULL, Branch, Weight, is_zero
from fairlead.guide.moment import Moment
from fairlead.guide.observation import Observation
from fairlead.guide.pairs import DirectedTerm, LimitedTerm, Wrapper
from fairlead.guide.per_sample import dot, ratio
from fairlead.guide.scales import ScaleSchedule, scale_at
from fairlead.guide.terms import Ask, Term
from fairlead.sample.run import Plan

PER_STEP = {
    "condition": "size (root mean square) of the conditional prediction of x0, D_c",
    "total": "size of what all terms together add to it",
    "strength": "that size, divided by the size of D_c",
    "finished": "size of the change after the finishers",
    "effective": "effective scale: the w for which cfg(w) comes closest, 1 + <total, D_c - D_u> / |D_c - D_u|^2",
    "effective_finished": "the same after the finishers",
    "outside_condition": "share of D_c outside the data range",
    "outside": "share of the guided x0 outside the data range, before the finishers",
    "outside_finished": "the same after the finishers",
}
PER_TERM = {
    "scale": "scale of the term at this step, as it is written in its expression",
    "size": "size of what the term adds to x0, its scale included",
    "angle": "angle between what it adds and D_c, in degrees",
}
FILM_COLUMNS, FILM_ROWS = 10, 8


@dataclass(frozen=True)
class NonFinite:
    """The first value that is not finite: what made it, in which step (from 0), for which seed."""

    what: str
    step: int
    seed: int

    def __str__(self) -> str:
        return f"first value that is not finite: {self.what}, step {self.step + 1}, seed {self.seed}"


@dataclass(eq=False)
class Watcher:
    """Measures every first evaluation of a step into [steps, n] arrays."""

    plan: Plan
    compare: bool
    extra_rows: int = 0
    compared_rows: int = 0
    broken: NonFinite | None = None
    _done: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        steps, n, terms = self.plan.sampling.steps, len(self.plan.seeds), len(self.plan.guidance.terms)
        self.step = {name: _unknown(steps, n) for name in PER_STEP}
        self.term = {name: _unknown(terms, steps, n) for name in PER_TERM}
        self.between = _unknown(terms, terms, steps, n)
        self.coefficients: dict[str, Tensor] = {}
        self.alters = [False] * terms
        columns = min(steps, FILM_COLUMNS)
        self.film_steps = tuple(round(k * (steps - 1) / max(1, columns - 1)) for k in range(columns))
        self._film = _unknown(min(n, FILM_ROWS), 2, columns, *self.plan.model.shape)

    def __call__(self, batch: slice, observed: Observation) -> None:
        i = observed.seen.step.index
        if i is None or (i, batch.start) in self._done:
            return
        self._done.add((i, batch.start))
        self._find_broken(batch, observed, i)
        cond, null = self._known(COND, observed), self._known(NULL, observed)
        for branch, weight in observed.coefficients.items():
            everywhere = self.coefficients.setdefault(_name(branch), torch.zeros_like(self.step["condition"]))
            everywhere[i, batch] = _mean(weight)
        parts = [self._part(ask, part, observed) for ask, (_, part) in zip(observed.asks, observed.parts, strict=True)]
        for k, (term, _) in enumerate(observed.parts):
            self.alters[k] |= observed.asks[k].alter is not None
            scale = _scale(term, observed.seen)
            if scale is not None:
                self.term["scale"][k, i, batch] = scale
            self.term["size"][k, i, batch] = _size(parts[k])
            self.term["angle"][k, i, batch] = _angle(parts[k], cond)
            for j in range(len(parts)):
                self.between[k, j, i, batch] = _angle(parts[k], parts[j])
        guided, finished = (x0.detach().double().cpu() for x0 in (observed.guided, observed.finished))
        found = {
            "condition": _size(cond),
            "total": _size(guided - cond),
            "strength": ratio(_size(guided - cond), _size(cond), math.nan),
            "finished": _size(finished - cond),
            "effective": _effective(guided, cond, null),
            "effective_finished": _effective(finished, cond, null),
            "outside_condition": self._outside(cond),
            "outside": self._outside(guided),
            "outside_finished": self._outside(finished),
        }
        for name, value in found.items():
            self.step[name][i, batch] = value
        for column, at in enumerate(self.film_steps):
            rows = self._film[batch]
            if at == i and len(rows):
                rows[:, 0, column], rows[:, 1, column] = cond[: len(rows)], finished[: len(rows)]

    def _known(self, branch: Branch, observed: Observation) -> Tensor:
        """x0 of a branch, float64 [n, ...], nan for the samples it was not evaluated for."""
        seen = observed.seen
        if seen.has(branch):
            rows = observed.rows[branch]
            if rows is None:
                return seen.x0(branch).detach().double().cpu()
            if not self.compare:
                x0 = seen.x0(branch).detach().double().cpu()
                return x0.masked_fill(~_rows(rows.cpu(), x0), math.nan)
        if not self.compare:
            return torch.full(seen.x_t.shape, math.nan, dtype=torch.float64)
        with counting() as extra:
            x0 = seen.evaluate(branch, seen.x_t).detach().double().cpu()
        self.extra_rows += extra.rows
        return x0

    @staticmethod
    def _part(ask: Ask, part: Tensor, observed: Observation) -> Tensor:
        """What the term added; nan for samples that one of its branches was left out for, and for a term that acts
        through the condition, whose share cannot be separated."""
        total = part.detach().double().cpu()
        if ask.alter is not None:
            return torch.full_like(total, math.nan)
        for branch, weight in ask.weights.items():
            if is_zero(weight):
                continue
            if not observed.seen.has(branch):
                return torch.full_like(total, math.nan)
            rows = observed.rows[branch]
            if rows is not None:
                off = torch.zeros(len(total), dtype=torch.bool) if not isinstance(weight, Tensor) else _off(weight)
                total = total.masked_fill(~_rows(rows.cpu() | off.cpu(), total), math.nan)
        return total

    def _outside(self, x0: Tensor) -> Tensor:
        """Share of each sample outside the data range, [n]."""
        if self.plan.model.data_range is None:
            return _unknown(len(x0))
        low, high = self.plan.model.data_range
        slack = 1e-6 * (high - low)
        share = ((x0 < low - slack) | (x0 > high + slack)).double().flatten(1).mean(1)
        return share.masked_fill(~x0.isfinite().flatten(1).all(1), math.nan)

    def _find_broken(self, batch: slice, observed: Observation, step: int) -> None:
        if self.broken is not None:
            return
        seen = observed.seen
        suspects = [("the sampler's state", seen.x_t)]
        suspects += [(f"the network's prediction, branch {_name(b)}", x0) for b, x0 in seen.predictions.items()]
        suspects += [(str(term), part) for term, part in observed.parts]
        suspects.append(("the sum of the terms", observed.guided))
        suspects.append((" | ".join(map(str, self.plan.guidance.finishers)), observed.finished))
        for what, value in suspects:
            bad = ~value.isfinite().flatten(1).all(1)
            if bool(bad.any()):
                self.broken = NonFinite(what, step, self.plan.seeds[batch.start + int(bad.nonzero()[0])])
                return

    def developed(self) -> Tensor | None:
        """The film as uint8 images, mid-grey where nothing is known."""
        film = self._film
        flat = film.reshape(-1, *self.plan.model.shape)
        unknown = ~flat.isfinite().flatten(1).all(1)
        with torch.no_grad():
            decoded = self.plan.model.decode(flat.nan_to_num(0, 0, 0).float().to(self.plan.model.device)).cpu()
        if decoded.ndim != 4:
            return None
        images = to_uint8(decoded)
        images[unknown] = 128
        return images.reshape(*film.shape[:3], *images.shape[1:])


def _scale(term: Term, at: Moment) -> Tensor | float | None:
    """The scale of a term as its expression writes it: 1 is off for those that count from a base, else 0."""
    inner, on = term, True
    while isinstance(inner, LimitedTerm):
        on = on and inner.limits.contains(at.step)
        inner = inner.term
    if isinstance(inner, DirectedTerm):
        base: Term = inner
        while isinstance(base, Wrapper):
            base = base.term
        return _mean(inner.omega(at) if on else 0.0) + float(getattr(base, "off", 0.0))
    scale = getattr(inner, "scale", None)
    if isinstance(scale, bool) or not isinstance(scale, float | int | tuple | ScaleSchedule):
        return None
    return _mean(scale_at(scale, at.step)) if on else 0.0


def _mean(weight: Weight) -> Tensor | float:
    """One number, or one per sample [n], of a weight that may be a map over pixels."""
    if not isinstance(weight, Tensor):
        return weight
    if weight.ndim <= 1:
        return weight.double().cpu()
    each = weight.double().flatten(1).mean(1).cpu()
    return each if len(each) > 1 else float(each)


def _effective(x0: Tensor, cond: Tensor, null: Tensor) -> Tensor:
    """1 + <x0 - cond, cond - null> / |cond - null|^2, [n]; 1 and 0 where x0 is one of the two to the bit."""
    difference = cond - null
    scale = 1 + ratio(dot(x0 - cond, difference), dot(difference, difference), math.nan).flatten()
    scale = scale.masked_fill((x0 == null).flatten(1).all(1), 0.0)
    return scale.masked_fill((x0 == cond).flatten(1).all(1), 1.0)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between a and b, [n], exact near 0 and 180 too; nan where one of them is 0."""
    a, b = a.flatten(1), b.flatten(1)
    u, v = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)))


def _size(x0: Tensor) -> Tensor:
    return x0.square().flatten(1).mean(1).sqrt()


def _unknown(*shape: int) -> Tensor:
    return torch.full(shape, math.nan, dtype=torch.float64)


def _rows(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *([1] * (x.ndim - 1)))


def _off(weight: Tensor) -> Tensor:
    """The samples that a weight is 0 for."""
    return ~weight.reshape(len(weight), -1).any(1)


def _name(branch: Branch) -> str:
    base = "null" if branch.null else "condition" if branch.spec is None else str(branch.spec)
    worse, more = branch.perturb, []
    if worse is not None and branch.away is not None:
        more = [f"reading away from {_name(branch.away)}, {worse.amount:g}"]
    elif worse is not None:
        more = [f"{worse.kind} in {'/'.join(worse.layers)}"]
    more += [f"of {branch.model}"] if branch.model is not None else []
    more += [f"from {branch.make}"] if branch.make is not None else []
    return ", ".join([base, *more])
