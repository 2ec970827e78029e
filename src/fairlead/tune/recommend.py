"""Which of the measured settings to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.tune.constraint import Constraint
from fairlead.tune.objective import Measured, Objective


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
