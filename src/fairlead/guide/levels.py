"""Levels: a scale given at some noise levels, linear in log sigma between them and constant beyond both ends.

    cfg(levels({14: 1, 2: 3, 0.5: 5}))    scale 1 above sigma 14, 3 at sigma 2, 5 below sigma 0.5, linear between

sigma is the ratio sigma / alpha as in ``during(sigma=...)``, so that levels mean the same on every schedule and at any
number of steps. It can be used wherever a scale can. Between equal values the scale is that number to the bit.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fairlead.core.arguments import plain, shown
from fairlead.core.errors import UsageError
from fairlead.guide.notation import is_number
from fairlead.guide.scales import ScaleSchedule, as_scale
from fairlead.guide.step import Step


@dataclass(frozen=True)
class AtLevels(ScaleSchedule):
    """``levels({14: 1, 2: 3, 0.5: 5})``.

    Attributes:
        values: sigma > 0 -> the scale there, a number; at least one.
    """

    values: Mapping[float, float]
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping) or not self.values:
            raise UsageError(
                f"levels: expected scales by noise level such as {{14: 1, 0.5: 5}}, got {shown(self.values)}"
            )
        checked: dict[float, float] = {}
        for given, value in self.values.items():
            sigma, scale = plain(given), as_scale("levels", value)
            if not is_number(sigma) or not 0 < sigma < math.inf:
                raise UsageError(f"levels: expected each level to be a finite sigma > 0, got {shown(sigma)}")
            if not isinstance(scale, float):
                raise UsageError(f"levels: expected one number at each level, got {shown(value)} at {sigma:g}")
            if float(sigma) in checked:
                raise UsageError(f"levels: sigma {sigma:g} is given twice")
            checked[float(sigma)] = scale
        object.__setattr__(self, "values", dict(sorted(checked.items(), reverse=True)))

    def value(self, step: Step) -> float:
        sigmas = [*self.values][::-1]  # rising
        scales = [self.values[sigma] for sigma in sigmas]
        above = bisect_left(sigmas, step.sigma)
        if above == 0 or above == len(sigmas):
            return scales[0 if above == 0 else -1]
        if sigmas[above] == step.sigma:
            return scales[above]
        low, high = math.log(sigmas[above - 1]), math.log(sigmas[above])
        share = (math.log(step.sigma) - low) / (high - low)
        return scales[above - 1] + share * (scales[above] - scales[above - 1])

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))
