"""Pick a guidance: search on some seeds, then measure what is on the front on others, and say which to take.

OUT/tuned.json       the answer: expression, interval, reasons, everything measured; see ``answers``
    searched/        batches of the search, for starting again
    report/          a sweep of the reported settings, on seeds of its own, with the answers it is about
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.strict_json import opened, read_json, sealed
from fairlead.measure.agreement import adherence_of
from fairlead.measure.enough import PER_FEATURE, few_for_features
from fairlead.measure.estimate import Estimate
from fairlead.measure.frechet import Moments
from fairlead.measure.metrics import check_distance, maximised
from fairlead.models.load import is_pipeline
from fairlead.train.checkpoint import find_checkpoint
from fairlead.tune.answers import Answer, answers_of, joined
from fairlead.tune.constraint import Constraint
from fairlead.tune.front import front
from fairlead.tune.objective import DISTANCE, Measure, Measured, Objective, Setting, z_of
from fairlead.tune.one_knob import FEWEST, Found, search
from fairlead.tune.recommend import recommend, sentence
from fairlead.tune.several_knobs import candidates_for, halving
from fairlead.tune.template import Template

REPORT_SEED = 1_000_000
"""First seed of the report: far from those of the search."""
LEVEL = 0.95
SMALLEST = 50
"""Images of a candidate, with several numbers open."""
CONFIRM = 8
"""One part in so many of the budget is kept for the best place itself."""


@dataclass(frozen=True)
class Row:
    """A measured setting: values of the knobs, expression, images, estimates by metric, network rows an image."""

    setting: Setting
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
        notes: what the reader has to be told.
    """

    guidance: str
    why: str
    best: tuple[float, float, float] | None
    rows: tuple[Row, ...]
    images: int
    notes: tuple[str, ...]

    @property
    def recommendation(self) -> str:
        """In a sentence; the only one that says which setting to take."""
        return sentence(self.guidance, self.why)

    def reported(self, most: int = 6) -> list[str]:
        """Expressions for the report: the recommended one, no guidance, and others of the front spread over it."""
        others = [row.guidance for row in self.rows if row.on_front and row.guidance != self.guidance]
        room = most - 2
        if len(others) > room:
            others = [others[round(i * (len(others) - 1) / (room - 1))] for i in range(room)]
        return list(dict.fromkeys(["none", self.guidance, *others]))


def tune(
    measure: Measure,
    reference: Moments,
    template: Template,
    *,
    budget: int,
    objective: Objective | None = None,
    constraints: Sequence[Constraint] = (),
    first: int | None = None,
    seed: int = 0,
) -> Tuned:
    """Search the knobs of ``template`` with at most ``budget`` images; see ``one_knob.search`` and
    ``several_knobs.halving``.

    Raises:
        UsageError: if the budget is too small, or no measured setting satisfies the constraints.
    """
    objective = objective or Objective()
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
        wide = PER_FEATURE * reference.d if objective.metric == DISTANCE else 0
        first = first or max(SMALLEST, budget // 64, wide if 6 * wide <= budget else 0)
        if wide and (few := few_for_features(first, reference.d, each=" for each candidate at the start,")):
            notes = (few,)
        several = halving(
            measure, reference, knobs, budget=budget, first=first, objective=objective, constraints=constraints,
            level=LEVEL, seed=seed,
        )  # fmt: skip
        points, images, recommended = several.points, several.images, several.recommended
    if objective.metric == DISTANCE and (few := few_for_features(reference.n, reference.d, "real images")):
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
    return Tuned(template.filled(recommended.one.setting), recommended.why, best, rows, images, notes)


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


def _confirmed(found: Found, measure: Measure, reference: Moments, seed: int, room: int) -> Measured | None:
    """The best place itself, measured on the seeds of the search, as it mostly lies between settings that were; None
    where it is one of them, or there is no room for it."""
    setting = (float(f"{found.value:.3g}"),)
    n = min(room, max(one.n for one in found.points))
    if found.vertex is None or n < 8 or any(one.setting == setting for one in found.points):
        return None
    seeds = range(seed, seed + n)
    return Measured(setting, seeds, measure(setting, seeds), reference)


def _rows(points: Sequence[Measured], template: Template, objective: Objective) -> tuple[Row, ...]:
    """With the front of the objective, distance and adherence, among settings of equally many images or more."""
    adherence = adherence_of(points[0].batch.values)
    shown = (DISTANCE, adherence)
    metrics = list(dict.fromkeys((objective.metric, *shown, *points[0].batch.values)))
    # one that hardly any sample is asked for, such as the second digit, is not known of every setting
    metrics = [m for m in metrics if all(one.estimate(m).n for one in points)]
    objectives = [objective, *(Objective(m, maximised(m)) for m in shown if m != objective.metric)]
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


def save(path: Path, tuned: Tuned, about: Mapping[str, Any]) -> None:
    """Write the answer as JSON, beside those to other questions that are there, see ``answers``.

    Raises:
        UsageError: if it cannot be written, or what is there is damaged.
    """
    answer = {
        "guidance": tuned.guidance,
        "why": tuned.why,
        "recommendation": tuned.recommendation,
        "best": None if tuned.best is None else dict(zip(("value", "low", "high"), tuned.best, strict=True)),
        "notes": list(tuned.notes),
        "images": tuned.images,
        "settings": [
            {
                "guidance": row.guidance,
                "setting": list(row.setting),
                "n": row.n,
                "rows_per_image": row.rows,
                "on_front": row.on_front,
                "metrics": {name: [value.value, value.error] for name, value in row.metrics.items()},
            }
            for row in tuned.rows
        ],
        **about,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read_answers(path) if path.exists() else []
        with replacing(path) as partial:
            partial.write_text(json.dumps(sealed(joined(answer, before)), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the batches of the search are kept") from error


def run_folder(checkpoint: Path) -> Path:
    """The training run that a checkpoint folder belongs to; the folder itself if it lies elsewhere."""
    return checkpoint.parent if checkpoint.name.startswith("step-") else checkpoint


def folder_of(spec: str) -> Path:
    """Where the answer for a training run or a pipeline is kept, for ``--guidance tuned``.

    Raises:
        UsageError: for a pipeline of the hub, which has no folder, and what is neither.
    """
    if not is_pipeline(spec):
        return run_folder(find_checkpoint(spec).folder)
    if not Path(spec).is_dir():
        raise UsageError(
            f"pipeline {spec!r} is not in a local folder, so what was tuned is not kept beside it; give the "
            "expression, which is in OUT/tuned.json of `fairlead tune`"
        )
    return Path(spec)


def read_tuned(run: Path) -> dict[str, Any]:
    """``tuned.json`` of a training run.

    Raises:
        UsageError: if there is none, or it is damaged.
    """
    path = run / "tuned.json"
    if not path.is_file():
        raise UsageError(f"guidance 'tuned': {run} has no tuned.json; make it with `fairlead tune {run}`")
    return read_answers(path)[0]


def read_answers(path: Path) -> list[Answer]:
    """All that a ``tuned.json`` holds, the latest first.

    Raises:
        UsageError: if it cannot be read, or is damaged.
    """
    try:
        return answers_of(opened(read_json(path)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); remove it and run `fairlead tune` again") from error


def tuned_of(answer: Mapping[str, Any]) -> tuple[Tuned, Template]:
    """What was found and what was searched, from an answer as it is stored.

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
            for row in answer["settings"]
        )
        best = answer["best"] and (answer["best"]["value"], answer["best"]["low"], answer["best"]["high"])
        template = Template.of(
            answer["template"], [f"{name}={low!r}:{high!r}" for name, (low, high) in answer["ranges"].items()]
        )
        found = Tuned(answer["guidance"], answer["why"], best, rows, answer["images"], tuple(answer["notes"]))
        return found, template
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"an answer of `fairlead tune` is damaged ({error!r}); run it again") from error
