"""History-guided sampling: away from the mean of the predictions before this one (Sadat 2025, 2509.22300).

    D' = D + w(t) iDCT(H DCT(d - (1 - eta) d_parallel)),  d = D - g
    w(t) = weight sqrt((t - low) / (high - low))  for low < t <= high, else 0
    g <- alpha D + (1 - alpha) g,  from g = 0: after the first step, which is left alone, g = alpha D

D is x0, guided by everything before the bar; g averages D as it was before this method changed it. d_parallel is the
part along D, per sample (as in ``apg``), which causes saturation. H = sigmoid(50 (R - cutoff)) with
R^2 = (i / h)^2 + (j / w)^2 at row i and column j of the two-dimensional cosine transform: it removes changes of the
lowest frequencies, such as the overall colour. t = sigma / (alpha + sigma), which on a flow is its time. No rows.

``weight=0`` is off. The weight, alpha 0.75, cutoff 0.05 and the times are those of the paper. Its best distances have
eta 0, its best human preferences eta 1. ``history`` extrapolates velocities in a similar way; using both doubles the
effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.methods.apg import without_parallel
from fairlead.guide.moment import Context, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.step import Step
from fairlead.guide.terms import Finisher
from fairlead.nets.blocks import along_axes

_SHARPNESS = 50.0


@dataclass(frozen=True)
class HiGS(Finisher):
    """``none | higs()``, ``cfg(2) | higs(1.75, eta=1)``.

    Attributes:
        weight: strength at the noisiest time; 0 is off.
        eta: share of the part parallel to x0 that is kept, in [0, 1].
        alpha: share of the newest prediction in the mean, in (0, 1].
        cutoff: radius in frequency, in [0, 1.5], below which changes are removed; None removes nothing.
        low, high: values of t, 0 <= low < high <= 1, between which it is on; the weight falls towards ``low``.
    """

    weight: float = 1.75
    eta: float = field(default=0.0, kw_only=True)
    alpha: float = field(default=0.75, kw_only=True)
    cutoff: float | None = field(default=0.05, kw_only=True)
    low: float = field(default=0.4, kw_only=True)
    high: float = field(default=1.0, kw_only=True)
    name: ClassVar[str] = "higs"

    def __post_init__(self) -> None:
        plain_fields(self)
        if not is_number(self.weight) or not abs(self.weight) <= 1e6:
            raise UsageError(f"higs: expected weight to be a number such as 1.75, got {self.weight!r}")
        if not is_number(self.eta) or not 0 <= self.eta <= 1:
            raise UsageError(f"higs: expected eta in [0, 1], got {self.eta!r}")
        if not is_number(self.alpha) or not 0 < self.alpha <= 1:
            raise UsageError(f"higs: expected alpha in (0, 1], such as 0.75, got {self.alpha!r}")
        if self.cutoff is not None and not (is_number(self.cutoff) and 0 <= self.cutoff <= 1.5):
            raise UsageError(f"higs: expected cutoff in [0, 1.5], or None for no filter, got {self.cutoff!r}")
        if not is_number(self.low) or not is_number(self.high) or not 0 <= self.low < self.high <= 1:
            raise UsageError(f"higs: expected 0 <= low < high <= 1, got low={self.low!r}, high={self.high!r}")

    def check(self, on: Context) -> None:
        if self.cutoff is not None and len(on.model.shape) not in (0, 3):
            raise UsageError(
                f"{self}: its filter needs images [channels, height, width], the model has {list(on.model.shape)}; "
                "use cutoff=None"
            )

    def weight_at(self, step: Step) -> float:
        """w(t) at the beginning of a step."""
        t = 1.0 if math.isinf(step.sigma) else step.sigma / (1 + step.sigma)
        return self.weight * math.sqrt((t - self.low) / (self.high - self.low)) if self.low < t <= self.high else 0.0

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        mean, weight = seen.recall(self), self.weight_at(seen.step)
        seen.remember(self, self.alpha * x0 if mean is None else self.alpha * x0 + (1 - self.alpha) * mean)
        if mean is None or weight == 0:
            return x0
        change = without_parallel(x0 - mean, x0, self.eta)
        return x0 + weight * (change if self.cutoff is None else highpass(change, self.cutoff))


def highpass(image: Tensor, cutoff: float) -> Tensor:
    """iDCT(H DCT(image)) over the last two axes, [n, channels, h, w].

    Raises:
        UsageError: for samples that are no images.
    """
    if image.ndim != 4:
        raise UsageError(f"higs: its filter needs images, got samples {list(image.shape[1:])}; use cutoff=None")
    rows, columns = (cosines(size).to(image) for size in image.shape[-2:])
    high, wide = ((torch.arange(size, dtype=torch.float64) / size).square() for size in image.shape[-2:])
    kept = torch.sigmoid(_SHARPNESS * ((high[:, None] + wide).sqrt() - cutoff)).to(image)
    return along_axes(kept * along_axes(image, rows, columns), rows.mT, columns.mT)


@lru_cache(maxsize=16)
def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of so many numbers as a matrix, float64 [size, size]."""
    with torch.inference_mode(False):
        place = torch.arange(size, dtype=torch.float64)
        matrix = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return matrix
