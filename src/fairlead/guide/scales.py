"""Scales: a number, one per sample, one per pixel, or a schedule of the noise level (Wang et al. 2024, 2404.13040)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import chosen, plain, plain_list, shown
from fairlead.core.errors import UsageError, shortened
from fairlead.guide.notation import call_text, is_number, plain_fields
from fairlead.guide.step import Step


@dataclass(frozen=True)
class ScaleSchedule:
    """A scale that depends on where the run is."""

    name: ClassVar[str]

    def value(self, step: Step) -> float | Tensor:
        """A number, or a map over pixels [1, 1, h, w]."""
        raise NotImplementedError

    def __str__(self) -> str:
        return call_text(self.name, self)


Scale = float | tuple[float, ...] | ScaleSchedule

_SHAPES = ("linear", "cosine", "step")
_UNITS = ("t", "log_snr", "progress")


@dataclass(frozen=True)
class Ramp(ScaleSchedule):
    """From ``start`` at the noisy end to ``end`` at the clean end.

    Attributes:
        shape: "linear", "cosine" (gentle at both ends) or "step" (``end`` from the middle on).
        by: what is ramped over: "t" (1 - t, the same on every grid), "log_snr" or "progress" (share of the steps).
        power: exponent on the progress before the shape is applied; > 0.
    """

    start: float
    end: float
    shape: str = "linear"
    by: str = "t"
    power: float = 1.0
    name: ClassVar[str] = "ramp"

    def __post_init__(self) -> None:
        plain_fields(self)
        for argument in ("start", "end", "power"):
            _require_number("ramp", argument, getattr(self, argument))
        chosen("ramp shape", self.shape, _SHAPES)
        chosen("ramp unit", self.by, _UNITS)
        if self.power <= 0:
            raise UsageError(f"ramp: expected power > 0, got {self.power}")

    def value(self, step: Step) -> float:
        u: float = step.progress(self.by) ** self.power
        if self.shape == "cosine":
            u = (1 - math.cos(math.pi * u)) / 2
        elif self.shape == "step":
            u = float(u >= 0.5)
        return self.start + (self.end - self.start) * u


@dataclass(frozen=True)
class Clamp(ScaleSchedule):
    """A schedule limited to ``low`` and ``high``; clamp(ramp(0, 7), low=1.5) is the clamp-linear of 2404.13040."""

    schedule: ScaleSchedule
    low: float | None = None
    high: float | None = None
    name: ClassVar[str] = "clamp"

    def __post_init__(self) -> None:
        plain_fields(self)
        if not isinstance(self.schedule, ScaleSchedule):
            raise UsageError(f"clamp: expected a schedule such as ramp(0, 7) first, got {self.schedule!r}")
        for argument in ("low", "high"):
            if getattr(self, argument) is not None:
                _require_number("clamp", argument, getattr(self, argument))
        if self.low is None and self.high is None:
            raise UsageError("clamp: expected low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UsageError(f"clamp: low {self.low:g} is above high {self.high:g}")

    def value(self, step: Step) -> float | Tensor:
        value = self.schedule.value(step)
        if isinstance(value, Tensor):
            return value.clamp(self.low, self.high)
        value = value if self.low is None else max(self.low, value)
        return value if self.high is None else min(self.high, value)


@dataclass(frozen=True)
class Pixels(ScaleSchedule):
    """One number per pixel, the same for all samples and steps: ``pixels([[1, 4], [1, 1]])``, or a tensor [h, w] where
    a scale is taken. h and w are those of the model's space."""

    values: Sequence[Sequence[float]]
    name: ClassVar[str] = "pixels"

    def __post_init__(self) -> None:
        rows = plain_list(self.values)
        rows = [plain_list(row) for row in rows] if isinstance(rows, list | tuple) else rows
        if not isinstance(rows, list | tuple) or not rows or not all(isinstance(r, list | tuple) and r for r in rows):
            raise UsageError(f"pixels: expected rows of numbers such as [[1, 4], [1, 1]], got {rows!r}")
        if len({len(row) for row in rows}) > 1:
            raise UsageError(f"pixels: expected rows of one length, got {sorted({len(row) for row in rows})}")
        rows = [[plain(entry) for entry in row] for row in rows]
        for entry in (entry for row in rows for entry in row):
            _require_number("pixels", "a pixel", entry)
        object.__setattr__(self, "values", tuple(tuple(float(entry) for entry in row) for row in rows))

    def value(self, step: Step) -> Tensor:
        """[1, 1, h, w]."""
        own, image = (len(self.values), len(self.values[0])), image_size("pixels", step)
        if own != image:
            raise UsageError(
                f"pixels: the map is {own[0]} x {own[1]}, the model's samples are {image[0]} x {image[1]}; "
                "give one number per pixel"
            )
        return torch.tensor(self.values, dtype=torch.float64)[None, None]


def image_size(owner: str, step: Step) -> tuple[int, int]:
    """(h, w) of the samples at this step; raises UsageError if they are not images."""
    if len(step.shape) != 3:
        raise UsageError(f"{owner}: a scale that differs between pixels needs images, got samples {list(step.shape)}")
    return step.shape[1], step.shape[2]


def as_scale(owner: str, value: Any) -> Scale:
    """Check a scale; a tensor or list [n] becomes a tuple with one number per sample, a tensor [h, w] a map
    over pixels."""
    if isinstance(value, ScaleSchedule):
        return value
    if getattr(value, "ndim", 0) == 2:
        return Pixels(value)
    value = plain_list(value)
    if isinstance(value, list | tuple):
        value = [plain(entry) for entry in value]
        if not value:
            raise UsageError(f"{owner}: a per-sample scale needs at least one number")
        for entry in value:
            _require_number(owner, "scale", entry)
        return tuple(float(entry) for entry in value)
    _require_number(owner, "scale", value)
    return float(value)


def scale_at(scale: Scale | Sequence[float] | Tensor, step: Step) -> float | Tensor:
    """The scale at a step: a number, float64 [n] with one a sample of the batch, or a map over pixels [1, 1, h, w].

    ``scale`` is a method's attribute, which its ``__post_init__`` has already turned into a :data:`Scale`.
    """
    if isinstance(scale, float):
        return scale
    if isinstance(scale, ScaleSchedule):
        return scale.value(step)
    assert isinstance(scale, tuple)
    return step.pick(scale)


_LARGEST = 1e6
"""No guidance is that strong; far above it float32 overflows."""


def _shown(value: Any) -> str:
    """An expression as it is written, anything else as Python shows it."""
    return shortened(str(value), 160)[1:-1] if hasattr(value, "name") else shown(value)


def _require_number(owner: str, argument: str, value: Any) -> None:
    if not is_number(value) or not math.isfinite(value):
        raise UsageError(
            f"{owner}: expected {argument} to be a finite number or a schedule such as ramp(1, 7), got {_shown(value)}"
        )
    if abs(value) > _LARGEST:
        raise UsageError(f"{owner}: expected {argument} between -1e6 and 1e6, got {value:g}")
