"""The best guidance among those of a template: one search, whatever the number of open numbers, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from fairlead.core.errors import UsageError
from fairlead.measure.agreement import adherence_of
from fairlead.measure.frechet import Moments
from fairlead.measure.metrics import PER_FEATURE, check_distance, few_for_features, maximised
from fairlead.tune.by_class import Classes, scales_by_class
from fairlead.tune.constraint import Constraint
from fairlead.tune.front import front
from fairlead.tune.measurements import DISTANCE, Goal, Measure, Measurement, z_of
from fairlead.tune.one_knob import FEWEST, Found, search
from fairlead.tune.recommend import Row, Tuned, recommend
from fairlead.tune.several_knobs import candidates_for, halving
from fairlead.tune.template import Template

LEVEL = 0.95
SMALLEST = 50
"""Images of a candidate, with several numbers open."""
CONFIRM = 8
"""One part in so many of the budget is kept for the best place itself."""


def find_guidance(
    measure: Measure,
    reference: Moments | None,
    template: Template,
    *,
    budget: int,
    objective: Goal | None = None,
    constraints: Sequence[Constraint] = (),
    first: int | None = None,
    seed: int = 0,
    classes: Classes | None = None,
) -> Tuned:
    """Search the knobs of ``template`` with at most ``budget`` images; see ``one_knob.search`` and
    ``several_knobs.halving``.

    Args:
        classes: names and real images, to say which scale suits each class; with one knob only.

    Raises:
        UsageError: if the budget is too small, or no measured setting satisfies the constraints.
    """
    objective = objective or Goal()
    far = reference if objective.metric == DISTANCE else None
    width = 0 if far is None else far.d
    knobs = list(template.knobs.values())
    best: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()
    if len(knobs) == 1:
        found: Found = search(
            measure, reference, knobs[0], budget=budget, objective=objective, constraints=constraints,
            first=first, level=LEVEL, seed=seed, kept=budget // CONFIRM,
        )  # fmt: skip
        best, notes, points = (found.value, found.low, found.high), found.notes, found.points
        confirmed = _confirmed(found, measure, reference, seed, budget - found.images)
        points, recommended = found.points, found.recommended
        if confirmed is not None:
            points = *points, confirmed
            recommended = recommend(points, objective, constraints, z_of(LEVEL))
        images = sum(one.n for one in points)
    else:
        wide = PER_FEATURE * width
        first = first or max(SMALLEST, budget // 64, wide if 6 * wide <= budget else 0)
        if wide and (few := few_for_features(first, width, each=" for each candidate at the start,")):
            notes = (few,)
        several = halving(
            measure, reference, knobs, budget=budget, first=first, objective=objective, constraints=constraints,
            level=LEVEL, seed=seed,
        )  # fmt: skip
        points, images, recommended = several.points, several.images, several.recommended
    if far is not None and (few := few_for_features(far.n, width, "real images")):
        notes = (*notes, few)
    rows = _rows(points, template, objective)
    if recommended is None:
        rules = " and ".join(map(str, constraints))
        nearest = min(points, key=lambda one: max(rule.violation(one) for rule in constraints))
        reached = ", ".join(f"{rule.metric} {nearest.estimate(rule.metric)}" for rule in constraints)
        raise UsageError(
            f"tune: no setting of {template.text!r} satisfies {rules}; nearest is {template.filled(nearest.setting)} "
            f"with {reached}; widen a range or relax a constraint"
        )
    found_by_class = None
    if classes is not None:
        try:
            found_by_class = scales_by_class(points, recommended.one, classes, objective, constraints, LEVEL)
        except UsageError as error:
            notes = (*notes, str(error))
    return Tuned(template.filled(recommended.one.setting), recommended.why, best, rows, images, notes, found_by_class)


def check_search(template: Template, budget: int) -> None:
    """What a search would refuse, before anything is loaded for it.

    Raises:
        UsageError: if the budget is too small, or several numbers are open and optuna is missing.
    """
    if len(template.knobs) > 1:
        candidates_for(budget, max(SMALLEST, budget // 64))
        if find_spec("optuna") is None:
            raise UsageError("a search over several knobs needs optuna; pip install 'fairlead[tune]'")
    elif budget - budget // CONFIRM < 8 * FEWEST:
        raise UsageError(f"tune: a budget of {budget} images is too small; expected some thousands, at least 45")


def _confirmed(found: Found, measure: Measure, reference: Moments | None, seed: int, room: int) -> Measurement | None:
    """The best place itself, measured on the seeds of the search, as it mostly lies between settings that were; None
    where it is one of them, or there is no room for it."""
    setting = (float(f"{found.value:.3g}"),)
    n = min(room, max(one.n for one in found.points))
    if found.vertex is None or n < 8 or any(one.setting == setting for one in found.points):
        return None
    seeds = range(seed, seed + n)
    return Measurement(setting, seeds, measure(setting, seeds), reference)


def _rows(points: Sequence[Measurement], template: Template, objective: Goal) -> tuple[Row, ...]:
    """With the front of the objective, distance and adherence, among settings of equally many images or more."""
    shown = [adherence_of(points[0].batch.values)]
    if points[0].reference is not None:
        shown.insert(0, DISTANCE)
    metrics = list(dict.fromkeys((objective.metric, *shown, *points[0].batch.values)))
    # one that hardly any sample is asked for, such as the second digit, is not known of every setting
    metrics = [m for m in metrics if all(one.estimate(m).n for one in points)]
    objectives = [objective, *(Goal(m, maximised(m)) for m in shown if m != objective.metric)]
    standings = front(points, objectives, z_of(LEVEL))
    return tuple(
        Row(
            one.setting,
            template.filled(one.setting),
            one.n,
            {m: one.estimate(m) for m in metrics},
            one.rows,
            standing.on_front,
        )
        for one, standing in sorted(zip(points, standings, strict=True), key=lambda pair: pair[0].setting)
    )


def parse_constraints(texts: Sequence[str], steps: int, metrics: Sequence[str]) -> list[Constraint]:
    """Constraints from ``accuracy >= 0.99`` or ``rows_per_step <= 1.5``.

    Raises:
        UsageError: for a metric that is not among ``metrics``, ``rows`` (an image) or ``rows_per_step``.
    """
    found = []
    for text in texts:
        rule = Constraint.parse(text)
        if rule.metric == "rows_per_step":
            rule = Constraint("rows", rule.bound * steps, rule.at_least)
        check_distance(rule.metric, f"constraint {text!r}")
        if rule.metric not in (*metrics, "rows"):
            raise UsageError(
                f"constraint {text!r}: unknown metric {rule.metric!r} (known: {', '.join(metrics)}, rows, "
                "rows_per_step)"
            )
        found.append(rule)
    return found
