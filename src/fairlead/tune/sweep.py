"""A sweep: several guidances on one model, from the same seeds, each measured under one protocol, stored as it goes.

FOLDER/sweep.json            what was swept: model, floor of real images, settings
       sweep.jsonl           one line a guidance: expression, score, cost
       examples.safetensors  the first images of each guidance, from the same noise, for pictures
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.guide.cfg import CFG
from fairlead.guide.expression import parse, to_guidance
from fairlead.measure.evaluate import Evaluator, Floor, Score
from fairlead.models.model import Model, Spec
from fairlead.sample.run import Run, sample


@dataclass(frozen=True)
class SweepSettings:
    """What all guidances of a sweep share.

    Attributes:
        n: images a guidance, over all conditions.
        seed: first seed; sample i has seed + i under every guidance (common random numbers).
        conds: conditions, taken in turn; empty for every class in turn.
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
    precision: str = "fp32"
    examples: int = 40


@dataclass(frozen=True, eq=False)
class Point:
    """One guidance of a sweep: its expression, score, cost, and first images uint8 [k, c, h, w]."""

    guidance: str
    score: Score
    rows_per_image: float
    ms_per_image: float
    examples: Tensor

    @property
    def scale(self) -> float | None:
        """The number w where the guidance is ``cfg(w)``, whatever finishes it (none: 1), else None."""
        terms = to_guidance(self.guidance).terms
        if not terms:
            return 1.0
        term = terms[0]
        if len(terms) == 1 and isinstance(term, CFG) and term.negative is None and isinstance(term.scale, float):
            return term.scale
        return None


def expand(templates: Sequence[str], scales: Sequence[float]) -> list[str]:
    """Expressions with ``{scale}`` replaced by each scale in turn; every result is parsed, so errors come first.

    Raises:
        UsageError: for a bad expression, one written twice, or scales that no template uses.
    """
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


def sweep(
    model: Model,
    evaluator: Evaluator,
    guidances: Sequence[str],
    settings: SweepSettings,
    block: int | None = None,
) -> Iterator[tuple[Point, Run]]:
    """Sample and score each guidance in turn; nothing is stored.

    ``block``: take the raw distance at so many images, those of the floor it stands beside (default: all).
    """
    classes = settings.conds or model.classes
    if not classes:
        raise UsageError("a sweep scores how well images follow their class, and this model has no classes")
    conds: list[Spec] = [classes[i % len(classes)] for i in range(settings.n)]
    seeds = list(range(settings.seed, settings.seed + settings.n))
    for guidance in guidances:
        run = sample(
            model,
            conds,
            guidance=guidance,
            seeds=seeds,
            sampler=settings.sampler,
            steps=settings.steps,
            grid=settings.grid,
            batch_size=settings.batch_size,
            precision="bf16" if settings.precision == "bf16" else "fp32",
        )
        if run.images is None:
            raise UsageError("a sweep measures images, and this model's samples are not images")
        n = settings.n
        score = evaluator.score(run.images, run.condition.values["label"], run.x0, seeds, block=min(n, block or n))
        yield Point(guidance, score, run.cost.rows / n, 1000 * run.seconds / n, run.images[: settings.examples]), run


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
            "classes": list(model.classes),
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
            "score": point.score.as_dict(),
            "rows_per_image": point.rows_per_image,
            "ms_per_image": round(point.ms_per_image, 3),
        }
        with _writing(self.folder):
            examples = self._examples() if (self.folder / "examples.safetensors").exists() else {}
            with replacing(self.folder / "examples.safetensors") as partial:
                save_file({**examples, point.guidance: point.examples.contiguous()}, partial)
            with (self.folder / "sweep.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def read(self) -> tuple[dict[str, Any], list[Point]]:
        """What was swept, and its points in order.

        Raises:
            UsageError: if there is no sweep, or a file of it is damaged.
        """
        if not (self.folder / "sweep.json").is_file():
            raise UsageError(f"{str(self.folder)!r} holds no sweep (no sweep.json); make one with `fairlead sweep`")
        try:
            about = json.loads((self.folder / "sweep.json").read_text())
            lines = [json.loads(line) for line in (self.folder / "sweep.jsonl").read_text().splitlines()]
            examples = self._examples() if lines else {}
            points = [
                Point(
                    line["guidance"],
                    Score.from_dict(line["score"]),
                    line["rows_per_image"],
                    line["ms_per_image"],
                    examples[line["guidance"]],
                )
                for line in lines
            ]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UsageError(f"sweep {self.folder} is damaged ({error!r}); run it again into another folder") from error
        if not points:
            raise UsageError(f"sweep {self.folder} holds no measured guidance yet; let `fairlead sweep` finish one")
        return about, points

    def _examples(self) -> dict[str, Tensor]:
        return load_file(self.folder / "examples.safetensors")


class _writing:
    """Turns an OSError inside the block into one line that says nothing made before is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | SafetensorError):
            raise UsageError(
                f"cannot write the sweep to {self.folder}: {error}; what was measured before is kept"
            ) from error
