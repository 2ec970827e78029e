"""The algebra of guidance. The carrier is x0, the base is the conditional prediction, every weight is 0 when off:

    x0_guided = finish( x0_cond + sum_k omega_k T_k(x0_a - x0_b) + sum_j kappa_j grad_j )

A term answers two questions: what it wants evaluated in this step, and what it adds to x0 beyond its weights. An affine
term asks with weights of branches that sum to zero. A finisher maps the guided x0: clip, threshold, rescale. Terms of
two branches are in ``pairs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from fairlead.core.arguments import plain, plain_list, shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Branch, Looks, Weight, add_weights, is_zero
from fairlead.guide.moment import Context, Moment, Resource, Seen
from fairlead.guide.notation import call_text, is_number
from fairlead.guide.step import Interval, Step

Alter = Callable[[Condition], Condition]
"""The run's own condition -> what the network is shown in its place."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What a term wants evaluated in one step. The default is nothing: the term is off.

    Attributes:
        weights: branches -> their coefficients, which sum to zero: the affine part.
        looks: branches that ``add`` will read, beside those that have a weight.
        renoise: the branch whose eps re-noises in place of that of the guided x0 (CFG++).
        alter: changes the run's own condition in this step (with embeddings for labels and token ids).
        layers: whose attention during the conditional prediction ``add`` reads (``seen.attention``); or the head in the
            middle of the network, whose output.
        graph: ``add`` differentiates through the conditional prediction (``seen.graph``).
        rows: rows per sample of network calls that ``add`` makes itself: a classifier, a second evaluation. At most so
            many: samples that are off may cost none.
    """

    weights: Mapping[Branch, Weight] = field(default_factory=dict)
    looks: Looks = field(default_factory=dict)
    renoise: Branch | None = None
    alter: Alter | None = None
    layers: tuple[str, ...] = ()
    graph: bool = False
    rows: int = 0


NOTHING = Ask()


@dataclass(frozen=True)
class Term:
    """One guidance method. Subclasses are frozen dataclasses; their fields are the arguments of the expression.

    ``a + b`` adds terms, ``a | f`` appends a finisher, ``a.during(sigma=(lo, hi))`` limits a term to an interval.
    """

    name: ClassVar[str]
    renoises: ClassVar[bool] = False
    """True if ``ask`` may name a branch to re-noise with, so that the sampler has to use ``Prediction.eps``."""
    replaces_condition: ClassVar[bool] = False
    """True if the run's own condition never enters, so that supplying one is an error."""
    weighs: ClassVar[bool] = False
    """True if it has ``log_weight(seen)``, weights of particles, and is exact only with some."""

    # the two questions

    def ask(self, at: Moment) -> Ask:
        """What it wants evaluated in this step."""
        return NOTHING

    def add(self, seen: Seen) -> Tensor | None:
        """What it adds to x0 beyond its weights, [n, ...], None for nothing. Called once per evaluation."""
        return None

    # what it needs before sampling starts

    def check(self, on: Context) -> None:
        """Raise UsageError if it cannot be applied to this model or condition."""

    def resources(self) -> tuple[Resource, ...]:
        """What has to be loaded for it."""
        return ()

    def specs(self) -> tuple[str | int, ...]:
        """Condition specs of its own (negatives, composed conditions), encoded once."""
        return ()

    def by_name(self, name: Callable[[Any], Any]) -> Term:
        """The same with every spec of its own as ``name`` gives it."""
        own = getattr(self, "negative", None)
        named = None if own is None else name(own)
        return self if named == own else replace(self, negative=named)  # type: ignore[call-arg]

    def needs_condition(self) -> bool:
        """True if it steers towards the run's own condition, and so does nothing for a sample that has none."""
        return False

    def samples(self) -> int | None:
        """How many samples its per-sample scales are for; None when it has none."""
        counts = {len(value) for value in _per_sample_fields(self).values()}
        return max(counts, default=None)

    def of_sample(self, index: int) -> Term:
        """This term for a run of sample ``index`` alone: its per-sample scales cut down to one entry."""
        mine = {name: value[index : index + 1] for name, value in _per_sample_fields(self).items()}
        return replace(self, **mine) if mine else self

    def is_on(self, step: Step) -> bool:
        """Whether the step lies in the intervals of this term."""
        return all(inner.is_on(step) for inner in self.nested() if inner is not self)

    def nested(self) -> Iterator[Term]:
        """This term and the terms inside it."""
        yield self
        for each in fields(self):
            if isinstance(inner := getattr(self, each.name), Term):
                yield from inner.nested()

    # how it is written

    def during(
        self,
        *,
        sigma: tuple[float, float] | None = None,
        log_snr: tuple[float, float] | None = None,
        t: tuple[float, float] | None = None,
    ) -> Term:
        """This term inside one interval of noise levels, off outside; exactly one unit must be given."""
        given = {name: v for name, v in (("sigma", sigma), ("log_snr", log_snr), ("t", t)) if v is not None}
        if len(given) != 1:
            raise UsageError("during(...): expected exactly one of sigma=(low, high), log_snr=(...), t=(...)")
        ((unit, pair),) = given.items()
        ends = plain_list(pair)
        ends = [*map(plain, ends)] if isinstance(ends, tuple | list) else ends
        if not (isinstance(ends, tuple | list) and len(ends) == 2 and all(is_number(v) for v in ends)):
            raise UsageError(f"during({unit}=...): expected a pair of numbers (low, high), got {shown(pair)}")
        from fairlead.guide.pairs import LimitedTerm  # which is made of what is defined here

        return LimitedTerm(self, Interval(unit, float(ends[0]), float(ends[1])))

    def __add__(self, other: Term | Guidance) -> Guidance:
        return as_guidance(self) + other

    def __or__(self, finisher: Finisher) -> Guidance:
        return as_guidance(self) | finisher

    def __str__(self) -> str:
        return call_text(self.name, self)


@dataclass(frozen=True)
class Finisher:
    """A map of the guided x0 [n, ...], per sample; eps is re-derived from what it returns."""

    name: ClassVar[str]

    def check(self, on: Context) -> None:
        """Raise UsageError when it cannot be applied to this model's data."""

    def ask(self, at: Moment) -> Ask:
        """The branches it compares the guided x0 with, as ``looks``."""
        return NOTHING

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

    def replacing(self) -> tuple[Term, ...]:
        """The terms that stand in place of the run's own condition, in every step."""
        return tuple(term for term in self.terms if term.replaces_condition)

    def renoising(self) -> tuple[Term, ...]:
        """The terms for which the sampler has to re-noise with ``Prediction.eps``."""
        return tuple(term for term in self.terms if any(inner.renoises for inner in term.nested()))

    def resources(self) -> tuple[Resource, ...]:
        """What its terms need to have loaded, each once."""
        return tuple(dict.fromkeys(resource for term in self.terms for resource in term.resources()))

    def specs(self) -> tuple[tuple[Term, str | int], ...]:
        """The conditions that its terms name, with the term that does."""
        return tuple((term, spec) for term in self.terms for spec in term.specs())

    def check(self, on: Context) -> None:
        """Raise UsageError where a term or finisher does not suit the model or the condition."""
        parts: tuple[Term | Finisher, ...] = (*self.terms, *self.finishers)
        for part in parts:
            part.check(on)

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


def total_weights(asks: Sequence[Ask]) -> dict[Branch, Weight]:
    """The weights of the base and of all terms, added up; they sum to one."""
    total: dict[Branch, Weight] = {COND: 1.0}
    for ask in asks:
        for branch, weight in ask.weights.items():
            total[branch] = add_weights(total.get(branch, 0.0), weight)
    return {branch: weight for branch, weight in total.items() if not is_zero(weight)}


def _per_sample_fields(term: Term) -> dict[str, tuple[Any, ...]]:
    scale = getattr(term, "scale", None)
    return {"scale": scale} if isinstance(scale, tuple) else {}
