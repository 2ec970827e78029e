"""The algebra of guidance. The carrier is x0, the base is the conditional prediction, every weight is 0 when off:

    x0_guided = finish( x0_cond + sum_k omega_k T_k(x0_a - x0_b) + sum_j kappa_j grad_j )

An affine term contributes coefficients of branches that sum to zero. They are added over the terms before anything is
evaluated, and a branch whose coefficient is exactly 0 is never evaluated: cfg(0) is the unconditional model and cfg(1)
the conditional one, to the bit and for one row a sample. Any other term says which branches it wants to look at, and
adds a direction once they are known.

    Term        one method
      Pair      omega (x0_a - x0_b), affine: cfg, auto, pag, ...
      Wrapper   a method around another: during, apg, adaptive, ...
    Finisher    a map of the guided x0: clip, threshold, rescale
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fairlead.core.arguments import plain, plain_list, shown
from fairlead.core.condition import Condition, Perturbation
from fairlead.core.errors import UsageError
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.seen import Resource, Seen, Surroundings, per_sample
from fairlead.guide.step import Step
from fairlead.guide.text import call_text, is_number, literal

Weight = float | Tensor
"""A coefficient: one number, a tensor [n] with one a sample, or a map over pixels that broadcasts against x0."""
Wanted = Mapping["Branch", Tensor | None]
"""Branches to look at -> the samples for which (bool [n]), None for all."""


@dataclass(frozen=True)
class Branch:
    """One evaluation a method needs.

    Attributes:
        spec: None is the run's own condition, else it is encoded by the model.
        null: every name is dropped.
        drop: names that are dropped, where not all are.
        perturb: what the network does worse.
        model: name of another model to ask; None is the run's.
        source: makes the condition anew at every step, see :class:`ConditionSource`.
    """

    spec: str | int | None = None
    null: bool = False
    drop: tuple[str, ...] = ()
    perturb: Perturbation | None = None
    model: str | None = None
    source: ConditionSource | None = None

    def __post_init__(self) -> None:
        fields = self.spec, self.null, self.drop, self.perturb, self.model, self.source
        object.__setattr__(self, "_hash", hash(fields))  # a step of many terms asks for it dozens of times

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its fields: in another process strings hash to another number."""
        return Branch, (self.spec, self.null, self.drop, self.perturb, self.model, self.source)


class ConditionSource(Hashable, Protocol):
    """Makes the condition of a branch, another one in every step. Equal sources make the same."""

    def over(self, steps: Sequence[Step], around: Surroundings, condition: Condition) -> Callable[[int], Condition]:
        """Place in ``steps`` -> the condition of all samples there, a pure function of the step.

        Args:
            steps: of the whole run, or one of them.
            condition: of the run.
        """


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
        return self.holds(getattr(step, self.unit))

    def holds(self, level: float) -> bool:
        """Whether a level, in this interval's unit, lies inside."""
        return self.low <= level < self.high if self.unit == "log_snr" else self.low < level <= self.high

    def __str__(self) -> str:
        return f".during({self.unit}=({literal(self.low)}, {literal(self.high)}))"


@dataclass(frozen=True)
class Term:
    """One guidance method. Subclasses are frozen dataclasses; their fields are the arguments of the expression.

    ``a + b`` adds terms, ``a | f`` appends a finisher, ``a.during(sigma=(lo, hi))`` limits a term to an interval.
    """

    name: ClassVar[str]

    # what it adds

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        """The affine part: coefficients of branches at this step, summing to zero; {} when off or not affine."""
        return {}

    def wanted(self, step: Step) -> Wanted:
        """Branches that :meth:`direction` or :meth:`look` will read, beside those that carry a coefficient."""
        return {}

    def direction(self, seen: Seen) -> Tensor | None:
        """What is added to x0 beyond the affine part, [n, ...], None for nothing. Called once an evaluation."""
        return None

    def renoise(self, step: Step) -> Branch | None:
        """The branch whose eps re-noises in place of that of the guided x0 (CFG++)."""
        return None

    def unties(self) -> bool:
        """True if :meth:`renoise` may answer, so that the sampler has to re-noise with ``Prediction.eps``."""
        return type(self).renoise is not Term.renoise

    def differentiates(self, step: Step) -> bool:
        """True if :meth:`direction` differentiates through the conditional prediction (``seen.graph``)."""
        return False

    def attention(self, step: Step, around: Surroundings) -> tuple[str, ...]:
        """Layers whose attention during the conditional prediction :meth:`direction` reads (``seen.attention``)."""
        return ()

    def alter(self, condition: Condition, step: Step, around: Surroundings) -> Condition:
        """The run's own condition at this step; whoever changes it also answers True to :meth:`alters`."""
        return condition

    def alters(self) -> bool:
        return False

    # what it needs to know

    def check(self, around: Surroundings) -> None:
        """Raise UsageError if it cannot be applied to this model."""

    def resources(self) -> tuple[Resource, ...]:
        """What has to be loaded for it."""
        return ()

    def specs(self) -> tuple[str | int, ...]:
        """Condition specs of its own (negatives, composed conditions), to be encoded before the run."""
        return ()

    def by_name(self, name: Callable[[Any], Any]) -> Term:
        """The same with every spec of its own as ``name`` gives it."""
        own = getattr(self, "negative", None)
        told = None if own is None else name(own)
        return self if told == own else replace(self, negative=told)  # type: ignore[call-arg]

    def drops(self) -> tuple[tuple[str, ...], ...]:
        """Sets of names that its branches drop from the run's condition, where they do not drop all."""
        return ()

    def replaces_condition(self) -> bool:
        """True if the run's own condition never enters, so that supplying one is an error."""
        return False

    def needs_condition(self) -> bool:
        """True if it steers towards the run's own condition, and so does nothing for a sample that has none."""
        return False

    def rows(self, step: Step) -> int:
        """Rows a sample of its own network calls, beyond its branches: a classifier, a second evaluation."""
        return 0

    def samples(self) -> int | None:
        """How many samples its per-sample scales are for; None when it has none."""
        counts = {len(value) for value in _per_sample_fields(self).values()}
        return max(counts, default=None)

    def of_sample(self, index: int) -> Term:
        """This term for a run of sample ``index`` alone: its per-sample scales cut down to one entry."""
        mine = {name: value[index : index + 1] for name, value in _per_sample_fields(self).items()}
        return replace(self, **mine) if mine else self

    # how it is written

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
        ends = plain_list(pair)
        ends = [*map(plain, ends)] if isinstance(ends, tuple | list) else ends
        if not (isinstance(ends, tuple | list) and len(ends) == 2 and all(is_number(v) for v in ends)):
            raise UsageError(f"during({unit}=...): expected a pair of numbers (low, high), got {shown(pair)}")
        return Limited(self, Interval(unit, float(ends[0]), float(ends[1])))

    def __add__(self, other: Term | Guidance) -> Guidance:
        return as_guidance(self) + other

    def __or__(self, finisher: Finisher) -> Guidance:
        return as_guidance(self) | finisher

    def __str__(self) -> str:
        return call_text(self.name, self)


class Directed(Term):
    """A term that is a weight times one direction, so that it can be wrapped: omega(step) * unit(seen)."""

    def omega(self, step: Step) -> Weight:
        """The weight, 0 when off."""
        raise NotImplementedError

    def pair(self, step: Step) -> tuple[Branch, Branch]:
        """(a, b): the direction is made from the predictions of a and of b."""
        raise NotImplementedError

    def unit(self, seen: Seen) -> Tensor:
        """The direction at weight 1, [n, ...]."""
        raise NotImplementedError

    def is_difference(self) -> bool:
        """True if :meth:`unit` is x0_a - x0_b."""
        return False

    def wanted(self, step: Step) -> Wanted:
        rows = nonzero_rows(self.omega(step))
        return {} if rows is False else dict.fromkeys(self.pair(step), None if rows is True else rows)

    def direction(self, seen: Seen) -> Tensor | None:
        omega = self.omega(seen.step)
        if is_zero(omega):
            return None
        unit = self.unit(seen)
        return unit if isinstance(omega, float) and omega == 1 else weighted(omega, unit)


@dataclass(frozen=True)
class Pair(Directed):
    """omega (x0_a - x0_b), the affine method of two branches, omega = scale - off.

    A subclass may make another direction of the difference in ``unit``; it is then no longer affine.

    Attributes:
        scale: a number, one number a sample, a schedule or a map over pixels. Off at 1 where it counts from b (cfg,
            auto), at 0 where it is added to a (pag).
        off: the scale at which it is off.
    """

    scale: Scale | Sequence[float] | Tensor
    off: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))

    def omega(self, step: Step) -> Weight:
        return scale_at(self.scale, step) - self.off

    def unit(self, seen: Seen) -> Tensor:
        a, b = self.pair(seen.step)
        return seen.x0(a) - seen.x0(b)

    def is_difference(self) -> bool:
        return type(self).unit is Pair.unit

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        omega = self.omega(step)
        if is_zero(omega) or not self.is_difference():
            return {}
        a, b = self.pair(step)
        return {a: omega, b: -omega}

    def wanted(self, step: Step) -> Wanted:
        return {} if self.is_difference() else super().wanted(step)

    def direction(self, seen: Seen) -> Tensor | None:
        return None if self.is_difference() else super().direction(seen)


@dataclass(frozen=True)
class Wrapper(Directed):
    """A method around another method of two branches; subclasses change its ``unit``, its ``omega`` or both.

    Everything that it does not change is asked of the method inside.

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
                raise UsageError(f"{self.name}(...) goes around one method such as cfg(4) or pag(2), got {given!r}")
            object.__setattr__(self, "term", parts.terms[0])
        inner = self.term
        while isinstance(inner, Limited):
            inner = inner.term
        if not isinstance(inner, Directed):
            raise UsageError(
                f"{self.name}(...) goes around one method of two branches such as cfg(4) or pag(2), got {self.term}"
            )
        if isinstance(inner, Wrapper) and inner.outermost:
            swaps = not (self.outermost or inner.of_predictions)
            instead = f"write {inner.name}({self.name}(...))" if swaps else "keep one of the two"
            raise UsageError(f"{self.name}(...) cannot go around {inner.name}(...), which {inner.outermost}; {instead}")
        if self.of_predictions and not inner.is_difference():
            raise UsageError(
                f"{self.name}(...) is a rule of two predictions, but {inner} makes another direction than their "
                f"difference; put {self.name}(...) inside of it, or keep one of the two"
            )

    @property
    def inner(self) -> Directed:
        assert isinstance(self.term, Directed)
        return self.term

    def omega(self, step: Step) -> Weight:
        return self.inner.omega(step)

    def pair(self, step: Step) -> tuple[Branch, Branch]:
        return self.inner.pair(step)

    def unit(self, seen: Seen) -> Tensor:
        return self.inner.unit(seen)

    def is_difference(self) -> bool:
        return type(self).unit is Wrapper.unit and self.inner.is_difference()

    def wanted(self, step: Step) -> Wanted:
        mine = super().wanted(step)
        return {**self.inner.wanted(step), **mine} if mine else mine

    def check(self, around: Surroundings) -> None:
        self.term.check(around)

    def resources(self) -> tuple[Resource, ...]:
        return self.term.resources()

    def specs(self) -> tuple[str | int, ...]:
        return self.term.specs()

    def by_name(self, name: Callable[[Any], Any]) -> Term:
        inner = self.term.by_name(name)
        return self if inner == self.term else replace(self, term=inner)

    def drops(self) -> tuple[tuple[str, ...], ...]:
        return self.term.drops()

    def needs_condition(self) -> bool:
        return self.term.needs_condition()

    def samples(self) -> int | None:
        return self.term.samples()

    def of_sample(self, index: int) -> Term:
        return replace(self, term=self.term.of_sample(index))


@dataclass(frozen=True)
class Limited(Wrapper):
    """A term inside an interval; made by ``during``. Outside it is off and nothing of it is evaluated."""

    limits: Interval
    name: ClassVar[str] = "during"

    def __post_init__(self) -> None:
        """Any term can be limited."""

    def coefficients(self, step: Step) -> Mapping[Branch, Weight]:
        return self.term.coefficients(step) if self.limits.contains(step) else {}

    def wanted(self, step: Step) -> Wanted:
        return self.term.wanted(step) if self.limits.contains(step) else {}

    def direction(self, seen: Seen) -> Tensor | None:
        return self.term.direction(seen) if self.limits.contains(seen.step) else None

    def omega(self, step: Step) -> Weight:
        return self.inner.omega(step) if self.limits.contains(step) else 0.0

    def renoise(self, step: Step) -> Branch | None:
        return self.term.renoise(step) if self.limits.contains(step) else None

    def unties(self) -> bool:
        return self.term.unties()

    def differentiates(self, step: Step) -> bool:
        return self.term.differentiates(step) and self.limits.contains(step)

    def attention(self, step: Step, around: Surroundings) -> tuple[str, ...]:
        return self.term.attention(step, around) if self.limits.contains(step) else ()

    def alter(self, condition: Condition, step: Step, around: Surroundings) -> Condition:
        return self.term.alter(condition, step, around) if self.limits.contains(step) else condition

    def alters(self) -> bool:
        return self.term.alters()

    def rows(self, step: Step) -> int:
        return self.term.rows(step) if self.limits.contains(step) else 0

    def __str__(self) -> str:
        return f"{self.term}{self.limits}"


@dataclass(frozen=True)
class Finisher:
    """A map of the guided x0 [n, ...], per sample; eps is re-derived from what it returns."""

    name: ClassVar[str]

    def check(self, around: Surroundings) -> None:
        """Raise UsageError when it cannot be applied to this model's data."""

    def wanted(self, step: Step) -> Wanted:
        """Branches it compares the guided x0 with."""
        return {}

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        raise NotImplementedError

    def __str__(self) -> str:
        return call_text(self.name, self)


@dataclass(frozen=True)
class Guidance:
    """Terms and finishers. Immutable: running it twice gives the same bits. ``str`` parses back to an equal one."""

    terms: tuple[Term, ...] = ()
    finishers: tuple[Finisher, ...] = field(default=())

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

    def by_name(self, name: Callable[[Any], Any]) -> Guidance:
        """This guidance with the conditions that it names as ``name`` gives them, see ``Model.named``."""
        return replace(self, terms=tuple(term.by_name(name) for term in self.terms))

    def unties(self) -> tuple[Term, ...]:
        """The terms for which the sampler has to re-noise with ``Prediction.eps``."""
        return tuple(term for term in self.terms if term.unties())

    def resources(self) -> tuple[Resource, ...]:
        """What its terms need to have loaded, each once."""
        return tuple(dict.fromkeys(resource for term in self.terms for resource in term.resources()))

    def coefficients(self, step: Step) -> dict[Branch, Weight]:
        """The coefficients of the affine parts and the base at this step; they sum to one."""
        total: dict[Branch, Weight] = {COND: 1.0}
        for term in self.terms:
            for branch, weight in term.coefficients(step).items():
                total[branch] = added(total.get(branch, 0.0), weight)
        return {branch: weight for branch, weight in total.items() if not is_zero(weight)}

    def __str__(self) -> str:
        text = " + ".join(map(str, self.terms)) or "none"
        return " | ".join([text, *map(str, self.finishers)])


def as_guidance(value: Guidance | Term | str | None) -> Guidance:
    """An object, an expression, or None for none.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, str):
        from fairlead.guide.expression import parse  # which reads what is defined here

        value = parse(value)
    if value is None:
        return Guidance()
    if not isinstance(value, Guidance | Term):
        raise UsageError(f"guidance: expected an expression such as 'cfg(4)' or fl.cfg(4), got {shown(value)}")
    return Guidance((value,)) if isinstance(value, Term) else value


def is_zero(weight: Weight) -> bool:
    return not bool(weight.any()) if isinstance(weight, Tensor) else weight == 0


def is_one(weight: Weight) -> bool:
    return bool((weight == 1).all()) if isinstance(weight, Tensor) else weight == 1


def nonzero_rows(weight: Weight) -> Tensor | bool:
    """The samples that a weight is not 0 for: bool [n], or True or False for all of them."""
    if not isinstance(weight, Tensor):
        return weight != 0
    rows = weight.reshape(len(weight), -1).any(1)
    return bool(rows.any()) if weight.ndim > 1 and len(weight) == 1 else rows if bool(rows.any()) else False


def added(a: Weight, b: Weight) -> Weight:
    """a + b; one number a sample [n] and a map over pixels [1, 1, h, w] make a map for each sample, [n, 1, h, w]."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim != b.ndim:
        a, b = (w.reshape(-1, *([1] * (max(a.ndim, b.ndim) - 1))) if w.ndim == 1 else w for w in (a, b))
    return a + b


def weighted(weight: Weight, direction: Tensor) -> Tensor:
    """weight * direction [n, ...]."""
    return direction * (per_sample(weight, direction) if isinstance(weight, Tensor) else weight)


def _per_sample_fields(term: Term) -> dict[str, tuple[Any, ...]]:
    scale = getattr(term, "scale", None)
    return {"scale": scale} if isinstance(scale, tuple) else {}
