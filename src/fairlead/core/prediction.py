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
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.schedule import NoiseSchedule

Objective = Literal["eps", "v", "x0", "flow"]


@dataclass(frozen=True, eq=False)
class Mixing:
    """x_t = alpha x0 + sigma eps, with ``alpha`` and ``sigma`` that broadcast against x_t. The factors of the
    conversions are worked out once: beside a small network that arithmetic on single numbers is what costs."""

    alpha: Tensor
    sigma: Tensor

    @cached_property
    def root(self) -> Tensor:
        """hypot(alpha, sigma)."""
        with torch.inference_mode(False):  # it may outlive the block
            return (self.alpha**2 + self.sigma**2).sqrt()

    @cached_property
    def noise_share(self) -> Tensor:
        """sigma^2 / (alpha^2 + sigma^2)."""
        with torch.inference_mode(False):
            return self.sigma**2 / (self.alpha**2 + self.sigma**2)

    @cached_property
    def signal(self) -> Tensor:
        """alpha / sigma, float64."""
        with torch.inference_mode(False):
            return (self.alpha / self.sigma).double()

    @cached_property
    def _of_v(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Factors of (x_t, v) in x0, then in eps."""
        with torch.inference_mode(False):
            norm2 = self.alpha**2 + self.sigma**2
            return self.alpha / norm2, self.sigma / self.root, self.sigma / norm2, self.alpha / self.root

    def eps(self, x0: Tensor, x_t: Tensor) -> Tensor:
        return (x_t - self.alpha * x0) / self.sigma

    def x0_of(self, output: Tensor, objective: Objective, x_t: Tensor) -> Tensor:
        """x0 from the raw output of a network trained for ``objective``."""
        if objective == "eps":
            return (x_t - self.sigma * output) / self.alpha
        if objective == "x0":
            return output
        if objective == "v":
            of_x_t, of_v, _, _ = self._of_v
            return torch.addcmul(of_x_t * x_t, of_v, output, value=-1)
        if objective == "flow":
            return torch.addcmul(x_t, self.sigma, output, value=-1) / (self.alpha + self.sigma)
        raise unknown("objective", objective, get_args(Objective))

    def zero(self, objective: Objective, x_t: Tensor) -> Tensor:
        """The x0 for which a network trained for ``objective`` returns 0: what it returns is a multiple of x0 - zero,
        with a factor that is the same for all samples at a time."""
        if objective == "eps":
            return x_t / self.alpha
        if objective == "x0":
            return torch.zeros_like(x_t)
        if objective == "v":
            return self._of_v[0] * x_t
        if objective == "flow":
            return x_t / (self.alpha + self.sigma)
        raise unknown("objective", objective, get_args(Objective))

    def eps_of(self, output: Tensor, objective: Objective, x_t: Tensor) -> Tensor:
        """eps from the raw output of a network trained for ``objective``."""
        if objective == "eps":
            return output
        if objective == "x0":
            return self.eps(output, x_t)
        if objective == "v":
            _, _, of_x_t, of_v = self._of_v
            return torch.addcmul(of_x_t * x_t, of_v, output)
        if objective == "flow":
            return (x_t + self.alpha * output) / (self.alpha + self.sigma)
        raise unknown("objective", objective, get_args(Objective))

    def output(self, x0: Tensor, x_t: Tensor, objective: Objective) -> Tensor:
        """What a network trained for ``objective`` would have returned for this x0: the inverse of :meth:`x0_of`."""
        if objective == "x0":
            return x0
        return self.target(x0, self.eps(x0, x_t), objective)

    def target(self, x0: Tensor, eps: Tensor, objective: Objective) -> Tensor:
        """The regression target of ``objective`` for clean data ``x0`` and noise ``eps``."""
        if objective == "eps":
            return eps
        if objective == "x0":
            return x0
        if objective == "v":
            return (self.alpha * eps - self.sigma * x0) / self.root
        if objective == "flow":
            return eps - x0
        raise unknown("objective", objective, get_args(Objective))


class Prediction:
    """The posterior mean ``x0`` of the data and the ``eps`` used to re-noise, both [n, ...] like x_t.

    They are tied by x_t = alpha x0 + sigma eps unless a method separates them on purpose.
    """

    def __init__(self, x0: Tensor, eps: Tensor) -> None:
        self.x0, self.eps = x0, eps

    def __repr__(self) -> str:
        return f"{type(self).__name__}(x0={str(self.x0.dtype).removeprefix('torch.')} {list(self.x0.shape)})"

    @classmethod
    def from_x0(cls, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        return TiedPrediction(x0, x_t, Mixing(alpha, sigma))

    @classmethod
    def from_output(cls, output: Tensor, objective: Objective, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From the raw output of a network trained for ``objective``; ``alpha``, ``sigma`` broadcast against x_t."""
        mixing = Mixing(alpha, sigma)
        return cls(mixing.x0_of(output, objective, x_t), mixing.eps_of(output, objective, x_t))

    def __getitem__(self, rows: Tensor) -> Prediction:
        """Of the samples at ``rows``, int64 [k]."""
        return Prediction(self.x0[rows], self.eps[rows])

    def output(self, objective: Objective, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What a network trained for ``objective`` would have returned: the inverse of :meth:`from_output`."""
        return target(self.x0, self.eps, objective, alpha, sigma)


class TiedPrediction(Prediction):
    """A prediction whose eps follows from its x0, and is worked out when it is asked for."""

    def __init__(self, x0: Tensor, x_t: Tensor, mixing: Mixing) -> None:
        self.x0, self.x_t, self.mixing = x0, x_t, mixing

    def __getitem__(self, rows: Tensor) -> Prediction:
        return TiedPrediction(self.x0[rows], self.x_t[rows], self.mixing)

    @cached_property
    def eps(self) -> Tensor:  # type: ignore[override]
        return self.mixing.eps(self.x0, self.x_t)


def target(x0: Tensor, eps: Tensor, objective: Objective, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The regression target of ``objective`` for clean data ``x0`` and noise ``eps``."""
    return Mixing(alpha, sigma).target(x0, eps, objective)


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
