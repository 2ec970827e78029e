"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598, eq. 6) and negative conditions.

    D = D_u + scale (D_c - D_u) = D_c + omega (D_c - D_u),  omega = scale - 1

Two rows a sample where the scale is neither 0 nor 1, else one. With ``negative``, D_u is the prediction under that
condition instead of the null one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.algebra import COND, NULL, Branch, Term, Weight, is_zero
from fairlead.guide.scales import Scale, ScaleSchedule, as_scale, scale_at
from fairlead.guide.step import Step


@dataclass(frozen=True)
class CFG(Term):
    """``cfg(4)``, ``cfg(ramp(1, 7))``, ``cfg([1, 2, 4])`` (one scale a sample), ``cfg(7, negative="one")``.

    Attributes:
        scale: 1 is off, 0 unconditional; negative scales move away from the condition.
        negative: a condition to move away from, in place of null.
    """

    scale: Scale | Sequence[float] | Tensor
    negative: str | int | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "cfg"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale("cfg", self.scale))
        if self.negative is not None and (isinstance(self.negative, bool) or not isinstance(self.negative, str | int)):
            raise UsageError(f"cfg: expected negative to be a condition such as a class name, got {self.negative!r}")
        if self.negative is not None and self.scale == 1.0:
            raise UsageError(f"{self}: a scale of 1 never looks at the negative; use another scale or drop it")

    @classmethod
    def from_omega(cls, omega: float, *, negative: str | int | None = None) -> CFG:
        """From the other convention, (1 + omega) D_c - omega D_u."""
        return cls(omega + 1, negative=negative)

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        omega = scale_at(self._scale, step) - 1
        if is_zero(omega):
            return {}
        base = NULL if self.negative is None else Branch(self.negative)
        return {COND: omega, base: -omega}

    def specs(self) -> tuple[str | int, ...]:
        return () if self.negative is None else (self.negative,)

    def needs_condition(self) -> bool:
        return self.negative is None

    def samples(self) -> int | None:
        return len(self._scale) if isinstance(self._scale, tuple) else None

    def of_sample(self, index: int) -> CFG:
        return replace(self, scale=self._scale[index : index + 1]) if isinstance(self._scale, tuple) else self

    @property
    def _scale(self) -> Scale:
        assert isinstance(self.scale, float | tuple | ScaleSchedule)
        return self.scale
