"""Momentum guidance: away from the mean of the velocities before this one (Liao 2026, 2602.20360, algorithm 1).

    v' = v + strength (v - m)
    m <- decay m + (1 - decay) v,  from m = v in the first step, which is therefore not changed

v = eps - x0 is the velocity of a flow model, guided by everything before the bar; m averages velocities as they were
before this method changed them (eq. 11 and 12). Other schedules are rescaled flows and are converted. No rows, because
earlier predictions of the run are reused. The paper uses strength 0.5 and decay 0.6 together with ``cfg``.

``decay=0, strength=0.5`` with ``euler`` at equal steps is the second-order method of Adams and Bashforth, so part of
the paper's gain at few steps comes from a better solver. Multistep samplers (``dpmpp_2m``) and ``heun`` have that gain
already. Another implementation averages x0 instead of the velocity. Along a run v changes by -1 / sigma times the
change of x0, so that average weights the steps differently and agrees only to first order in the step.
``strength=0`` is off. The mean is reset at each run and updated once per step, at the first evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import is_zero, weighted
from fairlead.guide.moment import Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.scales import ScaleSchedule, as_scale, scale_at
from fairlead.guide.terms import Finisher


@dataclass(frozen=True)
class History(Finisher):
    """``none | history(0.5)``, ``cfg(2) | history(0.5, 0.6)``, ``cfg(2) | history(levels({4: 0.5, 2: 0}))``.

    Attributes:
        strength: a number, or a schedule such as ramp(0.5, 0); 0 is off.
        decay: share of the mean that is kept in each step, in [0, 1); 0 keeps the last step only.
    """

    strength: float | ScaleSchedule
    decay: float = 0.6
    name: ClassVar[str] = "history"

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "strength", one_scale(self.name, "strength", self.strength))
        if not is_number(self.decay) or not 0 <= self.decay < 1:
            raise UsageError(f"history: expected decay in [0, 1), such as 0.6, got {self.decay!r}")

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        velocity, mean = seen.to(x0, "flow"), seen.recall(self)
        seen.remember(self, velocity if mean is None else self.decay * mean + (1 - self.decay) * velocity)
        strength = scale_at(self.strength, seen.step)
        if mean is None or is_zero(strength):
            return x0
        return x0 - seen.sigma / (seen.alpha + seen.sigma) * weighted(strength, velocity - mean)


def one_scale(owner: str, argument: str, value: object) -> float | ScaleSchedule:
    """A strength that is the same for all samples: a number or a schedule.

    Raises:
        UsageError: for anything else.
    """
    scale = as_scale(owner, value)
    if isinstance(scale, tuple):
        raise UsageError(f"{owner}: expected {argument} to be one number or a schedule, got one per sample")
    return scale
