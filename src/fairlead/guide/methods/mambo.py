"""Magnitude-aware guidance (MAMBO-G, Zhu 2025, 2508.03442): a smaller scale where guidance is large compared with the
prediction.

    scale_t = 1 + (scale - 1) exp(-alpha |v_c - v_u| / |v_u|)

Norms are per sample, of the velocity v = eps - x0 of a flow model; other schedules are converted to the same flow. At
high noise, where the ratio is large and wrong steps do most harm, guidance is weak. No rows in addition to those of the
method inside; off where that is off. ``alpha=0`` is the method itself; the paper uses 8.

It wraps ``cfg`` and other plain differences of two predictions, and can be wrapped itself: ``apg(mambo(cfg(10)))``.
Where v_u is 0 there is no guidance; diffusers divides by the norm without a check, and uses the raw output of the
network as v, whatever it predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.moment import Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import length, ratio


@dataclass(frozen=True)
class Mambo(Wrapper):
    """``mambo(cfg(10))``, ``mambo(cfg(10), 4)``.

    Attributes:
        alpha: how quickly the scale falls with the ratio of norms, at least 0.
    """

    alpha: float = 8.0
    name: ClassVar[str] = "mambo"
    of_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.alpha) or not 0 <= self.alpha < math.inf:
            raise UsageError(f"mambo: expected alpha of at least 0, such as 8, got {self.alpha!r}")

    def unit(self, seen: Seen) -> Tensor:
        if self.alpha == 0:
            return super().unit(seen)
        a, b = self.pair(seen)
        v_a, v_b = seen.output(a, "flow"), seen.output(b, "flow")
        gap = v_a - v_b
        relative = ratio(length(gap), length(v_b), math.inf)
        return torch.exp(-self.alpha * relative).to(gap) * super().unit(seen)
