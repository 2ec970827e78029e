"""One number to be found, and the axis on which a search walks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fairlead.core.errors import UsageError


@dataclass(frozen=True)
class Knob:
    """One number to be found, between ``low`` and ``high``.

    Attributes:
        log: whether steps are ratios, as for a scale; else differences.
        lowest, highest: how far the range may be extended if the best lies at its end; default not at all.

    Raises:
        UsageError: unless lowest <= low < high <= highest, all > 0 with ``log``.
    """

    low: float
    high: float
    log: bool = True
    lowest: float | None = None
    highest: float | None = None

    def __post_init__(self) -> None:
        lowest, highest = self.ends
        if not (lowest <= self.low < self.high <= highest and all(map(math.isfinite, (lowest, highest)))):
            raise UsageError(
                f"knob: expected lowest <= low < high <= highest, got {lowest}, {self.low}, {self.high}, {highest}"
            )
        if self.log and lowest <= 0:
            raise UsageError(f"knob from {lowest:g}: steps of ratios need a range above 0; raise it or take log=False")

    @property
    def ends(self) -> tuple[float, float]:
        return (
            self.low if self.lowest is None else self.lowest,
            self.high if self.highest is None else self.highest,
        )

    def place(self, value: float) -> float:
        """Where ``value`` lies on the axis of the fit."""
        return math.log(value) if self.log else value

    def value(self, place: float) -> float:
        """The inverse of :meth:`place`; infinite places are taken for the ends, and none lies beyond them."""
        lowest, highest = self.ends
        if place <= self.place(lowest) or place >= self.place(highest):
            return lowest if place <= self.place(lowest) else highest
        return math.exp(place) if self.log else place
