"""Cached guidance: evaluate the second branch of a method every few steps, and reuse its direction between them.

    Delta(x) = D_a - D_b at a refresh;  D = D_a + omega Delta^ between refreshes, at the cost of D_a alone
    order 0    Delta^ = Delta_1, the direction of the last refresh
    order 1    Delta^ = Delta_1 + (u - u_1) / (u_1 - u_2) (Delta_1 - Delta_2), a straight line through the last two

in u = sigma^2 / (alpha^2 + sigma^2), the share of the noise in x_t: 1 for pure noise, 0 for data. Two classes that are
Gaussians of unit variance around m_a and m_b have D = m + alpha / (alpha^2 + sigma^2) (x_t - alpha m), and so
Delta = (m_a - m_b) u, whatever x_t: the direction between classes is to first order a straight line in u. It would not
be one in log-SNR, which is also infinite at both ends of a run. Before the second refresh, order 1 is order 0.

The first step of a run, and the first after an interval in which the method was off, refreshes; then every ``every``-th
step. Two equal terms share what they remember. A run of N steps costs N + ceil(N / every) rows per sample. Every
evaluation of a refreshing step (``heun`` makes two) evaluates both branches. The idea of reusing the unconditional
branch is that of 2410.19355 (FasterCache), whose published code multiplies what it stored by a weight in every step, so
that the weight compounds between refreshes. Here only directions that were evaluated are ever stored, and
``every=1`` is the method itself.

It wraps any method of two branches: ``cached(cfg(4))``, ``cached(pag(3))``, ``cached(apg(cfg(8)))`` (which reuses the
direction that ``apg`` computed). It is refused around ``adaptive`` and inside any other method, because those need both
branches at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import is_zero, weighted
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.notation import plain_fields
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import ratio
from fairlead.guide.terms import NOTHING, Ask


@dataclass(frozen=True)
class _Anchor:
    """An evaluated direction: in which step, at which share of noise [1, ...], and what it was [n, ...]."""

    index: int
    share: Tensor
    direction: Tensor


@dataclass(frozen=True)
class Cached(Wrapper):
    """``cached(cfg(4))``, ``cached(cfg(4), every=3, order=1)``.

    Attributes:
        every: steps from one refresh to the next, at least 1.
        order: 0 holds the last direction, 1 extrapolates the last two.
    """

    every: int = field(default=2, kw_only=True)
    order: int = field(default=0, kw_only=True)
    name: ClassVar[str] = "cached"
    outermost: ClassVar[str] = "evaluates its two branches in some steps only"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise UsageError(f"cached: expected every to be a number of steps of at least 1, got {self.every!r}")
        if not isinstance(self.order, int) or isinstance(self.order, bool) or self.order not in (0, 1):
            raise UsageError(f"cached: expected order 0 (hold) or 1 (extrapolate), got {self.order!r}")

    def ask(self, at: Moment) -> Ask:
        return super().ask(at) if self._refreshes(at) else NOTHING

    def add(self, seen: Seen) -> Tensor | None:
        omega = self.omega(seen)
        if is_zero(omega):
            return None
        if not self._refreshes(seen):
            return weighted(omega, self._carried(seen))
        assert seen.step.index is not None
        unit = self.unit(seen)
        anchors: tuple[_Anchor, ...] = seen.recall(self) or ()
        seen.remember(self, (_Anchor(seen.step.index, seen.noise_share, unit), *anchors[: self.order]))
        return None if self.is_difference() else weighted(omega, unit)

    def _refreshes(self, at: Moment) -> bool:
        index = at.step.index
        if index is None:
            raise UsageError(f"{self} counts the sampler's steps: sample with fl.sample, or give the denoiser times=")
        anchors: tuple[_Anchor, ...] | None = at.recall(self)
        return anchors is None or index - anchors[0].index >= self.every

    def _carried(self, seen: Seen) -> Tensor:
        anchors: tuple[_Anchor, ...] = seen.recall(self)
        last, before = anchors[0], anchors[-1]
        if last is before:
            return last.direction
        reach = ratio(seen.noise_share - last.share, last.share - before.share)
        return last.direction + reach * (last.direction - before.direction)
