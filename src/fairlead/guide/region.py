"""Regions: one scale inside a box of the image, another outside.

    cfg(region(4, 1, [0, 0, 0.5, 1]))
    compose({"seven": region(4, 0, [0, 0, 1, 0.5]), "one": region(0, 4, [0, 0, 1, 0.5])})

It can be used wherever a scale can; this is regional control as in composition (Liu et al. 2022, 2206.01714).
A branch is evaluated for the whole image even if its weight is 0 in most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import plain, plain_list
from fairlead.core.errors import UsageError
from fairlead.guide.notation import is_number
from fairlead.guide.scales import Scale, ScaleSchedule, as_scale, image_size, scale_at
from fairlead.guide.step import Step


@dataclass(frozen=True)
class Region(ScaleSchedule):
    """``region(4, 1, [0, 0, 0.5, 1])``: 4 in the upper half, 1 in the lower.

    Attributes:
        inside, outside: scales: numbers or schedules.
        box: (top, left, bottom, right) in fractions of the image, 0 to 1; a pixel is inside if its centre is.
    """

    inside: Scale
    outside: Scale
    box: Sequence[float]
    name: ClassVar[str] = "region"

    def __post_init__(self) -> None:
        for argument in ("inside", "outside"):
            scale = as_scale("region", getattr(self, argument))
            if isinstance(scale, tuple):
                raise UsageError(f"region: expected {argument} to be one number or a schedule, got one per sample")
            object.__setattr__(self, argument, scale)
        box = plain_list(self.box)
        box = [*map(plain, box)] if isinstance(box, list | tuple) else box
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(is_number(edge) for edge in box):
            raise UsageError(f"region: expected a box of four fractions [top, left, bottom, right], got {box!r}")
        top, left, bottom, right = (float(edge) for edge in box)
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise UsageError(
                f"region: expected a box [top, left, bottom, right] in fractions with 0 <= top < bottom <= 1 and "
                f"0 <= left < right <= 1, got {list(box)}"
            )
        object.__setattr__(self, "box", (top, left, bottom, right))

    def value(self, step: Step) -> Tensor:
        """[1, 1, h, w]."""
        height, width = image_size("region", step)
        top, left, bottom, right = self.box
        rows, columns = _between(height, top, bottom), _between(width, left, right)
        if not bool(rows.any() and columns.any()):
            raise UsageError(f"{self}: no pixel of an image of {height} x {width} is in the box; make it larger")
        inside, outside = (
            torch.as_tensor(scale_at(scale, step), dtype=torch.float64) for scale in (self.inside, self.outside)
        )
        return torch.where(rows[:, None] & columns, inside, outside).reshape(1, 1, height, width)


def _between(count: int, low: float, high: float) -> Tensor:
    """Which of ``count`` pixels have their centre in [low, high) of the image."""
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (centre >= low) & (centre < high)
