"""Noise schedules: t in [0, 1] -> (alpha, sigma) with x_t = alpha x0 + sigma eps; t = 0 is data, t = 1 is noise.

Every quantity is float64. ``log_snr`` is log(alpha^2 / sigma^2), strictly decreasing in t: +inf at t = 0, and -inf at
t = 1 where alpha is 0 (rectified flow, zero-terminal-SNR tables).

Over 300 lines: all schedules, each with its exact inverse.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import plain, shown
from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import REGISTRY, lookup
from fairlead.core.typed import check_arguments


class NoiseSchedule(ABC):
    """How much signal (``alpha``) and noise (``sigma``) is in x_t at time t."""

    table_size: int | None = None
    """Number of steps of the training table, None when the schedule is continuous."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), float64, of the shape of ``t``. alpha(0) = 1 and sigma(0) = 0 exactly."""

    @abstractmethod
    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`, clamped into [0, 1]."""

    def log_snr(self, t: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha: the noise level in the units of EDM; the ``sigma`` of intervals. inf where alpha is 0."""
        alpha, sigma = self.alpha_sigma(t)
        return sigma / alpha

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        return self.t_of_log_snr(-2 * as_time(ratio).log())

    def network_time(self, t: Tensor) -> Tensor:
        """What the network gets for t: the table index k = t T - 1, or 1000 t for a continuous schedule."""
        t = as_time(t)
        return t * self.table_size - 1 if self.table_size else t * 1000

    def input_scale(self, t: Tensor) -> Tensor:
        """Factor on x_t before it enters a network: 1 unless the variance of x_t is unbounded (:class:`VE`)."""
        return torch.ones_like(as_time(t))

    @cached_property
    def remembered(self) -> dict[Any, Any]:
        """Levels of single times that were asked for, see ``fairlead.core.denoiser.level_at``."""
        return {}

    @property
    def zero_terminal_snr(self) -> bool:
        return float(self.alpha_sigma(torch.ones((), dtype=torch.float64))[0]) == 0.0

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-ready keyword arguments, with ``name``, from which :func:`schedule_from_config` rebuilds this."""


_LONGEST = 1_000_000
"""Steps of a table."""


def as_time(t: Tensor | float) -> Tensor:
    return t if isinstance(t, Tensor) and t.dtype == torch.float64 else torch.as_tensor(t, dtype=torch.float64)


@dataclass(frozen=True)
class TableSchedule(NoiseSchedule):
    """Variance-preserving schedule from a table of cumulative alphas (``alphas_cumprod`` of DDPM, 2006.11239).

    Entry k of T sits at t = (k + 1) / T. Between entries log-SNR is linear in t; below the first entry sigma is linear
    in t, so that sigma(0) = 0; where the last entry is 0, alpha is linear in t between the last two.

    Args:
        alphas_cumprod: T strictly decreasing numbers in [0, 1); only the last may be 0.
        name: "table" is stored whole by ``config``; a registered name is rebuilt from its name and length.
    """

    alphas_cumprod: tuple[float, ...] = field(repr=False)
    name: str = "table"

    def __post_init__(self) -> None:
        if self.name not in REGISTRY["schedule"]:
            raise unknown("schedule", self.name, REGISTRY["schedule"])
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        inside = bool((table[:-1] > 0).all() and (table >= 0).all() and (table < 1).all())
        if table.ndim != 1 or len(table) < 2:
            raise UsageError(f"schedule table: expected at least 2 cumulative alphas, got shape {list(table.shape)}")
        if not inside or not bool((table.diff() < 0).all()):
            raise UsageError(
                "schedule table: expected strictly decreasing cumulative alphas in [0, 1), only the last 0; "
                f"got {len(table)} values from {float(table.max()):g} to {float(table.min()):g}"
            )

    @property
    def table_size(self) -> int:  # type: ignore[override]
        return len(self.alphas_cumprod)

    @cached_property
    def _abar(self) -> Tensor:
        return torch.tensor(self.alphas_cumprod, dtype=torch.float64)

    @cached_property
    def _log_snr(self) -> Tensor:
        return self._abar.log() - (-self._abar).log1p()

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        abar, size = self._abar.to(t.device), len(self._abar)
        k = t * size - 1
        low = k.floor().clamp(0, size - 2).long()
        table = self._log_snr.to(t.device)
        weight = k - low
        between = table[low] * (1 - weight) + table[low + 1] * weight
        alpha, sigma = between.sigmoid().sqrt(), (-between).sigmoid().sqrt()
        if abar[-1] == 0:  # log-SNR cannot be linear on the way to -inf
            last, fading = low == size - 2, abar[-2].sqrt() * (1 - weight)
            alpha, sigma = torch.where(last, fading, alpha), torch.where(last, (1 - fading**2).sqrt(), sigma)
        first = (1 - abar[0]).sqrt() * (t * size)
        below = k < 0
        return torch.where(below, (1 - first**2).sqrt(), alpha), torch.where(below, first, sigma)

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        log_snr = as_time(log_snr)
        table, size = self._log_snr.to(log_snr.device), len(self._abar)
        high = torch.searchsorted(-table, -log_snr).clamp(1, size - 1)
        above, under = table[high - 1], table[high]
        weight = ((above - log_snr) / (above - under)).clamp(0, 1)
        if self._abar[-1] == 0:
            fading = 1 - (log_snr.sigmoid() / self._abar[-2].to(log_snr.device)).sqrt()
            weight = torch.where(high == size - 1, fading.clamp(0, 1), weight)
        k = high - 1 + weight
        sigma = (-log_snr).sigmoid().sqrt()
        first = sigma / (1 - self._abar[0]).sqrt()
        return torch.where(log_snr > table[0], first, k + 1) / size

    def config(self) -> dict[str, Any]:
        if self.name == "table":
            return {"name": "table", "alphas_cumprod": list(self.alphas_cumprod)}
        return {"name": self.name, "steps": self.table_size}


def _table_steps(steps: int) -> int:
    steps = plain(steps)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 2:
        raise UsageError(f"schedule table: expected at least 2 steps, got {steps!r}")
    if steps > _LONGEST:
        raise UsageError(f"schedule table: expected at most {_LONGEST:,} steps, got {steps!r}")
    return steps


def _from_betas(betas: Tensor, name: str) -> TableSchedule:
    return TableSchedule(tuple((1 - betas).cumprod(0).tolist()), name)


def vp_linear(steps: int = 1000) -> TableSchedule:
    """DDPM's table (2006.11239, section 4): betas linear from 1e-4 to 0.02 at 1000 steps.

    With another number of steps the betas are those of the paper times 1000 / steps, so that the whole keeps its
    noise level (the lessons build a fresh 50-step table with the betas of 1000 steps, which ends half denoised).
    """
    scale = 1000 / _table_steps(steps)
    return _from_betas(torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), steps, dtype=torch.float64), "vp_linear")


def vp_scaled_linear(steps: int = 1000) -> TableSchedule:
    """Latent diffusion's table (2112.10752): sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) at 1000 steps."""
    scale = (1000 / _table_steps(steps)) ** 0.5
    roots = torch.linspace(scale * 0.00085**0.5, scale * 0.012**0.5, steps, dtype=torch.float64)
    return _from_betas(roots.square().clamp(max=0.999), "vp_scaled_linear")


@dataclass(frozen=True)
class VPCosine(NoiseSchedule):
    """Cosine schedule (Nichol & Dhariwal 2021, 2102.09672, eq. 17), continuous and exact.

    alpha(t) = cos(u) / cos(u0), u0 = pi/2 s/(1+s), u linear in t from u0 to the angle at which log-SNR is
    ``log_snr_min``; -inf gives a zero terminal SNR.
    """

    s: float = 0.008
    log_snr_min: float = -14.0

    def __post_init__(self) -> None:
        if not 0 < self.s < 1 or not self.log_snr_min < 0:
            raise UsageError(
                f"cosine schedule: expected s in (0, 1) and log_snr_min < 0, got {self.s} and {self.log_snr_min}"
            )

    @property
    def _ends(self) -> tuple[float, float]:
        start = math.pi / 2 * self.s / (1 + self.s)
        odds = math.exp(self.log_snr_min)
        abar = odds / (1 + odds)
        return start, math.acos(math.sqrt(abar) * math.cos(start))

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start, end = self._ends
        u = start + as_time(t) * (end - start)
        # 1 - cos^2 u / cos^2 u0 without cancellation
        sigma = ((u - start).sin() * (u + start).sin()).clamp(min=0).sqrt() / math.cos(start)
        alpha = u.cos() / math.cos(start)
        if self.log_snr_min == -math.inf:
            alpha = torch.where(as_time(t) >= 1, 0.0, alpha)
        return alpha, sigma

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        start, end = self._ends
        u = (as_time(log_snr).sigmoid().sqrt() * math.cos(start)).acos()
        return ((u - start) / (end - start)).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        lowest = self.log_snr_min if self.log_snr_min > -math.inf else "-inf"  # JSON has no infinity
        return {"name": "vp_cosine", "s": self.s, "log_snr_min": lowest}


@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """alpha = 1 - t, sigma = t (Liu 2022, 2209.03003; Lipman 2022, 2210.02747).

    ``shift`` > 1 moves the times towards noise: t -> shift t / (1 + (shift - 1) t) (SD3, 2403.03206, eq. 23).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise UsageError(f"flow schedule: expected a finite shift > 0, got {self.shift}")

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        scale = 1 + (self.shift - 1) * t  # in [shift, 1]; at t = 1 it may round off shift, hence the clamp
        return (1 - t) / scale, (self.shift * t / scale).clamp(max=1)

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        sigma = (-as_time(log_snr) / 2).sigmoid()
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def config(self) -> dict[str, Any]:
        return {"name": "flow", "shift": self.shift}


@dataclass(frozen=True)
class VE(NoiseSchedule):
    """Variance exploding: alpha = 1, sigma = sigma_max t^rho; uniform times are EDM's rho-grid (2206.00364, eq. 5)."""

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_max < math.inf or not 0 < self.rho < math.inf:
            raise UsageError(
                f"ve schedule: expected finite sigma_max > 0 and rho > 0, got {self.sigma_max} and {self.rho}"
            )

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_max * as_time(t) ** self.rho
        return torch.ones_like(sigma), sigma

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return ((-as_time(log_snr) / 2).exp() / self.sigma_max).pow(1 / self.rho).clamp(max=1)

    def input_scale(self, t: Tensor) -> Tensor:
        _, sigma = self.alpha_sigma(t)
        return (1 + sigma**2).rsqrt()

    def network_time(self, t: Tensor) -> Tensor:
        """250 log sigma, the embedding range of EDM's c_noise = log(sigma) / 4 times 1000."""
        return 250 * self.alpha_sigma(t)[1].clamp(min=1e-6).log()

    def config(self) -> dict[str, Any]:
        return {"name": "ve", "sigma_max": self.sigma_max, "rho": self.rho}


def as_schedule(value: Any) -> NoiseSchedule:
    """A schedule, or the one that a registered name ("ve") or a configuration ({"name": "flow", "shift": 3}) means.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, NoiseSchedule):
        return value
    if isinstance(value, str):
        return schedule_from_config({"name": value})
    if isinstance(value, Mapping):
        return schedule_from_config(dict(value))
    raise UsageError(
        f"schedule: expected a name ({', '.join(REGISTRY['schedule'])}) or an object such as VPCosine(), got "
        f"{shown(value)}"
    )


def schedule_from_config(config: dict[str, Any]) -> NoiseSchedule:
    """Rebuild a schedule from what :meth:`NoiseSchedule.config` returned.

    Raises:
        UsageError: for an unknown name, or settings that the schedule does not have.
    """
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "name"}
    arguments = {key: float(v) if v == "-inf" else v for key, v in values.items()}
    make = lookup("schedule", config.get("name"))
    check_arguments(make, arguments, f"schedule {config['name']!r}")
    schedule: NoiseSchedule = make(**arguments)
    return schedule
