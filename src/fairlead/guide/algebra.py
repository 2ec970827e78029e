"""The algebra of guidance. The carrier is x0, the base is the conditional prediction, every weight is 0 when off:

    x0_guided = finish( x0_cond + sum_k omega_k (x0_a - x0_b) )

A term contributes affine coefficients of branches that sum to zero. They are added over the terms before anything is
evaluated, and a branch whose coefficient is exactly 0 is never evaluated: cfg(0) is the unconditional model and cfg(1)
the conditional one, to the bit and for one row a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.step import Step
from fairlead.guide.text import call_text, is_number, literal

Weight = float | Tensor
"""A coefficient: one number, or a tensor [n] with one a sample."""


@dataclass(frozen=True)
class Branch:
    """One evaluation a method needs. ``spec`` None is the run's own condition, else it is encoded by the model;
    ``null`` drops every name."""

    spec: str | int | None = None
    null: bool = False


COND = Branch()
NULL = Branch(null=True)


@dataclass(frozen=True)
class Interval:
    """The noise levels at which a term is on: low < level <= high in sigma and t (2404.07724).

    The noisy end is included and the clean end is not, in every unit; in log-SNR, which falls as noise grows, that is
    low <= level < high.

    Attributes:
        unit: "sigma" is the ratio sigma / alpha (EDM's sigma; also on VP and flow models), "log_snr", or "t".
    """

    unit: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.unit not in ("sigma", "log_snr", "t"):
            raise UsageError(f"interval: unknown unit {self.unit!r} (known: sigma, log_snr, t)")
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise UsageError(
                f"interval {self.unit}=({self.low:g}, {self.high:g}) is empty: expected (low, high) with low < high"
            )

    def contains(self, step: Step) -> bool:
        level: float = getattr(step, self.unit)
        return self.low <= level < self.high if self.unit == "log_snr" else self.low < level <= self.high

    def __str__(self) -> str:
        return f".during({self.unit}=({literal(self.low)}, {literal(self.high)}))"


@dataclass(frozen=True)
class Term:
    """One guidance method. Subclasses are frozen dataclasses; their fields are the arguments of the expression.

    ``a + b`` adds terms, ``a | f`` appends a finisher, ``a.during(sigma=(lo, hi))`` limits a term to an interval.
    """

    name: ClassVar[str]

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        """Coefficients of the branches at this step, summing to zero; {} when off."""
        raise NotImplementedError

    def specs(self) -> tuple[str | int, ...]:
        """Condition specs of its own (negatives, composed conditions), to be encoded before the run."""
        return ()

    def replaces_condition(self) -> bool:
        """True if the run's own condition never enters, so that supplying one is an error."""
        return False

    def needs_condition(self) -> bool:
        """True if it steers towards the run's own condition, and so does nothing for a sample that has none."""
        return False

    def samples(self) -> int | None:
        """How many samples its per-sample scales are for; None when it has none."""
        return None

    def of_sample(self, index: int) -> Term:
        """This term for a run of sample ``index`` alone: its per-sample scales cut down to one entry."""
        return self

    def during(
        self,
        *,
        sigma: tuple[float, float] | None = None,
        log_snr: tuple[float, float] | None = None,
        t: tuple[float, float] | None = None,
    ) -> Limited:
        """This term inside one interval of noise levels, off outside; exactly one unit must be given."""
        given = {name: v for name, v in (("sigma", sigma), ("log_snr", log_snr), ("t", t)) if v is not None}
        if len(given) != 1:
            raise UsageError("during(...): expected exactly one of sigma=(low, high), log_snr=(...), t=(...)")
        ((unit, pair),) = given.items()
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(is_number(v) for v in pair)):
            raise UsageError(f"during({unit}=...): expected a pair of numbers (low, high), got {pair!r}")
        return Limited(self, Interval(unit, float(pair[0]), float(pair[1])))

    def __add__(self, other: Term | Guidance) -> Guidance:
        return as_guidance(self) + other

    def __or__(self, finisher: Finisher) -> Guidance:
        return as_guidance(self) | finisher

    def __str__(self) -> str:
        return call_text(self.name, self)


@dataclass(frozen=True)
class Limited(Term):
    """A term inside an interval; made by ``during``."""

    term: Term
    limits: Interval
    name: ClassVar[str] = "during"

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        return self.term.coefficients(step) if self.limits.contains(step) else {}

    def specs(self) -> tuple[str | int, ...]:
        return self.term.specs()

    def needs_condition(self) -> bool:
        return self.term.needs_condition()

    def samples(self) -> int | None:
        return self.term.samples()

    def of_sample(self, index: int) -> Limited:
        return replace(self, term=self.term.of_sample(index))

    def __str__(self) -> str:
        return f"{self.term}{self.limits}"


@dataclass(frozen=True)
class Finisher:
    """A map of the guided x0 [n, ...], per sample; eps is re-derived from what it returns."""

    name: ClassVar[str]

    def check(self, data_range: tuple[float, float] | None) -> None:
        """Raise UsageError when it cannot be applied to data of this range (None: unbounded, e.g. latents)."""

    def finish(self, x0: Tensor, data_range: tuple[float, float] | None) -> Tensor:
        raise NotImplementedError

    def __str__(self) -> str:
        return call_text(self.name, self)


@dataclass(frozen=True)
class Guidance:
    """Terms and finishers. Immutable: running it twice gives the same bits. ``str`` parses back to an equal one."""

    terms: tuple[Term, ...] = ()
    finishers: tuple[Finisher, ...] = ()

    def __add__(self, other: Term | Guidance) -> Guidance:
        other = as_guidance(other)
        if self.finishers or other.finishers:
            raise UsageError("guidance: finishers come last; write (a + b) | finisher")
        return Guidance(self.terms + other.terms)

    def __or__(self, finisher: Finisher) -> Guidance:
        if not isinstance(finisher, Finisher):
            raise UsageError(f"guidance: only a finisher can follow '|', got {finisher}")
        return replace(self, finishers=(*self.finishers, finisher))

    def during(
        self,
        *,
        sigma: tuple[float, float] | None = None,
        log_snr: tuple[float, float] | None = None,
        t: tuple[float, float] | None = None,
    ) -> Guidance:
        """Every term inside the same interval."""
        return replace(self, terms=tuple(term.during(sigma=sigma, log_snr=log_snr, t=t) for term in self.terms))

    def of_sample(self, index: int) -> Guidance:
        """This guidance for a run of sample ``index`` alone."""
        return replace(self, terms=tuple(term.of_sample(index) for term in self.terms))

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The coefficient of every branch that must be evaluated at this step; they sum to one."""
        total: dict[Branch, Weight] = {COND: 1.0}
        for term in self.terms:
            for branch, weight in term.coefficients(step).items():
                total[branch] = total.get(branch, 0.0) + weight
        return {branch: weight for branch, weight in total.items() if not is_zero(weight)}

    def __str__(self) -> str:
        text = " + ".join(map(str, self.terms)) or "none"
        return " | ".join([text, *map(str, self.finishers)])


def as_guidance(value: Guidance | Term | None) -> Guidance:
    if value is None:
        return Guidance()
    return Guidance((value,)) if isinstance(value, Term) else value


def is_zero(weight: Weight) -> bool:
    return not bool(weight.any()) if isinstance(weight, Tensor) else weight == 0


def is_one(weight: Weight) -> bool:
    return bool((weight == 1).all()) if isinstance(weight, Tensor) else weight == 1
