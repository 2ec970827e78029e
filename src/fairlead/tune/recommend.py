"""Which of the measured settings to take: the only place that recommends one, after a search or after a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.measure.agreement import adherence_of
from fairlead.measure.metrics import DEBIASED, Estimate, maximised, title_of
from fairlead.measure.score import Floor
from fairlead.sample.sampler import parse_sampler
from fairlead.tune.class_scales import ByClass
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import Goal, Measurement
from fairlead.tune.setting import Point, setting_labels

ENOUGH = {"accuracy": 0.99, "agreement": 0.9}
"""Adherence that a setting of a sweep must reach to be recommended, if any does, and where real images reach it: of the
class, or of all that a condition says."""
GAIN = 0.9
"""Share of the highest gain in cosine over no guidance that a setting must have, where prompts alone are given."""


def lowest(points: Sequence[Measurement], objective: Goal, z: float) -> Measurement:
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


def alike(best: Measurement, points: Sequence[Measurement], objective: Goal, z: float) -> list[Measurement]:
    """``best``, and those of ``points`` whose loss is not higher beyond ``z`` paired errors on the seeds of both."""
    differences = [(one, objective.of([one, best]).difference(0, 1)) for one in points if one is not best]
    return [best, *(one for one, difference in differences if difference.value <= z * difference.error)]


@dataclass(frozen=True, eq=False)
class Recommended:
    """One measured setting, and why this one, in a sentence."""

    one: Measurement
    why: str


def recommend(
    points: Sequence[Measurement], objective: Goal, constraints: Sequence[Constraint] = (), z: float = 1.96
) -> Recommended | None:
    """Of all feasible ``points`` the one of lowest loss; the cheapest of those that are statistically indistinguishable
    from it.

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
        why = f"cheapest of {len(equals)} settings that are statistically indistinguishable from the {why}"
    if constraints:
        sure = [str(constraint) for constraint in constraints if constraint.surely(chosen, z)]
        unsure = [str(constraint) for constraint in constraints if not constraint.surely(chosen, z)]
        why += " of those with " + " and ".join(map(str, constraints))
        why += f"; surely so: {', '.join(sure) or 'none'}" + (
            f"; by the estimate only: {', '.join(unsure)}" if unsure else ""
        )
    return Recommended(chosen, why)


def recommendation_text(name: str, why: str) -> str:
    """How a recommendation is said, everywhere."""
    return f"Recommended: {name}, the {why}."


@dataclass(frozen=True)
class Row:
    """A measured setting: values of the knobs, expression, images, estimates by metric, network rows per image."""

    setting: tuple[float, ...]
    guidance: str
    n: int
    metrics: Mapping[str, Estimate]
    rows: float
    on_front: bool


@dataclass(frozen=True)
class Tuned:
    """What a search says.

    Attributes:
        guidance: the recommended expression.
        why: in a sentence.
        best: with one knob, (value, low, high): where the objective is best and the 95 % interval of that place.
        rows: everything measured, in the order of the knobs.
        images: drawn in all.
        notes: what the reader has to know.
        by_class: the best scale of each class, where that was asked for.
    """

    guidance: str
    why: str
    best: tuple[float, float, float] | None
    rows: tuple[Row, ...]
    images: int
    notes: tuple[str, ...]
    by_class: ByClass | None = None

    @property
    def recommendation(self) -> str:
        """In a sentence; the only one that says which setting to take."""
        return recommendation_text(self.guidance, self.why)

    def reported(self, most: int = 6) -> list[str]:
        """Expressions for the report: the recommended one, no guidance, and others of the front spread over it."""
        others = [row.guidance for row in self.rows if row.on_front and row.guidance != self.guidance]
        room = most - 2
        if len(others) > room:
            others = [others[round(i * (len(others) - 1) / (room - 1))] for i in range(room)]
        return list(dict.fromkeys(["none", self.guidance, *others]))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, as ``tuned.json`` holds it."""
        return {
            "guidance": self.guidance,
            "why": self.why,
            "recommendation": self.recommendation,
            "best": None if self.best is None else dict(zip(("value", "low", "high"), self.best, strict=True)),
            "notes": list(self.notes),
            "images": self.images,
            **({} if self.by_class is None else {"by_class": self.by_class.as_dict()}),
            "settings": [
                {
                    "guidance": row.guidance,
                    "setting": list(row.setting),
                    "n": row.n,
                    "rows_per_image": row.rows,
                    "on_front": row.on_front,
                    "metrics": {name: [value.value, value.error] for name, value in row.metrics.items()},
                }
                for row in self.rows
            ],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Tuned:
        """The inverse of :meth:`as_dict`; other names are left alone.

        Raises:
            UsageError: if it is damaged, or of a version that did not store the settings.
        """
        try:
            rows = tuple(
                Row(
                    tuple(row["setting"]),
                    row["guidance"],
                    row["n"],
                    {name: Estimate(value, error, row["n"]) for name, (value, error) in row["metrics"].items()},
                    row["rows_per_image"],
                    row["on_front"],
                )
                for row in stored["settings"]
            )
            best = stored["best"] and (stored["best"]["value"], stored["best"]["low"], stored["best"]["high"])
            by_class = ByClass.from_dict(stored["by_class"]) if "by_class" in stored else None
            return cls(
                stored["guidance"], stored["why"], best, rows, stored["images"], tuple(stored["notes"]), by_class
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"an answer of `fairlead tune` is damaged ({error!r}); run it again") from error


@dataclass(frozen=True, eq=False)
class Choice:
    """The recommendation that a report is about.

    Attributes:
        text: :func:`recommendation_text`; box, ring, text and ``tuned.json`` all say this one.
        point: the recommended setting as the report measured it; None where it is not among its settings.
        searched: whether a search chose it, on other seeds than those of the report.
        rules: the constraints of that search.
    """

    text: str
    point: Point | None
    searched: bool = False
    rules: tuple[Constraint, ...] = ()


def choice_for(points: Sequence[Point], answers: Sequence[Mapping[str, Any]] = (), real: Floor | None = None) -> Choice:
    """What to take of the settings of a report: what the latest search recommended, where there was one, else
    :func:`recommend_swept`."""
    if not answers:
        return recommend_swept(points, real)
    answer = answers[0]
    wanted = answer.get("model"), answer["guidance"], str(parse_sampler(answer["sampler"])), answer["steps"]
    measured = {astuple(point.setting): point for point in points}
    rules = tuple(Constraint.parse(text) for text in answer["constraints"])
    return Choice(Tuned.from_dict(answer).recommendation, measured.get(wanted), True, rules)


def recommend_swept(points: Sequence[Point], real: Floor | None = None) -> Choice:
    """Of a sweep, which asks for no objective: the setting of smallest debiased distance among those whose adherence is
    at least ``ENOUGH``, or that of the real images if that is less; if none is, the one of the highest.

    Where prompts alone are given, and nothing says how high a cosine can be: the setting of smallest distance, else of
    most diversity, else of least saturation, among those with ``GAIN`` of the highest gain in cosine over no guidance.
    """
    name = adherence(points)
    if name not in ENOUGH:
        return _recommend_prompted(points, name)
    least, enough = ENOUGH[name], f"{ENOUGH[name]:.0%}"
    if real is not None and name in real.metrics and real.metrics[name].value < least:
        least = real.metrics[name].value
        enough = f"{least:.1%}, that of the real images"
    good = [point for point in points if point.score.metrics[name].value >= least]
    if good:
        best = min(good, key=lambda point: point.score.metrics[DEBIASED].value)
        why = f"smallest {title_of(DEBIASED)} among settings with an {name} of at least {enough}"
    else:
        best = max(points, key=lambda point: point.score.metrics[name].value)
        why = f"highest {name}. No setting reaches an {name} of {enough}"
    return Choice(
        recommendation_text(setting_labels([point.setting for point in points])[points.index(best)], why), best
    )


def _recommend_prompted(points: Sequence[Point], name: str) -> Choice:
    values = [point.score.metrics[name].value for point in points]
    plain = [value for point, value in zip(points, values, strict=True) if point.scale == 1.0]
    least = min(plain or values)
    good = [p for p, v in zip(points, values, strict=True) if v >= least + GAIN * (max(values) - least)]
    by = next(m for m in (DEBIASED, "diversity", "saturation") if all(m in point.score.metrics for point in points))
    sign = -1 if maximised(by) else 1
    best = min(good, key=lambda point: sign * point.score.metrics[by].value)
    over = "no guidance" if plain else "the lowest"
    most = {DEBIASED: "smallest", "diversity": "highest"}.get(by, "least")
    why = f"{most} {title_of(by)} among settings with {GAIN:.0%} of the highest gain in {title_of(name)} over {over}"
    return Choice(
        recommendation_text(setting_labels([point.setting for point in points])[points.index(best)], why), best
    )


def adherence(points: Sequence[Point]) -> str:
    """The metric of :func:`adherence_of` that all points have."""
    return adherence_of(set.intersection(*(set(point.score.metrics) for point in points)))
