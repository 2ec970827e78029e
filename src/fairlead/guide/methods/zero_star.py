"""CFG-Zero* (Fan 2025, 2503.18886, algorithm 1): a rescaled unconditional velocity, and velocity 0 in the first steps.

    a = <v_c, v_u> / <v_u, v_u>
    v = a v_u + scale (v_c - a v_u) = v_c + omega (v_c - a v_u)
    v = 0 in the first ``zero`` of the steps

v = eps - x0 is the velocity of a flow model. Every schedule is a rescaled flow (see ``euler``), so other schedules are
converted: a is that of the same flow, and where v is 0, x / (alpha + sigma) does not change. The paper's reason for
v = 0, a velocity that is learned badly near pure noise, and its measurements are about flow models; use ``zero=0`` for
other models.

No rows in the steps with v = 0; in the others those of the method inside. The first K = ceil(zero N) of N steps have
v = 0: the paper's 4 % are at least one step, and ``zero=0`` is none. This needs the sampler's grid. Where the method
inside is off (scale 1, outside its interval) all of this is off, per sample; diffusers keeps the steps with v = 0 then.
Other terms are added to a velocity of 0 as to any other.

It wraps ``cfg`` and other plain differences of two predictions. No wrapper except ``during`` applies to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, nonzero_rows, weighted
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import parallel
from fairlead.guide.step import Step
from fairlead.guide.terms import Ask


@dataclass(frozen=True)
class ZeroStar(Wrapper):
    """``zero_star(cfg(4))``, ``zero_star(cfg(4), zero=0)``.

    Attributes:
        zero: share of the steps, from the first, in which the velocity is 0; in [0, 1).
    """

    zero: float = field(default=0.04, kw_only=True)
    name: ClassVar[str] = "zero_star"
    of_predictions: ClassVar[bool] = True
    outermost: ClassVar[str] = "does more than a direction"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.zero) or not 0 <= self.zero < 1:
            raise UsageError(f"zero_star: expected zero to be a share of the steps in [0, 1), got {self.zero!r}")

    def needs_condition(self) -> bool:
        """Its steps of no velocity are there for samples without a condition too."""
        return self.zero == 0 and super().needs_condition()

    def still(self, step: Step) -> bool:
        """Whether the velocity is 0 at this step."""
        if self.zero == 0:
            return False
        if step.grid is None or step.index is None:
            raise UsageError(f"{self} needs the sampler's grid: sample with fl.sample, or use zero=0")
        return step.index < math.ceil(self.zero * step.grid.steps - 1e-9)

    def ask(self, at: Moment) -> Ask:
        """Minus the base while v is 0, and so not summing to 0: what is added is the whole of x0 then."""
        rows = nonzero_rows(self.omega(at))
        if rows is False or not self.still(at.step):
            return super().ask(at)
        return Ask({COND: -rows.double() if isinstance(rows, Tensor) else -1.0})

    def add(self, seen: Seen) -> Tensor | None:
        rows = nonzero_rows(self.omega(seen))
        if rows is False or not self.still(seen.step):
            return super().add(seen)
        resting = seen.zero("flow")
        return weighted(rows.double(), resting) if isinstance(rows, Tensor) else resting

    def unit(self, seen: Seen) -> Tensor:
        a, b = self.pair(seen)
        v_a, v_b = seen.output(a, "flow"), seen.output(b, "flow")
        return seen.x0(a) - seen.back(parallel(v_a, v_b), "flow")
