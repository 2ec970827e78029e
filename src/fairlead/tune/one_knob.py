"""The best value of one knob, with its interval: settings on common seeds, a local parabola, more where it counts.

With common seeds neighbouring settings rise and fall together, so that the slope between them is known far better than
either value, and as well over a short distance as over a long one. Hence few settings, close together, of many seeds;
never a bracket that trusts single comparisons (golden section). What each choice rests on: ``benchmarks/tune.py``.
Over 300 lines: the search is one state machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments
from fairlead.measure.metrics import PER_FEATURE, few_for_features
from fairlead.tune.constraint import Constraint, Edge
from fairlead.tune.measurements import DISTANCE, Goal, Measure, Measurement, Together, z_of
from fairlead.tune.parabola import Vertex, parabola
from fairlead.tune.recommend import Recommended, alike, lowest, recommend
from fairlead.tune.template import Knob

GRID = 7
"""Settings of the first grid."""

FEWEST = 5
"""Settings of a fit that shows whether it is a parabola: three for it, one for its cubic term, one to spare."""

LEAST = 8
"""Images of a setting, at least."""

CORE = 3
"""Settings that get more seeds once it is one: they share the budget, and more of them know the slope no better."""

WIDENING = 0.25
"""The part of the interval that the cubic term may add before the window is halved."""

FINE = 0.025
"""The part of the range between neighbours below which the spacing is not halved for want of a parabola."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        value: of the knob where the loss is lowest; between measured settings where a parabola fits.
        low, high: its interval.
        points: everything measured, in the order of the knob.
        images: drawn in all.
        vertex: of the last parabola; None where the best lies at an end of the range or of what a constraint allows.
        recommended: None if no measured setting is feasible.
        notes: what the reader has to know, a sentence each.
    """

    value: float
    low: float
    high: float
    points: tuple[Measurement, ...]
    images: int
    vertex: Vertex | None
    recommended: Recommended | None
    notes: tuple[str, ...]


def search(
    measure: Measure,
    reference: Moments | None,
    knob: Knob,
    *,
    budget: int,
    objective: Goal | None = None,
    constraints: Sequence[Constraint] = (),
    settings: int | None = None,
    first: int | None = None,
    wanted: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
    kept: int = 0,
) -> Found:
    """Find the best value of ``knob`` with at most ``budget`` images.

    A grid over the whole range is measured on few seeds. Then, until the interval is as narrow as ``wanted`` or the
    budget is spent: the window of five settings is moved if the vertex lies outside; its spacing is halved if the cubic
    term widens the interval by more than a quarter; else the settings that overlap with the best, and the three about
    the vertex, get twice the seeds.
    Where a constraint keeps the best out, it is the edge of what it allows that is found, see :class:`Edge`.

    Args:
        measure: see :class:`Measure`.
        reference: moments of the real features; None where no distance is measured.
        budget: images.
        objective: default the debiased distance.
        constraints: what a recommended setting must satisfy.
        settings: of the grid, at least 5; default 7, or 5 where the budget does not pay for 7.
        first: images per setting of the grid; by default what an eighth of the budget pays for, and for a distance
            at least 4 for each feature as far as the grid costs no more than half.
        wanted: half the width of the interval, relative to the value with ``Knob.log``, at which the search may stop.
        level: of all intervals.
        seed: the first; the search uses consecutive ones.
        kept: images of the budget that are only for the edge of a constraint, and left for the caller where none is.

    Raises:
        UsageError: if the budget does not pay for the grid.
    """
    objective, z = objective or Goal(), z_of(level)
    budget -= kept
    width = reference.d if reference is not None and objective.metric == DISTANCE else 0
    settings, first, notes = _grid(budget, width, settings, first)
    if settings < FEWEST or first < LEAST or first * settings > budget:
        raise UsageError(
            f"search: {settings} settings of {first} images and a budget of {budget}; expected at least {FEWEST} "
            f"settings of {LEAST} images within the budget"
        )
    state = _Search(measure, reference, knob, objective, tuple(constraints), budget, settings, first, wanted, z, seed)
    state.notes += notes
    state.kept = kept
    return state.run()


def _grid(budget: int, width: int, settings: int | None, first: int | None) -> tuple[int, int, list[str]]:
    """(settings, images of each, what is to be said of them) of the first grid; ``width`` features of a distance."""
    if first is not None:
        return settings or GRID, first, []
    sizes = (settings,) if settings else (GRID, FEWEST)
    for size in sizes:
        first = max(LEAST, PER_FEATURE * width, budget // (8 * size))
        if 2 * first * size <= budget:
            return size, first, []
    size = sizes[-1]
    first = max(LEAST, budget // (2 * size))
    few = few_for_features(first, width, each=f" for each of the {size} first settings,")
    more = 2 * PER_FEATURE * width * size / budget
    return size, first, [f"{few}; the first choices rest on noise, {more:.1f} times the budget would do"] if few else []


class _Search:
    """Settings by their index on the grid: 0 to settings - 1 as it was at first, fractions (powers of 1/2) between."""

    def __init__(
        self,
        measure: Measure,
        reference: Moments | None,
        knob: Knob,
        objective: Goal,
        constraints: tuple[Constraint, ...],
        budget: int,
        settings: int,
        first: int,
        wanted: float,
        z: float,
        seed: int,
    ) -> None:
        self.measure, self.reference, self.knob, self.objective = measure, reference, knob, objective
        self.constraints, self.budget, self.wanted, self.z, self.seed = constraints, budget, wanted, z, seed
        self.n, self.kept, self.settings = first, 0, settings - 1
        self.origin = knob.place(knob.low)
        self.spacing = (knob.place(knob.high) - self.origin) / (settings - 1)
        self.step, self.widening = 1.0, 0.0
        self.window = [float(i) for i in range(settings)]
        self.points: dict[float, Measurement] = {}
        self.notes: list[str] = []
        lowest, highest = knob.ends
        self.least = math.ceil(self.index(knob.place(lowest)) - 1e-9)
        self.most = math.floor(self.index(knob.place(highest)) + 1e-9)

    def place(self, index: float) -> float:
        return self.origin + self.spacing * index

    def index(self, place: float) -> float:
        return (place - self.origin) / self.spacing

    @property
    def images(self) -> int:
        return sum(one.n for one in self.points.values())

    def take(self, indices: Iterable[float], n: int) -> bool:
        """Measure what is missing there; False, and nothing measured, if the budget does not pay for it."""
        wanted = sorted(set(indices))
        cost = sum(max(0, n - (self.points[i].n if i in self.points else 0)) for i in wanted)
        if self.images + cost > self.budget:
            return False
        for i in wanted:
            if i in self.points:
                self.points[i] = self.points[i].more(self.measure, n)
            else:
                setting, seeds = (self.knob.value(self.place(i)),), range(self.seed, self.seed + n)
                self.points[i] = Measurement(setting, seeds, self.measure(setting, seeds), self.reference)
        return True

    def run(self) -> Found:
        self.take(self.window, self.n)
        first = self.objective.of([self.points[i] for i in self.window])
        self.window = self.around(self.window[int(first.values.argmin())])
        self.take(self.window, self.n)
        visited: set[tuple[float, ...]] = set()
        while True:
            if (edge := self.barred()) is not None:
                if self.narrow(edge):
                    continue
                return self.at_edge(edge)
            losses = self.objective.of([self.points[i] for i in self.window])
            best = self.window[int(losses.values.argmin())]
            vertex = parabola([self.place(i) for i in self.window], losses, self.z, self.widening)
            at = best if vertex.flat else min(max(self.index(vertex.place), self.least), self.most)
            ends = self.window[0], self.window[-1]
            if best in ends if vertex.flat else not ends[0] <= at <= ends[1]:
                moved = self.around(best)
                if (self.n, *moved) not in visited and self.take(moved, self.n):
                    visited.add((self.n, *moved))
                    self.window, self.widening = moved, 0.0
                    continue
            half = (vertex.high - vertex.low) / 2
            bent = not vertex.flat and vertex.widening > WIDENING * half
            # a window that is no parabola says nothing of what lies beyond the end of the range, or just inside of it
            at_end = not vertex.flat and not bent and self.beyond(vertex)
            alone = (vertex.flat or at_end) and self.alone(losses, at)
            if alone and self.step > FINE * self.settings and self.halve(at):
                continue
            if not vertex.flat and (half <= self.wanted or alone):
                if (found := self.settled(vertex, at, best)) is not None:
                    return found
                continue
            if bent and self.halve(at):
                continue
            self.widening = 0.0 if vertex.flat else vertex.widening
            sizes = (FEWEST, CORE) if bent or vertex.flat else (CORE,)
            if any(self.more(at, best, losses, fewest) for fewest in sizes):
                continue
            if (found := self.settled(vertex, at, best)) is not None:
                return found

    def halve(self, at: float) -> bool:
        """Halve the step, about ``at``; False if the budget does not pay for it."""
        self.step /= 2
        finer = self.around(at)
        if self.take(finer, self.n):
            self.window, self.widening = finer, 0.0
            return True
        self.step *= 2
        return False

    def more(self, at: float, best: float, losses: Together, fewest: int) -> bool:
        """Twice the seeds, or what the budget pays for, for the settings that overlap with the best and the ``fewest``
        about ``at``; False if the budget pays for next to nothing."""
        differences = [losses.difference(j, self.window.index(best)) for j in range(len(self.window))]
        overlap = [i for i, d in zip(self.window, differences, strict=True) if d.value <= self.z * d.error]
        window = self.around(at, overlap, fewest)
        have = sum(self.points[i].n for i in window if i in self.points)
        n = min(2 * self.n, (self.budget - self.images + have) // len(window))
        if n < 1.05 * self.n or not self.take(window, n):
            return False
        self.n, self.window = n, window
        return True

    def around(self, at: float, overlap: Sequence[float] = (), fewest: int = FEWEST) -> list[float]:
        """At least so many indices about ``at`` in the present step, in the range, and the span of ``overlap``."""
        least, most = math.ceil(self.least / self.step), math.floor(self.most / self.step)
        low = max(least, min(round(at / self.step) - fewest // 2, most - fewest + 1))
        high = low + fewest - 1
        if overlap:
            low, high = min(low, round(overlap[0] / self.step)), max(high, round(overlap[-1] / self.step))
        return [self.step * i for i in range(low, high + 1)]

    def beyond(self, vertex: Vertex) -> bool:
        """Whether the whole interval lies outside the range."""
        return vertex.high < self.place(self.least) or vertex.low > self.place(self.most)

    def alone(self, losses: Together, at: float) -> bool:
        """Whether the settings next to ``at`` are surely worse: the best may lie between, and no more seeds show it."""
        i = self.window.index(at)
        differences = [losses.difference(j, i) for j in (i - 1, i + 1) if 0 <= j < len(self.window)]
        return all(difference.value > self.z * difference.error for difference in differences)

    def barred(self) -> Edge | None:
        """Between the best setting that the constraints allow and one next to it that they do not and that may be
        lower; None where there is none."""
        allowed = {i for i, one in self.points.items() if all(rule.feasible(one) for rule in self.constraints)}
        if not allowed or len(allowed) == len(self.points):
            return None
        best = lowest([self.points[i] for i in allowed], self.objective, self.z)
        order = sorted(self.points)
        k = next(k for k, i in enumerate(order) if self.points[i] is best)
        beside = [i for i in (*order[max(0, k - 1) : k], *order[k + 1 : k + 2]) if i not in allowed]
        differences = [self.objective.of([self.points[i], best]).difference(0, 1) for i in beside]
        lower = [i for i, d in zip(beside, differences, strict=True) if d.value < self.z * d.error]
        return Edge(self.points, self.constraints, order[k], lower[0], self.z) if lower else None

    def narrow(self, edge: Edge) -> bool:
        """Measure what narrows the interval of the edge most; False when it is narrow enough or the budget is spent."""
        sure, hopeless = edge.ends()
        if self.spacing * abs(sure - hopeless) <= 2 * self.wanted:
            return False
        new = self.budget - self.images >= self.n
        offer = edge.next(self.n, 2 * self.wanted / self.spacing if new else math.inf)
        if offer is not None and self.add(*offer):
            return True
        self.budget, more, self.kept = self.budget + self.kept, self.kept > 0, 0
        return more and offer is not None and self.narrow(edge)

    def at_edge(self, edge: Edge) -> Found:
        rules = " and ".join(map(str, self.constraints))
        self.notes.append(
            f"the best lies beyond what {rules} allows; the interval runs from the last setting that surely satisfies "
            "it to the first that surely does not"
        )
        low, high = sorted(map(self.place, edge.ends()))
        return self.result(self.place(edge.allowed), low, high, None)

    def settled(self, vertex: Vertex, at: float, best: float) -> Found | None:
        """The answer; None where the constraints asked for more images, at the best place or at the edge towards it."""
        centre = min(self.points, key=lambda i: (abs(i - at), i != best))
        one = self.points[centre]
        allowed = [i for i, other in self.points.items() if all(rule.feasible(other) for rule in self.constraints)]
        if centre in allowed or not allowed:
            known = all(rule.surely(one, self.z) or rule.hopeless(one, self.z) for rule in self.constraints)
            return self.found(vertex, best) if known or not self.add(centre, 2 * one.n) else None
        nearest, order = min(allowed, key=lambda i: abs(i - centre)), sorted(self.points)
        beside = order[order.index(nearest) + (1 if centre > nearest else -1)]
        edge = Edge(self.points, self.constraints, nearest, beside, self.z)
        return None if self.narrow(edge) else self.at_edge(edge)

    def add(self, index: float, n: int) -> bool:
        """``n`` images there, or what the budget pays for; False if that is next to nothing."""
        have = self.points[index].n if index in self.points else 0
        n = min(n, self.budget - self.images + have)
        return n >= (1.05 * have or self.n) and self.take([index], n)

    def found(self, vertex: Vertex, best: float) -> Found:
        end = self.most if vertex.place > self.place(self.most) else self.least
        outside = not self.place(self.least) <= vertex.place <= self.place(self.most)
        if not vertex.flat and not outside:
            return self.result(vertex.place, vertex.low, vertex.high, vertex)
        centre = best if vertex.flat else end
        if centre not in self.points:
            centre = best
        near = alike(self.points[centre], list(self.points.values()), self.objective, self.z)
        places = [self.knob.place(one.setting[0]) for one in near]
        if vertex.flat:
            self.notes.append(
                f"flat: the curvature {vertex.curvature} is statistically indistinguishable from 0; the interval "
                "holds all measured settings that are statistically indistinguishable from the best"
            )
        else:
            self.notes.append(
                f"the best lies at the end of the range, {self.knob.value(self.place(end)):g}; extend the range there, "
                "because the loss still falls"
            )
        return self.result(self.place(centre), min(places), max(places), None)

    def result(self, place: float, low: float, high: float, vertex: Vertex | None) -> Found:
        points = tuple(self.points[i] for i in sorted(self.points))
        best = recommend(points, self.objective, self.constraints, self.z)
        if best is None:
            rules = " and ".join(map(str, self.constraints))
            near = min(points, key=lambda one: max(rule.violation(one) for rule in self.constraints))
            found = ", ".join(f"{rule.metric} {near.estimate(rule.metric)}" for rule in self.constraints)
            self.notes.append(f"no setting satisfies {rules}; {near.setting[0]:g} comes nearest: {found}")
        value = self.knob.value
        return Found(value(place), value(low), value(high), points, self.images, vertex, best, tuple(self.notes))
