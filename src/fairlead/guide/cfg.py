"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598, eq. 6) and negative conditions.

    D = D_u + scale (D_c - D_u) = D_c + omega (D_c - D_u),  omega = scale - 1

Two rows a sample where the scale is neither 0 nor 1, else one. With ``negative``, D_u is the prediction under that
condition instead of the null one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fairlead.core.errors import UsageError
from fairlead.guide.algebra import COND, NULL, Branch, Pair
from fairlead.guide.step import Step


@dataclass(frozen=True)
class CFG(Pair):
    """``cfg(4)``, ``cfg(ramp(1, 7))``, ``cfg([1, 2, 4])`` (one scale a sample), ``cfg(7, negative="one")``.

    Attributes:
        scale: 1 is off, 0 unconditional; negative scales move away from the condition.
        negative: a condition to move away from, in place of null.
    """

    negative: str | int | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "cfg"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_negative(self.name, self.negative)
        if self.negative is not None and self.scale == 1.0:
            raise UsageError(f"{self}: a scale of 1 never looks at the negative; use another scale or drop it")

    @classmethod
    def from_omega(cls, omega: float, *, negative: str | int | None = None) -> CFG:
        """From the other convention, (1 + omega) D_c - omega D_u."""
        return cls(omega + 1, negative=negative)

    def pair(self, step: Step) -> tuple[Branch, Branch]:
        return COND, base_branch(self.negative)

    def specs(self) -> tuple[str | int, ...]:
        return () if self.negative is None else (self.negative,)

    def needs_condition(self) -> bool:
        return self.negative is None


def base_branch(negative: str | int | None) -> Branch:
    """What a term moves away from: the null condition, or a negative one."""
    return NULL if negative is None else Branch(negative)


def check_negative(owner: str, negative: object) -> None:
    if negative is not None and (isinstance(negative, bool) or not isinstance(negative, str | int)):
        raise UsageError(f"{owner}: expected negative to be a condition such as a class name, got {negative!r}")
