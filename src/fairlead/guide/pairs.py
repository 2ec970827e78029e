"""Terms that are a weight times one direction, and what goes around them.

DirectedTerm   omega(at) * unit(seen)
  Pair         omega (x0_a - x0_b), affine: cfg, auto, pag, ...
  Wrapper      a method around another: apg, adaptive, ...
    LimitedTerm  a term inside an interval
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import Branch, Weight, is_zero, nonzero_rows, weighted
from fairlead.guide.moment import Context, Moment, Resource, Seen
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.step import Interval, Step
from fairlead.guide.terms import NOTHING, Ask, Term, as_guidance


class DirectedTerm(Term):
    """A term that is a weight times one direction, so that it can be wrapped: omega(at) * unit(seen)."""

    def omega(self, at: Moment) -> Weight:
        """The weight, 0 when off."""
        raise NotImplementedError

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        """(a, b): the direction is made from the predictions of a and of b."""
        raise NotImplementedError

    def unit(self, seen: Seen) -> Tensor:
        """The direction at weight 1, [n, ...]."""
        raise NotImplementedError

    def is_difference(self) -> bool:
        """True if :meth:`unit` is x0_a - x0_b."""
        return False

    def reads(self) -> bool:
        """True if ``add`` reads both predictions, also where one of them has no weight."""
        return True

    def ask(self, at: Moment) -> Ask:
        omega = self.omega(at)
        rows = nonzero_rows(omega)
        if rows is False:
            return NOTHING
        a, b = self.pair(at)
        weights = {a: omega, b: -omega} if self.is_difference() else {}
        mask = None if rows is True else rows
        return Ask(weights, {a: mask, b: mask} if self.reads() else {})

    def add(self, seen: Seen) -> Tensor | None:
        if self.is_difference():
            return None
        omega = self.omega(seen)
        if is_zero(omega):
            return None
        unit = self.unit(seen)
        return unit if isinstance(omega, float) and omega == 1 else weighted(omega, unit)


@dataclass(frozen=True)
class Pair(DirectedTerm):
    """omega (x0_a - x0_b), the affine method of two branches, omega = scale - off.

    A subclass may make another direction of the difference in ``unit``; it is then no longer affine.

    Attributes:
        scale: a number, one number per sample, a schedule or a map over pixels. Off at 1 where it counts from b (cfg,
            auto), at 0 where it is added to a (pag).
        off: the scale at which it is off.
    """

    scale: Scale | Sequence[float] | Tensor
    off: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))

    def omega(self, at: Moment) -> Weight:
        return scale_at(self.scale, at.step) - self.off

    def unit(self, seen: Seen) -> Tensor:
        a, b = self.pair(seen)
        return seen.x0(a) - seen.x0(b)

    def is_difference(self) -> bool:
        return type(self).unit is Pair.unit

    def reads(self) -> bool:
        return not self.is_difference()


@dataclass(frozen=True)
class Wrapper(DirectedTerm):
    """A method around another method of two branches; subclasses change its ``unit``, its ``omega`` or both.

    Attributes:
        term: the method inside.
        of_predictions: its rule reads the predictions of the pair, so the method inside must be their plain difference.
        outermost: why no other wrapper but ``during`` may go around it; empty if one may.
    """

    term: Term
    of_predictions: ClassVar[bool] = False
    outermost: ClassVar[str] = ""

    def __post_init__(self) -> None:
        given: Any = self.term
        if isinstance(given, str):
            parts = as_guidance(given)
            if len(parts.terms) != 1 or parts.finishers:
                raise UsageError(f"{self.name}(...) wraps one method such as cfg(4) or pag(2), got {given!r}")
            object.__setattr__(self, "term", parts.terms[0])
        inner = self.term
        while isinstance(inner, LimitedTerm):
            inner = inner.term
        if not isinstance(inner, DirectedTerm):
            raise UsageError(
                f"{self.name}(...) wraps one method of two branches such as cfg(4) or pag(2), got {self.term}"
            )
        if isinstance(inner, Wrapper) and inner.outermost:
            swaps = not (self.outermost or inner.of_predictions)
            instead = f"write {inner.name}({self.name}(...))" if swaps else "keep one of the two"
            raise UsageError(f"{self.name}(...) cannot wrap {inner.name}(...), which {inner.outermost}; {instead}")
        if self.of_predictions and not inner.is_difference():
            raise UsageError(
                f"{self.name}(...) is a rule of two predictions, but {inner} makes another direction than their "
                f"difference; put {self.name}(...) inside of it, or keep one of the two"
            )

    @property
    def inner(self) -> DirectedTerm:
        assert isinstance(self.term, DirectedTerm)
        return self.term

    def omega(self, at: Moment) -> Weight:
        return self.inner.omega(at)

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return self.inner.pair(at)

    def unit(self, seen: Seen) -> Tensor:
        return self.inner.unit(seen)

    def is_difference(self) -> bool:
        return type(self).unit is Wrapper.unit and self.inner.is_difference()

    def check(self, on: Context) -> None:
        self.term.check(on)

    def resources(self) -> tuple[Resource, ...]:
        return self.term.resources()

    def specs(self) -> tuple[str | int, ...]:
        return self.term.specs()

    def by_name(self, name: Callable[[Any], Any]) -> Term:
        inner = self.term.by_name(name)
        return self if inner == self.term else replace(self, term=inner)

    def needs_condition(self) -> bool:
        return self.term.needs_condition()

    def samples(self) -> int | None:
        return self.term.samples()

    def of_sample(self, index: int) -> Term:
        return replace(self, term=self.term.of_sample(index))


@dataclass(frozen=True)
class LimitedTerm(Wrapper):
    """A term inside an interval; made by ``during``. Outside it is off and nothing of it is evaluated."""

    limits: Interval
    name: ClassVar[str] = "during"

    def __post_init__(self) -> None:
        """Any term can be limited."""

    def ask(self, at: Moment) -> Ask:
        return self.term.ask(at) if self.limits.contains(at.step) else NOTHING

    def add(self, seen: Seen) -> Tensor | None:
        return self.term.add(seen) if self.limits.contains(seen.step) else None

    def omega(self, at: Moment) -> Weight:
        return self.inner.omega(at) if self.limits.contains(at.step) else 0.0

    def is_on(self, step: Step) -> bool:
        return self.limits.contains(step) and super().is_on(step)

    def __str__(self) -> str:
        return f"{self.term}{self.limits}"
