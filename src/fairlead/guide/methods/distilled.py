"""The guidance that a student has learned, at a scale of its range (Meng et al. 2023, 2210.03142, section 3.1).

    D = D_student(x_t, c, scale)

``fairlead distill RUN --guidance "cfg({scale})" --range scale=1:8 --out STUDENT`` trains a network that takes the scale
as an input and predicts in one row what RUN predicts under ``cfg(scale)`` or another expression. This term sets the
scale. It applies to the run's own condition only: predictions for null and negative conditions, and in steps outside an
interval, are those of RUN without guidance. A term that is added (``distilled(3) + pag(1)``) starts from the guided
prediction.

Cost: no rows. Refused for models without a range of scales, and for scales outside their range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.branch import Weight
from fairlead.guide.moment import Context, Moment
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import Ask, Term


@dataclass(frozen=True)
class Distilled(Term):
    """``distilled(3)``, ``distilled(ramp(1, 4))``, ``distilled(3).during(sigma=(0.3, 2))``.

    Attributes:
        scale: within the range of the student.
    """

    scale: Scale | Sequence[float] | Tensor
    name: ClassVar[str] = "distilled"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))

    def check(self, on: Context) -> None:
        if on.model.scale_range is None:
            raise UsageError(
                f"{self}: this model does not take a scale as an input; train a student that does with fairlead "
                "distill RUN --guidance "
                '"cfg({scale})" --range scale=1:8'
            )
        if isinstance(self.scale, float | tuple):
            self._within(torch.as_tensor(self.scale), on)

    def ask(self, at: Moment) -> Ask:
        value = scale_at(self.scale, at.step)
        if isinstance(value, Tensor) and value.ndim != 1:
            raise UsageError(f"{self}: a student takes one scale per sample, not one per pixel")
        self._within(torch.as_tensor(value), at)
        return Ask(alter=partial(with_scale, value=value, device=at.model.device))

    def _within(self, value: Tensor, on: Context) -> None:
        assert on.model.scale_range is not None
        low, high = on.model.scale_range
        outside = value[(value < low) | (value > high)]
        if len(outside):
            raise UsageError(f"{self}: the student learned scales from {low:g} to {high:g}, got {outside[0]:g}")


def with_scale(condition: Condition, value: Weight, device: torch.device | None = None) -> Condition:
    """The condition at this scale, one for all samples or float [n]; ``device`` is needed where it is empty."""
    device = condition.device if device is None else device
    scale = torch.as_tensor(value, dtype=torch.float32, device=device).expand(condition.n)
    keep = torch.ones(condition.n, dtype=torch.bool, device=device)
    return replace(condition, values={**condition.values, "scale": scale}, keep={**condition.keep, "scale": keep})
