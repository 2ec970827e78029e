"""What a denoiser returns, and the conversions between the four things a network may be trained to output.

With x_t = alpha x0 + sigma eps and n = hypot(alpha, sigma) (1 for variance-preserving schedules):

    eps   x0 = (x_t - sigma eps) / alpha                    Ho et al. 2020, 2006.11239
    x0    eps = (x_t - alpha x0) / sigma
    v     v = (alpha eps - sigma x0) / n                    Salimans & Ho 2022, 2202.00512; on VE this is EDM's
          x0 = (alpha x_t / n - sigma v) / n                preconditioning with sigma_data = 1 (2206.00364, table 1)
    flow  u = eps - x0, x0 = (x_t - sigma u) / (alpha + sigma)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.schedule import NoiseSchedule

Objective = Literal["eps", "v", "x0", "flow"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The posterior mean ``x0`` of the data and the ``eps`` used to re-noise, both [n, ...] like x_t.

    They are tied by x_t = alpha x0 + sigma eps unless a method separates them on purpose.
    """

    x0: Tensor
    eps: Tensor

    @classmethod
    def from_x0(cls, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return cls(x0, (x_t - alpha * x0) / sigma)

    @classmethod
    def from_output(cls, output: Tensor, objective: Objective, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From the raw output of a network trained for ``objective``; ``alpha``, ``sigma`` broadcast against x_t."""
        if objective == "eps":
            return cls((x_t - sigma * output) / alpha, output)
        if objective == "x0":
            return cls.from_x0(output, x_t, alpha, sigma)
        if objective == "v":
            norm2 = alpha**2 + sigma**2
            root = norm2.sqrt()
            x0 = (alpha / norm2) * x_t - (sigma / root) * output
            return cls(x0, (sigma / norm2) * x_t + (alpha / root) * output)
        if objective == "flow":
            total = alpha + sigma
            return cls((x_t - sigma * output) / total, (x_t + alpha * output) / total)
        raise unknown("objective", objective, get_args(Objective))

    def output(self, objective: Objective, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What a network trained for ``objective`` would have returned: the inverse of :meth:`from_output`."""
        return target(self.x0, self.eps, objective, alpha, sigma)


def target(x0: Tensor, eps: Tensor, objective: Objective, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The regression target of ``objective`` for clean data ``x0`` and noise ``eps``."""
    if objective == "eps":
        return eps
    if objective == "x0":
        return x0
    if objective == "v":
        return (alpha * eps - sigma * x0) / (alpha**2 + sigma**2).sqrt()
    if objective == "flow":
        return eps - x0
    raise unknown("objective", objective, get_args(Objective))


def check_pair(objective: str, schedule: NoiseSchedule) -> None:
    """Reject an eps network on a schedule that ends in pure noise: x0 = (x_t - sigma eps) / 0 there."""
    if objective not in get_args(Objective):
        raise unknown("objective", objective, get_args(Objective))
    if objective == "eps" and schedule.zero_terminal_snr:
        raise UsageError(
            f"objective 'eps' cannot be used with schedule {schedule.config()['name']!r}: alpha is 0 at t = 1, and "
            "x0 = (x_t - sigma eps) / alpha divides by it; use objective 'v', 'x0' or 'flow', or a schedule with "
            "alpha(1) > 0"
        )
