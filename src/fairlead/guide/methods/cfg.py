"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598, eq. 6) and negative conditions.

    D = D_u + scale (D_c - D_u) = D_c + omega (D_c - D_u),  omega = scale - 1

Two rows per sample if the scale is neither 0 nor 1, else one. With ``negative``, D_u is the prediction under that
condition instead of the null one. With ``drop``, D_u lacks only the conditions named, so that each of several can have
its own scale: ``cfg(4, drop="text") + cfg(2, drop="label")`` (as in 2211.09800, eq. 3, with parallel terms).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fairlead.core.arguments import plain, shown
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, Branch
from fairlead.guide.moment import Context, Moment
from fairlead.guide.notation import is_number
from fairlead.guide.pairs import Pair


@dataclass(frozen=True)
class CFG(Pair):
    """``cfg(4)``, ``cfg(ramp(1, 7))``, ``cfg([1, 2, 4])`` (one scale per sample), ``cfg(7, negative="one")``,
    ``cfg(4, drop="text")``, ``cfg(4, drop=["text", "ink"])``.

    Attributes:
        scale: 1 is off, 0 unconditional; negative scales move away from the condition.
        negative: a condition to move away from, in place of null.
        drop: a name or names of conditions; D_u is then the prediction without these, not without any.
    """

    negative: str | int | None = field(default=None, kw_only=True)
    drop: str | tuple[str, ...] | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "cfg"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "negative", check_negative(self.name, self.negative))
        if self.negative is not None and self.scale == 1.0:
            raise UsageError(
                f"{self}: with a scale of 1 the negative is never evaluated; use another scale or drop the negative"
            )
        object.__setattr__(self, "drop", checked_drop(self.name, self.drop))
        if self.drop is not None and self.negative is not None:
            raise UsageError(f"{self}: takes either a negative or drop, not both; give one of the two")

    @classmethod
    def from_omega(cls, omega: float, *, negative: str | int | None = None) -> CFG:
        """From the other convention, (1 + omega) D_c - omega D_u."""
        omega = plain(omega)
        return cls(omega + 1 if is_number(omega) else omega, negative=negative)

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, base_branch(self.negative, self.drop)

    def check(self, on: Context) -> None:
        for name in () if self.drop is None else _names(self.drop):
            if name not in on.condition.values:
                has = ", ".join(sorted(on.condition.values)) or "no conditions"
                raise UsageError(f"{self}: drops {name!r}, the model has {has}; drop one of those")

    def specs(self) -> tuple[str | int, ...]:
        return () if self.negative is None else (self.negative,)

    def needs_condition(self) -> bool:
        return self.negative is None


def base_branch(negative: str | int | None, drop: str | tuple[str, ...] | None = None) -> Branch:
    """What a term moves away from: the null condition, a negative one, or the lack of some conditions."""
    if drop is not None:
        return Branch(drop=_names(drop))
    return NULL if negative is None else Branch(negative)


def checked_drop(owner: str, drop: object) -> str | tuple[str, ...] | None:
    """A name, or several sorted, each once; None for all.

    Raises:
        UsageError: for anything else.
    """
    if drop is None or (isinstance(drop, str) and drop):
        return drop
    names = tuple(drop) if isinstance(drop, list | tuple) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise UsageError(f"{owner}: expected drop to be a condition's name or a list of different ones, got {drop!r}")
    return names[0] if len(names) == 1 else tuple(sorted(names))


def _names(drop: str | tuple[str, ...]) -> tuple[str, ...]:
    return (drop,) if isinstance(drop, str) else drop


def check_negative(owner: str, negative: Any) -> str | int | None:
    """The condition, an index as a Python ``int``; raises UsageError for what is none."""
    negative = plain(negative)
    if negative is not None and (isinstance(negative, bool) or not isinstance(negative, str | int)):
        raise UsageError(f"{owner}: expected negative to be a condition such as a class name, got {shown(negative)}")
    return negative
