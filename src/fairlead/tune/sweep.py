"""A sweep: several guidances on one model, from the same seeds, each measured under one protocol, stored as it goes.

FOLDER/sweep.json            what was swept: model, floor of real images, settings
       sweep.jsonl           one line a guidance: expression, score, difference to the baseline, cost
       examples.safetensors  the first images of each guidance, from the same noise, for pictures
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.data.images import stratified_order
from fairlead.guide.cfg import CFG
from fairlead.guide.expression import parse, to_guidance
from fairlead.measure.evaluate import Evaluator
from fairlead.measure.score import Difference, Floor, Score
from fairlead.models.model import Model
from fairlead.sample.run import Plan, Precision, Run


@dataclass(frozen=True)
class SweepSettings:
    """What all guidances of a sweep share.

    Attributes:
        n: images a guidance, over all conditions.
        seed: first seed; sample i has seed + i under every guidance (common random numbers).
        conds: conditions; empty for every class. Each is taken as often as its share of the real images.
        sampler, steps, grid, batch_size, precision: as for ``sample``.
        examples: images a guidance to keep for pictures.
    """

    n: int = 500
    seed: int = 0
    conds: tuple[str, ...] = ()
    sampler: str = "ddim"
    steps: int = 20
    grid: str = "trailing"
    batch_size: int = 64
    precision: Precision = "fp32"
    examples: int = 40


@dataclass(frozen=True, eq=False)
class Point:
    """One guidance of a sweep.

    Attributes:
        guidance: its expression.
        score: without its samples.
        rows_per_image, ms_per_image: what it cost.
        examples: uint8 [k, c, h, w], one of each class in the order of labels, then another of each, ...
        place: position among the guidances of the sweep, which the baseline is measured before.
        differences: metric -> this minus the baseline, from the same seeds; None for the baseline itself.
    """

    guidance: str
    score: Score
    rows_per_image: float
    ms_per_image: float
    examples: Tensor
    place: int = 0
    differences: Mapping[str, Difference] | None = None

    @property
    def scale(self) -> float | None:
        """See :func:`scale_of`."""
        return scale_of(self.guidance)


def scale_of(guidance: str) -> float | None:
    """The number w where the guidance is ``cfg(w)``, whatever finishes it (none: 1), else None."""
    terms = to_guidance(guidance).terms
    if not terms:
        return 1.0
    term = terms[0]
    if len(terms) == 1 and isinstance(term, CFG) and term.negative is None and isinstance(term.scale, float):
        return term.scale
    return None


def expand(templates: Sequence[str], scales: Sequence[float]) -> list[str]:
    """Expressions with ``{scale}`` replaced by each scale in turn; every result is parsed, so errors come first.

    Raises:
        UsageError: for a bad expression, one written twice, scales that no template uses or that are missing.
    """
    if not templates or (not scales and any("{scale}" in template for template in templates)):
        raise UsageError("sweep: nothing to measure; give at least one guidance, and one scale where it says {scale}")
    found: list[str] = []
    for template in templates:
        filled = (
            [template.replace("{scale}", f"{scale:g}") for scale in scales] if "{scale}" in template else [template]
        )
        found += [str(parse(text)) for text in filled]
    if scales and not any("{scale}" in template for template in templates):
        raise UsageError(f"scales {list(scales)} are not used: write {{scale}} in the guidance, e.g. 'cfg({{scale}})'")
    twice = {text for text in found if found.count(text) > 1}
    if twice:
        raise UsageError(f"sweep: {', '.join(sorted(twice))} would be measured twice; give each guidance once")
    return found


def shared_out(classes: Sequence[str], labels: Tensor, n: int) -> list[str]:
    """n class names in the proportions of real ``labels`` (int64, indices into ``classes``); so is every prefix.

    Generated and real images then differ in what is in the pictures, not in how many there are of each class.
    """
    order = stratified_order(labels, seed=0)
    picked = labels[order.repeat(-(-n // len(order)))[:n]]
    return [classes[label] for label in picked.tolist()]


def pictured(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` samples for pictures: the first of every class in the order of labels, the second, ..."""
    rank = torch.zeros_like(labels)
    for label in set(labels.tolist()):
        mine = labels == label
        rank[mine] = torch.arange(int(mine.sum()))
    return torch.argsort(rank * (int(labels.max()) + 1) + labels)[:count]


def plans(
    model: Model, guidances: Sequence[str], settings: SweepSettings, conds: Sequence[str] | None = None
) -> list[Plan]:
    """What is sampled for each guidance; ``conds`` has one for each sample (default: in turn, to check settings early).

    Raises:
        UsageError: for anything that cannot be sampled, or not be scored because there are too few images.
    """
    classes = settings.conds or model.classes
    if not classes:
        raise UsageError("a sweep scores how well images follow their class, and this model has no classes")
    conds = conds or [classes[i % len(classes)] for i in range(settings.n)]
    made = [
        Plan.of(
            model,
            conds,
            guidance,
            seeds=range(settings.seed, settings.seed + settings.n),
            sampler=settings.sampler,
            steps=settings.steps,
            grid=settings.grid,
            batch_size=settings.batch_size,
            precision=settings.precision,
        )
        for guidance in guidances
    ]
    fewest = min(Counter(model.encode(conds).values["label"].tolist()).values())
    if settings.n < 4 or fewest < 3:
        raise UsageError(
            f"sweep: n = {settings.n} images over {len(classes)} conditions are too few to score; expected at least "
            f"{max(4, 3 * len(classes))}, 3 of every condition"
        )
    return made


def sweep(
    model: Model,
    evaluator: Evaluator,
    guidances: Sequence[str],
    settings: SweepSettings,
    block: int | None = None,
) -> Iterator[tuple[Point, Run]]:
    """Sample and score each guidance in turn; nothing is stored.

    The baseline comes first: the guidance of scale 1, or the first one where there is none.

    ``block``: take the raw distance at so many images, those of the floor it stands beside (default: all).
    """
    conds = shared_out(model.classes, evaluator.reference.labels, settings.n)
    planned = plans(model, guidances, settings, conds)
    places = range(len(guidances))
    first = next((place for place in places if scale_of(guidances[place]) == 1.0), 0)
    baseline: Score | None = None
    for place in sorted(places, key=lambda place: place != first):
        run = planned[place].run()
        if run.images is None:
            raise UsageError("a sweep measures images, and this model's samples are not images")
        n = settings.n
        labels = run.condition.values["label"]
        score = evaluator.score(run.images, labels, run.x0, run.seeds, block=min(n, block or n))
        point = Point(
            guidances[place],
            replace(score, samples=None),  # those of every guidance would not fit into memory
            run.cost.rows / n,
            1000 * run.seconds / n,
            run.images[pictured(labels, settings.examples)],
            place,
            None if baseline is None else score.compare(baseline),
        )
        baseline = baseline or score
        yield point, run


def _labels(model: Model, conds: Sequence[str]) -> list[int]:
    """The class indices that are swept, ascending."""
    named: set[int] = set(model.encode(conds or model.classes).values["label"].tolist())
    return sorted(named)


class SweepFolder:
    """The files of a sweep."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def check_free(self) -> None:
        """Raise UsageError if a sweep is here already."""
        if (self.folder / "sweep.json").exists():
            raise UsageError(f"{self.folder} already holds a sweep; choose another --out")

    def start(self, model: Model, floor: Floor, settings: SweepSettings, command: str) -> None:
        """Begin a new sweep here.

        Raises:
            UsageError: if one is here already, or nothing can be written.
        """
        self.check_free()
        about = {
            "model": dict(model.metadata),
            "classes": [model.classes[label] for label in _labels(model, settings.conds)],
            "settings": asdict(settings),
            "floor": floor.as_dict(),
            "command": command,
        }
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "sweep.jsonl").write_text("")
            with replacing(self.folder / "sweep.json") as partial:
                partial.write_text(json.dumps(about, indent=1))

    def add(self, point: Point) -> None:
        line = {
            "guidance": point.guidance,
            "place": point.place,
            "score": point.score.as_dict(),
            "differences": None
            if point.differences is None
            else {name: asdict(value) for name, value in point.differences.items()},
            "rows_per_image": point.rows_per_image,
            "ms_per_image": round(point.ms_per_image, 3),
        }
        with _writing(self.folder):
            examples = self._examples() if (self.folder / "examples.safetensors").exists() else {}
            with replacing(self.folder / "examples.safetensors") as partial:
                save_file({**examples, point.guidance: point.examples.contiguous()}, partial)
            before = (self.folder / "sweep.jsonl").read_text()
            with replacing(self.folder / "sweep.jsonl") as partial:
                partial.write_text(before + json.dumps(line) + "\n")

    def read(self) -> tuple[dict[str, Any], list[Point]]:
        """What was swept, and its points in the order the guidances were given.

        Raises:
            UsageError: if there is no sweep, or a file of it is damaged or not of a sweep.
        """
        if not (self.folder / "sweep.json").is_file():
            raise UsageError(f"{str(self.folder)!r} holds no sweep (no sweep.json); make one with `fairlead sweep`")
        try:
            about = json.loads((self.folder / "sweep.json").read_text())
            Floor.from_dict(about["floor"])
            _ = [*about["classes"]], [*about["settings"]["conds"]], {**about["model"]}, about["command"] + ""
            lines = [json.loads(line) for line in (self.folder / "sweep.jsonl").read_text().splitlines()]
            examples = self._examples() if lines else {}
            points = sorted((_point(line, examples) for line in lines), key=lambda point: point.place)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise UsageError(f"sweep {self.folder} is damaged ({error!r}); run it again into another folder") from error
        if not points:
            raise UsageError(f"sweep {self.folder} holds no measured guidance yet; let `fairlead sweep` finish one")
        return about, points

    def _examples(self) -> dict[str, Tensor]:
        return load_file(self.folder / "examples.safetensors")


def _point(line: Mapping[str, Any], examples: Mapping[str, Tensor]) -> Point:
    differences = line.get("differences")  # absent, like the place, from sweeps of earlier versions
    return Point(
        line["guidance"],
        Score.from_dict(line["score"]),
        line["rows_per_image"],
        line["ms_per_image"],
        examples[line["guidance"]],
        line.get("place", 0),
        differences and {name: Difference(**value) for name, value in differences.items()},
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns an OSError inside the block into one line that says nothing made before is lost."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot write the sweep to {folder}: {error}; what was measured before is kept") from error
