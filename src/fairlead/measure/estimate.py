"""A number with its standard error and the number of samples behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A measured ``value``, the standard ``error`` of it, and the ``n`` samples it comes from."""

    value: float
    error: float
    n: int

    def __str__(self) -> str:
        """``0.9870 ± 0.0036``: as many decimals as give the error two significant digits."""
        if not math.isfinite(self.error) or self.error <= 0:
            return f"{self.value:.4g}"
        decimals = min(max(1 - math.floor(math.log10(self.error)), 0), 8)
        return f"{self.value:.{decimals}f} ± {self.error:.{decimals}f}"


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of independent ``values`` [n] (any dtype, summed in float64) and sd / sqrt(n); nan error for n = 1."""
    values = values.to(torch.float64)
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error, n)


def proportion_estimate(hits: Tensor) -> Estimate:
    """The share of ones among independent ``hits`` [n] of 0 and 1.

    The error is half the width of the Wilson score interval for z = 1 (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4),

        sqrt(p (1 - p) / n + 1 / (4 n^2)) / (1 + 1 / n),

    which is not 0 for n hits of n, as sd / sqrt(n) is.
    """
    n = len(hits)
    p = float(hits.to(torch.float64).mean())
    return Estimate(p, math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n), n)
