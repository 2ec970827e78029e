"""Tangential damping (TCFG, Kwon 2025, 2503.18137): only the shared part of the unconditional eps.

    u' = <u, r> r,  r the leading right-singular vector of the two rows [eps_c; eps_u]
    eps = u' + scale (eps_c - u')

The second singular vector of the two predictions is mostly their disagreement away from the data; that part of the
unconditional prediction is removed. No rows in addition to those of the method inside; off where that is off. It acts
in eps whatever the network predicts, also where alpha = 0 (the first step of a flow model): there both eps are
x_t / sigma, and the direction is the limit, D_c - D_u with its part perpendicular to x_t halved.

It wraps ``cfg`` and other plain differences of two predictions. diffusers applies it to the raw output of the network,
so its result depends on the network's objective, and computes a singular value decomposition in float32 where a 2 x 2
matrix is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.guide.moment import Seen
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import dot, ratio


@dataclass(frozen=True)
class TCFG(Wrapper):
    """``tcfg(cfg(4))``."""

    name: ClassVar[str] = "tcfg"
    of_predictions: ClassVar[bool] = True

    def unit(self, seen: Seen) -> Tensor:
        """x0 of eps_c minus x0 of u', written without dividing by alpha.

        With Delta = D_c - D_u and the Gram matrix [[cc, cu], [cu, uu]] of the two eps, its leading eigenvector is
        (cos, sin) of half of atan2(2 cu, cc - uu), and u' = p c + q u with p = cu / h, h = hypot(2 cu, cc - uu). In x0
        that leaves (1 - p) Delta - (sigma / alpha) (1 - p - q) u, whose last factor is small like alpha: cc - uu is
        -(alpha / sigma) <Delta, c + u>, so alpha cancels.
        """
        a, b = self.pair(seen)
        delta, c, u = seen.x0(a) - seen.x0(b), seen.eps(a), seen.eps(b)
        spread = dot(delta, c + u)
        gap = seen.mixing.signal * spread  # uu - cc
        cu = dot(c, u)
        twice = cu + cu
        length = torch.hypot(twice, gap)
        tilt = torch.atan2(gap, twice) / 2
        kept = 1 - ratio(cu, length)
        shift = ratio(spread, length) * (1 - tilt.tan()) / 2
        return kept.to(delta) * delta + shift.to(u) * u
