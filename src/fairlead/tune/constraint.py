"""What a recommended setting must satisfy, how sure that is, and where along one knob it begins to hold.

The interval of that place runs from the last setting that surely satisfies all constraints to the first that surely
breaks one. Which images narrow it most is known beforehand: a setting whose metric lies e from the bound takes about
z^2 V / e^2 images to be sure of, V the variance of one image. Settings close to the edge promise a narrow interval and
take too many, far ones are sure at once and leave it wide, so what counts is the promised narrowing an image.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairlead.core.errors import UsageError, shortened
from fairlead.guide.notation import literal
from fairlead.tune.measurements import Measurement


@dataclass(frozen=True)
class Constraint:
    """``metric >= bound`` (``at_least``) or ``metric <= bound``, for settings that may be recommended.

    A setting is feasible if its estimate satisfies the constraint, surely feasible if its whole interval does, and
    hopeless if its whole interval does not.
    """

    metric: str
    bound: float
    at_least: bool

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """From ``accuracy >= 0.99`` or ``rows <= 30``.

        Raises:
            UsageError: for anything else.
        """
        read = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*([-+.\deE]+)\s*", text)
        try:
            if read and math.isfinite(float(read[3])):
                return cls(read[1], float(read[3]), read[2] == ">=")
        except ValueError:
            pass
        given = shortened(text, 160)
        raise UsageError(f"constraint {given}: expected METRIC >= NUMBER or METRIC <= NUMBER, e.g. accuracy >= 0.99")

    def __str__(self) -> str:
        """Reads back as an equal constraint."""
        return f"{self.metric} {'>=' if self.at_least else '<='} {literal(self.bound)}"

    def feasible(self, one: Measurement) -> bool:
        return self.violation(one) <= 0

    def violation(self, one: Measurement) -> float:
        """By how much the estimate misses the bound; 0 or less if it does not."""
        return self._missed(one.estimate(self.metric).value)

    def holds(self, value: float) -> bool:
        return self._missed(value) <= 0

    def _missed(self, value: float) -> float:
        return self.bound - value if self.at_least else value - self.bound

    def spread(self, one: Measurement) -> float:
        """The variance of one image, so that about z^2 spread / violation^2 images decide; for a share of hits that at
        the bound."""
        found = one.estimate(self.metric)
        if one.of_hits(self.metric) and 0 < self.bound < 1:
            return self.bound * (1 - self.bound) * one.n / max(found.n, 1)
        return one.n * found.error**2

    def surely(self, one: Measurement, z: float) -> bool:
        low, high = one.interval(self.metric, z)
        return low >= self.bound if self.at_least else high <= self.bound

    def hopeless(self, one: Measurement, z: float) -> bool:
        low, high = one.interval(self.metric, z)
        return high < self.bound if self.at_least else low > self.bound


FINEST = 2**-10
"""Settings closer than this, in steps of the first grid, are not distinguished."""


@dataclass(frozen=True)
class Edge:
    """Settings along one knob, and two neighbours between which the constraints seem to begin to hold.

    Attributes:
        points: by their place on the knob.
        rules: the constraints.
        allowed, barred: places of the neighbours; by their estimates the first satisfies all, the second does not.
        z: standard errors within which nothing is sure.
    """

    points: Mapping[float, Measurement]
    rules: Sequence[Constraint]
    allowed: float
    barred: float
    z: float

    @property
    def side(self) -> int:
        """1 if what is barred lies above, else -1."""
        return 1 if self.barred > self.allowed else -1

    def ends(self) -> tuple[float, float]:
        """The last place that is surely allowed and the first that surely is not; ends of all places if none is."""
        order = sorted(self.points, reverse=self.side < 0)
        inside = [i for i in order if self.side * i <= self.side * self.allowed and self._surely(i)]
        outside = [i for i in order if self.side * i >= self.side * self.barred and self._hopeless(i)]
        return (inside[-1] if inside else order[0], outside[0] if outside else order[-1])

    def next(self, fewest: int, narrow: float) -> tuple[float, int] | None:
        """The place that promises to narrow the interval most for each image, and how many it should have then.

        Candidates are the places measured within the interval and the middles between them. One that is measured gets
        twice its images: more would trust a promise made by few, and with a look after every few some are sure by luck
        (with steps of 1.4 the interval is 13 % narrower, and held the edge in 167 of 180 searches, not 172).

        Args:
            fewest: images of a new setting.
            narrow: gaps up to this are not halved.

        Returns:
            None if no candidate narrows the interval.
        """
        sure, hopeless = self.ends()
        low, high = min(sure, hopeless), max(sure, hopeless)
        inner = [i for i in sorted(self.points) if low <= i <= high]
        gaps = [(a, b) for a, b in itertools.pairwise(inner) if b - a > max(narrow, FINEST)]
        offers: list[tuple[float, float, int]] = []
        for i in inner:
            decided = self._surely(i) or self._hopeless(i)
            need, inside = self._promise([i])
            right = self.side * (self.allowed - i) >= 0 if inside else self.side * (i - self.barred) >= 0
            gain = abs(i - (sure if inside else hopeless))
            have = self.points[i].n
            if right and not decided and gain > 0:
                offers.append((gain / (max(need, 2 * have) - have), i, 2 * have))
        for a, b in gaps:
            need, inside = self._promise([a, b])
            gain = abs((a + b) / 2 - (sure if inside else hopeless))
            most = max(self.points[a].n, self.points[b].n)
            need = max(need, float(fewest))
            offers.append((gain / need, (a + b) / 2, math.ceil(max(fewest, min(need, most)))))
        best = max(offers, default=None)
        return None if best is None or best[0] == 0 else (best[1], best[2])

    def _promise(self, places: Sequence[float]) -> tuple[float, bool]:
        """(images until the middle of ``places`` is decided, whether it seems to be allowed)."""
        points = [self.points[i] for i in places]
        excess = [sum(rule.violation(one) for one in points) / len(points) for rule in self.rules]
        spread = [sum(rule.spread(one) for one in points) / len(points) for rule in self.rules]
        need = [self.z**2 * v / e**2 if e else math.inf for v, e in zip(spread, excess, strict=True)]
        broken = [images for images, e in zip(need, excess, strict=True) if e > 0]
        return (min(broken), False) if broken else (max(need), True)

    def _surely(self, place: float) -> bool:
        return all(rule.surely(self.points[place], self.z) for rule in self.rules)

    def _hopeless(self, place: float) -> bool:
        return any(rule.hopeless(self.points[place], self.z) for rule in self.rules)
