"""A number with its error, and what metrics are called: their titles, their units, which way is better.

A metric has a *key*, under which it is stored and asked for (``distance_debiased``), and a *title*, under which people
read it. The Fréchet distance has two of either: the raw one is biased upwards by about 1/n, the debiased one is not
(jackknife). They never share a name, because a number of one kind says nothing beside one of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fairlead.core.errors import UsageError


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


Unit = Literal["", "share", "rows"]
RAW, DEBIASED = "distance", "distance_debiased"
SHARES = "shares between 0 and 1 (0.99 is 99 %)"
"""For the captions of tables: which unit accuracy, agreement, confidence and saturation have there."""


@dataclass(frozen=True)
class Metric:
    """Of one metric: its title, whether lower is better (None: neither way by itself), and its unit."""

    title: str
    lower: bool | None = False
    unit: Unit = ""


_KNOWN: Mapping[str, Metric] = {
    RAW: Metric("raw distance", lower=True),
    DEBIASED: Metric("debiased distance", lower=True),
    "kid": Metric("kid", lower=True),
    "cmmd": Metric("cmmd", lower=True),
    "precision": Metric("precision", unit="share"),
    "recall": Metric("recall", unit="share"),
    "density": Metric("density"),
    "coverage": Metric("coverage", unit="share"),
    "vendi": Metric("vendi"),
    "accuracy": Metric("accuracy", unit="share"),
    "confidence": Metric("confidence", unit="share"),
    "inception_style": Metric("inception-style score"),
    "diversity": Metric("diversity", lower=None),
    "saturation": Metric("saturation", lower=True, unit="share"),
    "rows": Metric("network rows an image", lower=True, unit="rows"),
}


def metric(key: str) -> Metric:
    """By its key; agreement in one attribute is known by how its key begins."""
    if key == "agreement" or key.startswith("agreement_"):
        return Metric(key.replace("_", " "), unit="share")
    return _KNOWN.get(key) or Metric(key.replace("_", " "))


def title_of(key: str, distance: str = "distance") -> str:
    """What people read: ``raw distance``; ``distance`` is what the distance is called, e.g. "FID"."""
    found = metric(key).title
    return found.replace("distance", distance) if key in (RAW, DEBIASED) else found


def percent(estimate: Estimate) -> str:
    """A share as ``99.954 ± 0.046 %``, with the digits of ``str(estimate)``."""
    return f"{Estimate(100 * estimate.value, 100 * estimate.error, estimate.n)} %"


def shown_as(key: str, estimate: Estimate) -> str:
    """A value in the unit that sentences use: shares in percent."""
    return percent(estimate) if metric(key).unit == "share" else str(estimate)


def maximised(key: str) -> bool:
    """Whether a search for the best of it looks for the highest."""
    return not metric(key).lower


def check_distance(key: str, where: str) -> None:
    """Raise UsageError where the raw distance is asked for and settings of different n are compared.

    Args:
        where: what asked, for the message: "--objective 'distance'".
    """
    if key == RAW:
        raise UsageError(
            f"{where}: the raw distance falls with the number of images, which differs between settings; write "
            f"{DEBIASED}, the one without that bias"
        )


def checked_features(features: Tensor, what: str, least: int, d: int | None = None, chunk: int = 1024) -> Tensor:
    """``features`` [n, d] as they are, detached and on the CPU; finiteness is looked at ``chunk`` rows at a time.

    Args:
        features: any float dtype.
        what: the measure and the side, for the message: "kid, fakes".
        least: the fewest samples that will do.
        d: the number of features of the other side, if it is known.

    Raises:
        UsageError: if the shape is not [n, d] with n >= least, d differs, a feature is not finite, or chunk < 1.
    """
    if chunk < 1:
        raise UsageError(f"{what}: chunk = {chunk}; expected at least 1 row at a time")
    if features.ndim != 2 or features.shape[1] == 0:
        raise UsageError(f"{what}: expected features of shape [n, d], got {list(features.shape)}; flatten them")
    if len(features) < least:
        raise UsageError(f"{what}: expected at least {least} samples, got {len(features)}; draw more images")
    if d is not None and features.shape[1] != d:
        raise UsageError(f"{what}: d = {features.shape[1]} features against d = {d}; use one extractor for both")
    x = features.detach().to("cpu")
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in torch.split(x, chunk))
    if bad:
        raise UsageError(f"{what}: {bad} of {len(x)} samples have features that are not finite; check the images")
    return x
