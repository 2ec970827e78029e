"""Which of the measured settings to take: the only place that recommends one, after a search or after a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.measure.agreement import adherence_of
from fairlead.measure.metrics import DEBIASED, title_of
from fairlead.tune.constraint import Constraint
from fairlead.tune.objective import Measured, Objective
from fairlead.tune.setting import labels_of
from fairlead.tune.store import Point

ENOUGH = {"accuracy": 0.99, "agreement": 0.9}
"""Adherence that a setting of a sweep must reach to be recommended, if any does: of the class, or of all that a
condition says."""


def lowest(points: Sequence[Measured], objective: Objective, z: float) -> Measured:
    """The point of lowest loss among those of most seeds, since values on different numbers of seeds do not compare;
    one of fewer seeds takes its place only if it is lower beyond ``z`` paired errors on the seeds of both."""
    ordered = sorted(points, key=lambda one: -one.n)
    most = [one for one in ordered if one.n == ordered[0].n]
    best = most[int(objective.of(most).values.argmin())]
    for other in ordered[len(most) :]:
        difference = objective.of([other, best]).difference(0, 1)
        if difference.value < -z * difference.error:
            best = other
    return best


def alike(best: Measured, points: Sequence[Measured], objective: Objective, z: float) -> list[Measured]:
    """``best``, and those of ``points`` whose loss is not higher beyond ``z`` paired errors on the seeds of both."""
    differences = [(one, objective.of([one, best]).difference(0, 1)) for one in points if one is not best]
    return [best, *(one for one, difference in differences if difference.value <= z * difference.error)]


@dataclass(frozen=True, eq=False)
class Recommended:
    """One measured setting, and why this one, in a sentence."""

    one: Measured
    why: str


def recommend(
    points: Sequence[Measured], objective: Objective, constraints: Sequence[Constraint] = (), z: float = 1.96
) -> Recommended | None:
    """Of all feasible ``points`` the one of lowest loss; the cheapest of those that cannot be told from it.

    Feasible is what satisfies every constraint by its estimate; the sentence says whether it also does by its interval.
    See :func:`lowest` and :func:`alike` for how losses are compared.

    Returns:
        None if no point is feasible.
    """
    feasible = [one for one in points if all(constraint.feasible(one) for constraint in constraints)]
    if not feasible:
        return None
    best = lowest(feasible, objective, z)
    equals = alike(best, feasible, objective, z)
    chosen = min(equals, key=lambda one: one.rows)  # the first of equals: the best
    why = f"{'highest' if objective.maximise else 'lowest'} {objective.metric}"
    if chosen is not best:
        why = f"cheapest of {len(equals)} settings that cannot be told from the {why}"
    if constraints:
        sure = [str(constraint) for constraint in constraints if constraint.surely(chosen, z)]
        unsure = [str(constraint) for constraint in constraints if not constraint.surely(chosen, z)]
        why += " of those with " + " and ".join(map(str, constraints))
        why += f"; surely so: {', '.join(sure) or 'none'}" + (
            f"; by the estimate only: {', '.join(unsure)}" if unsure else ""
        )
    return Recommended(chosen, why)


def sentence(name: str, why: str) -> str:
    """How a recommendation is said, everywhere."""
    return f"Recommended: {name}, the {why}."


@dataclass(frozen=True, eq=False)
class Choice:
    """The setting to take of those that a report is about.

    Attributes:
        point: the setting, measured.
        text: :func:`sentence`.
    """

    point: Point
    text: str

    @property
    def guidance(self) -> str:
        return self.point.guidance


def recommend_swept(points: Sequence[Point]) -> Choice:
    """Of a sweep, which asks for no objective: the setting of smallest debiased distance among those whose adherence is
    at least ``ENOUGH``; if none is, the one of the highest."""
    name = adherence(points)
    enough = f"{ENOUGH[name]:.0%}"
    good = [point for point in points if point.score.metrics[name].value >= ENOUGH[name]]
    if good:
        best = min(good, key=lambda point: point.score.metrics[DEBIASED].value)
        why = f"smallest {title_of(DEBIASED)} among settings with an {name} of at least {enough}"
    else:
        best = max(points, key=lambda point: point.score.metrics[name].value)
        why = f"highest {name}. No setting reaches an {name} of {enough}"
    return Choice(best, sentence(labels_of([point.setting for point in points])[points.index(best)], why))


def adherence(points: Sequence[Point]) -> str:
    """The metric of :func:`adherence_of` that all points have."""
    return adherence_of(set.intersection(*(set(point.score.metrics) for point in points)))
