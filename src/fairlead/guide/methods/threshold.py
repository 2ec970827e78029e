"""Static and dynamic thresholding of the guided x0 (Saharia et al. 2022, 2205.11487, section 2.3).

Static: clamp x0 into the data range. Dynamic, per sample: s = max(1, quantile(|x0|, p)), x0 <- clamp(x0, -s, s) / s,
in units where the data range is [-1, 1]. eps is then re-derived, so the step uses the finished x0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.moment import Context, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.terms import Finisher

_QUANTILE_LIMIT = 2**24  # torch.quantile refuses larger inputs


@dataclass(frozen=True)
class _Ranged(Finisher):
    def check(self, on: Context) -> None:
        self._bounds(on)

    def _bounds(self, on: Context) -> tuple[float, float]:
        if on.model.data_range is None:
            raise UsageError(
                f"{self}: this model's data has no fixed range (latents, toys); thresholding is for pixels"
            )
        return on.model.data_range


@dataclass(frozen=True)
class Clip(_Ranged):
    """``clip()``: static thresholding at the model's data range."""

    name: ClassVar[str] = "clip"

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        return x0.clamp(*self._bounds(seen))


@dataclass(frozen=True)
class Threshold(_Ranged):
    """``threshold(0.995)``: dynamic thresholding at this quantile of each sample's absolute values, in (0, 1]."""

    quantile: float
    name: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        plain_fields(self)
        if not is_number(self.quantile) or not 0 < self.quantile <= 1:
            raise UsageError(f"threshold: expected a quantile in (0, 1], such as 0.995, got {self.quantile!r}")

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        low, high = self._bounds(seen)
        middle, half = (low + high) / 2, (high - low) / 2
        unit = (x0 - middle) / half
        rows = unit.flatten(1).abs().float()
        chunks = torch.split(rows, max(1, _QUANTILE_LIMIT // rows.shape[1]))
        size = torch.cat([chunk.quantile(self.quantile, dim=1) for chunk in chunks]).clamp(min=1).to(x0.dtype)
        size = size.reshape(-1, *([1] * (x0.ndim - 1)))
        return torch.minimum(torch.maximum(unit, -size), size) / size * half + middle
