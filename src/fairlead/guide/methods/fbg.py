"""Feedback guidance: each sample's own scale, from how likely its condition has become (Koulischer 2025, 2506.06085).

    D = D_u + scale (D_c - D_u),  scale = r / (r - (1 - pi)),  r = p(x_t | c) / p(x_t) along the sample's own path

The method assumes that the network has learned a mixture, pi p(x | c) + (1 - pi) p(x), in place of p(x | c). With the r
of that mixture the rule gives D of p(x | c) itself. Samples that already show their condition get scale 1; others get
more, up to ``most``. log r starts at 0 in pure noise. Each step adds the log-ratio of the two transitions, which are
Gaussians around the predictions D_c and D_u. With s = (alpha / sigma)^2 and y = s x_t / alpha, for any schedule,

    log r <- log r + temperature < D_c - D_u, y' - y - (s' - s) (D_c + D_u) / 2 > + offset / steps

With temperature 1 and offset 0 this is exact in the limit of many steps, for samplers that draw noise as the reverse
process does (``ddpm``, ``ddim(eta=1)``, ``dpmpp_2m_sde``). For deterministic samplers log r is too small by half the
integral over s of the difference of the traces of Cov(x0 | x_t) and Cov(x0 | x_t, c), so scales are larger.

For images, log r sums over many values and grows too fast. The paper therefore uses pi 0.999, a small temperature, and
a negative offset. If the transitions say nothing, the offset lets the scale grow to 3 at the time t0: offset =
log(1.5 (1 - pi)) / (1 - t0). Times are fractions of the steps, 1 at the start; here the offset is a sum over steps.

Two rows per sample up to and including the step in which its log r reaches ``sure``, and one afterwards, with scale 1.
(The paper instead limits log r to 3 and lets it fall again.) Inside ``during``, log r starts at 0 in the first step of
the interval. ``pi=1`` is off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, weighted
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.per_sample import dot
from fairlead.guide.terms import NOTHING, Ask, Term


@dataclass(frozen=True, eq=False)
class _Before:
    """A step: log r at its beginning, float64 [n]; who is still guided, bool [n] on the CPU; what it saw of them."""

    log_ratio: Tensor
    still: Tensor
    level: tuple[float, float]
    x_t: Tensor
    cond: Tensor
    null: Tensor


@dataclass(frozen=True)
class FBG(Term):
    """``fbg(0.9)``, ``fbg(0.999, temperature=0.1, offset=-15)``.

    Attributes:
        pi: share of p(x | c) in the mixture that the network has learned, in (0, 1]; 1 is off.
        temperature: factor of each step's log-ratio, at least 0.
        offset: added to log r over all steps together.
        most: largest scale, > 1.
        sure: log r at which a sample is no longer guided.
    """

    pi: float
    temperature: float = field(default=1.0, kw_only=True)
    offset: float = field(default=0.0, kw_only=True)
    most: float = field(default=10.0, kw_only=True)
    sure: float = field(default=3.0, kw_only=True)
    name: ClassVar[str] = "fbg"

    def __post_init__(self) -> None:
        plain_fields(self)
        if not is_number(self.pi) or not 0 < self.pi <= 1:
            raise UsageError(f"fbg: expected pi in (0, 1], such as 0.9, got {self.pi!r}")
        if not is_number(self.temperature) or not 0 <= self.temperature <= 1e6:
            raise UsageError(f"fbg: expected temperature of at least 0, such as 1, got {self.temperature!r}")
        if not is_number(self.offset) or not abs(self.offset) <= 1e6:
            raise UsageError(f"fbg: expected offset to be a number such as 0 or -15, got {self.offset!r}")
        if not is_number(self.most) or not 1 < self.most <= 1e6:
            raise UsageError(f"fbg: expected most > 1, such as 10, got {self.most!r}")
        if not is_number(self.sure) or not abs(self.sure) <= 1e6:
            raise UsageError(f"fbg: expected sure to be a number such as 3, got {self.sure!r}")
        if self.pi < 1 and self._lowest >= self.sure:
            raise UsageError(
                f"fbg: at pi={self.pi:g} the scale is {self.most:g} at log r {self._lowest:.3g}, which is not below "
                f"sure={self.sure:g}: nothing would be guided; raise sure or most"
            )

    @property
    def _lowest(self) -> float:
        """log r at which the scale is ``most``."""
        return math.log((1 - self.pi) * self.most / (self.most - 1))

    def needs_condition(self) -> bool:
        return True

    def scale_of(self, log_ratio: Tensor) -> Tensor:
        """r / (r - (1 - pi)), at most ``most`` and 1 from ``sure`` on; [n] of log r [n]."""
        held = log_ratio.clamp(min=self._lowest)
        scale = 1 / (1 - (1 - self.pi) * torch.exp(-held))
        return scale.clamp(max=self.most).masked_fill(log_ratio >= self.sure, 1.0)

    def ask(self, at: Moment) -> Ask:
        if self.pi == 1:
            return NOTHING
        if at.step.index is None:
            raise UsageError(f"{self} counts the sampler's steps: sample with fl.sample, or give the denoiser times=")
        before: _Before | None = at.recall(self)
        if before is None:
            return Ask(looks={COND: None, NULL: None})
        return Ask(looks={COND: before.still, NULL: before.still}) if bool(before.still.any()) else NOTHING

    def add(self, seen: Seen) -> Tensor | None:
        before: _Before | None = seen.recall(self)
        if self.pi == 1 or (before is not None and not bool(before.still.any())):
            return None
        cond, null = seen.x0(COND), seen.x0(NULL)
        alpha, sigma = seen.model.schedule.alpha_sigma(seen.t)
        level = float(alpha), float(sigma)
        if before is None:
            log_ratio = torch.zeros(len(seen.x_t), dtype=torch.float64, device=seen.x_t.device)
            still = torch.ones(len(seen.x_t), dtype=torch.bool)
        else:
            assert seen.step.grid is not None
            learnt = evidence(before.x_t, before.level, seen.x_t, level, before.cond, before.null)
            moved = before.log_ratio + self.temperature * learnt + self.offset / seen.step.grid.steps
            log_ratio, still = moved.clamp(min=self._lowest), before.still
        omega = (self.scale_of(log_ratio) - 1).masked_fill(~still.to(log_ratio.device), 0.0)
        guided = still & (log_ratio < self.sure).cpu()
        seen.remember(self, _Before(log_ratio, guided, level, seen.x_t, cond, null))
        return weighted(omega, cond - null) if bool(omega.any()) else None


def evidence(
    x_t: Tensor, level: tuple[float, float], after: Tensor, level_after: tuple[float, float], cond: Tensor, null: Tensor
) -> Tensor:
    """log of p(x' | x_t, c) / p(x' | x_t), float64 [n], both Gaussians of the variance that the reverse process has at
    known x0.

    Args:
        x_t, after: the sample [n, ...] at ``level`` (alpha, sigma) and at ``level_after``, of less noise.
        cond, null: D_c and D_u at the first of them.
    """
    (alpha, sigma), (alpha2, sigma2) = level, level_after
    change = alpha2 / sigma2**2 * after.double() - alpha / sigma**2 * x_t.double()
    gained = (alpha2 / sigma2) ** 2 - (alpha / sigma) ** 2
    return dot(change - gained / 2 * (cond.double() + null.double()), cond.double() - null.double()).flatten()
