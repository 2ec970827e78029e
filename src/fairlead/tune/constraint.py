"""What a recommended setting must satisfy, and how sure that is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fairlead.core.errors import UsageError, shortened
from fairlead.guide.notation import literal
from fairlead.tune.objective import Measured


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

    def feasible(self, one: Measured) -> bool:
        return self.violation(one) <= 0

    def violation(self, one: Measured) -> float:
        """By how much the estimate misses the bound; 0 or less if it does not."""
        return self._missed(one.estimate(self.metric).value)

    def holds(self, value: float) -> bool:
        return self._missed(value) <= 0

    def _missed(self, value: float) -> float:
        return self.bound - value if self.at_least else value - self.bound

    def spread(self, one: Measured) -> float:
        """The variance of one image, so that about z^2 spread / violation^2 images decide; for a share of hits that at
        the bound."""
        found = one.estimate(self.metric)
        if one.of_hits(self.metric) and 0 < self.bound < 1:
            return self.bound * (1 - self.bound) * one.n / max(found.n, 1)
        return one.n * found.error**2

    def surely(self, one: Measured, z: float) -> bool:
        low, high = one.interval(self.metric, z)
        return low >= self.bound if self.at_least else high <= self.bound

    def hopeless(self, one: Measured, z: float) -> bool:
        low, high = one.interval(self.metric, z)
        return high < self.bound if self.at_least else low > self.bound
