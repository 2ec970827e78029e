"""What all studies share: cases measured by one sweep from common seeds, averaged over trainings, written as a page.

A case is a way of sampling (guidance, sampler, steps) from a variant of the recipe. It is measured on several trainings
of the variant that differ in their seed; training seeds and sampling seeds are common to all cases. Everything goes
through ``fairlead.tune.sweep_run`` and its folder, so a study that was stopped goes on with the same command.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.studies.models import CHANNELS, Variant, trained
from fairlead.guide.expression import parse
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.metrics import Estimate, percent, title_of
from fairlead.measure.references import evaluator_for
from fairlead.measure.score import Difference, Floor, Samples, Score
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.sample.sampler import parse_sampler
from fairlead.tune.budget import Outlook
from fairlead.tune.setting import Point, Setting
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Shared, Sweep


@dataclass(frozen=True)
class Case:
    """A way of sampling.

    Attributes:
        variant: that is sampled from.
        guidance: an expression; ``{classifier}`` stands for the run of a classifier of the training's seed.
        label: in tables; default the guidance.
    """

    variant: Variant
    guidance: str
    sampler: str = "dpmpp_2m"
    steps: int = 10
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.guidance


@dataclass(frozen=True)
class Bench:
    """Where a study works, and how large it is.

    Attributes:
        out: folder of all studies; trainings are in ``models/`` and shared by them.
        n: images of a setting.
        trainings: seeds of the trainings.
        train_steps: optimiser steps, if not the recipe's.
    """

    out: Path
    n: int = 300
    trainings: tuple[int, ...] = (0, 1)
    train_steps: int | None = None

    @property
    def models(self) -> Path:
        return self.out / "models"

    def run(self, variant: Variant, seed: int = 0) -> Path:
        """A training, made if it is not there."""
        return trained(self.models, variant, seed, self.train_steps)

    def load(self, variant: Variant, seed: int = 0) -> Model:
        return load(self.run(variant, seed), variant.weights, "cpu")

    def evaluator(self, variant: Variant) -> Evaluator:
        """Of the images that the variant was trained on."""
        return evaluator_for(str(self.run(variant, self.trainings[0])), None)

    def measure(self, part: str, cases: Sequence[Case]) -> Found:
        """Measure every case on every training; what is stored in the folder ``part`` of ``out`` already is read."""
        classifier = Variant("classifier", classifier=True)
        runs: dict[str, tuple[Path, Variant]] = {}
        settings: dict[tuple[Case, int], Setting] = {}
        for training in self.trainings:
            for case in cases:
                name = f"{case.variant.name}, training {training}"
                runs[name] = (self.run(case.variant, training), case.variant)
                guidance = case.guidance
                if "{classifier}" in guidance:
                    guidance = guidance.replace("{classifier}", str(self.run(classifier, training)))
                text = str(parse(guidance))
                settings[case, training] = Setting(name, text, str(parse_sampler(case.sampler)), case.steps)
        sweep = Sweep(
            list(dict.fromkeys(settings.values())),
            Shared(n=self.n, batch_size=128),
            lambda name: load(runs[name][0], runs[name][1].weights, "cpu"),
        )
        folder = SweepFolder(self.out / part)
        for event in sweep.measure(folder, self.evaluator(cases[0].variant), command=f"studies: {part}"):
            if isinstance(event, Outlook):
                print(f"{part}: {event.settings} settings, {event.measured} measured; to do: {event.left}", flush=True)
            elif isinstance(event, Point):
                print(_line(event), flush=True)
        about, points = folder.read()
        by_setting = {point.setting: point for point in points}
        found = {key: by_setting[setting] for key, setting in settings.items()}
        keys = {key: sweep.keys[setting] for key, setting in settings.items()}
        return Found(folder, Floor.from_dict(about["floor"]), self.trainings, found, keys)


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured: a point for every case and training.

    Every estimate is a mean over the trainings. Its error adds in squares that of the spread between trainings (sd /
    sqrt(k)) and the mean sampling error of one training, since all trainings are sampled from the same seeds: too large
    rather than too small. With one training it is the sampling error alone.
    """

    folder: SweepFolder
    floor: Floor
    trainings: tuple[int, ...]
    points: Mapping[tuple[Case, int], Point]
    keys: Mapping[tuple[Case, int], str]

    def samples(self, case: Case, training: int) -> Samples:
        """Features, labels and values of every image."""
        return self.folder.samples(self.keys[case, training])

    def of(self, case: Case) -> list[Point]:
        """A point per training."""
        return [self.points[case, training] for training in self.trainings]

    def estimate(self, case: Case, metric: str) -> Estimate:
        return mean([point.score.metrics[metric] for point in self.of(case)])

    def difference(self, a: Case, b: Case, metric: str) -> Estimate:
        """``a`` minus ``b``: the mean of the trainings' differences, each paired image by image."""
        pairs = zip(self.of(a), self.of(b), strict=True)
        each: list[Difference] = [self.folder.compare(one.setting, other.setting)[metric] for one, other in pairs]
        return mean(each)

    def lowest(self, cases: Sequence[Case], metric: str = "distance_debiased") -> Case:
        """The first of the cases with the lowest ``metric``; as good as its luck where others are within the errors."""
        return min(cases, key=lambda case: self.estimate(case, metric).value)

    def rows(self, case: Case) -> float:
        """Network rows per image."""
        return self.of(case)[0].rows_per_image

    def point(self, case: Case, checkpoint: str | None = None) -> Point:
        """The mean over the trainings, as the plots of the package take it."""
        first = self.of(case)[0]
        metrics = {metric: self.estimate(case, metric) for metric in first.score.metrics}
        setting = replace(first.setting, checkpoint=checkpoint or case.variant.name)
        return replace(first, setting=setting, score=Score(metrics, first.score.protocol))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Over trainings; see :class:`Found` for the error."""
    k = len(estimates)
    sampling = sum(e.error**2 for e in estimates) / k
    spread = statistics.variance(e.value for e in estimates) / k if k > 1 else 0.0
    return Estimate(
        statistics.mean(e.value for e in estimates), math.sqrt(sampling + spread), sum(e.n for e in estimates)
    )


@dataclass(frozen=True)
class Picture:
    """A PNG beside the page."""

    name: str
    png: bytes
    alt: str


Block = str | Picture


@dataclass(frozen=True)
class Study:
    """A question of the lessons.

    Attributes:
        name: of the command, the page and its pictures.
        question: heading.
        claim: what the lessons say, in a sentence of our own.
        run: measures, and returns the page's blocks of markdown and its pictures.
    """

    name: str
    question: str
    claim: str
    run: Callable[[Bench], list[Block]]


MEASURED = "<!-- measured: the command writes all below -->"


def write_page(folder: Path, study: Study, blocks: Sequence[Block], command: str) -> Path:
    """``folder/NAME.md`` and its pictures. What a page that is there says above the marker stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study.name}.md"
    head = f"# {study.question}\n\n**The lessons say:** {study.claim}\n\n**Here:** not said yet.\n"
    if path.exists():
        head, marker, _ = path.read_text().partition(MEASURED)
        head = head.rstrip() + "\n"
        assert marker, f"{path} has lost its marker {MEASURED!r}"
    parts = [f"```sh\n{command}\n```"]
    for block in blocks:
        if isinstance(block, Picture):
            (folder / block.name).write_bytes(block.png)
            parts.append(f"![{block.alt}]({block.name})")
        else:
            parts.append(block)
    path.write_text(f"{head}\n{MEASURED}\n\n" + "\n\n".join(parts) + "\n")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def signed(estimate: Estimate) -> str:
    """``+0.31 ± 0.05``, bold beyond three standard errors."""
    text = f"{'+' if estimate.value > 0 else ''}{estimate}"
    return f"**{text}**" if abs(estimate.value) > 3 * estimate.error > 0 else text


def scores(
    found: Found, cases: Sequence[Case], against: Mapping[Case, Case] | None = None, *, cost: bool = True
) -> str:
    """A row a case: distance, accuracy, diversity, network rows; with ``against`` also the paired difference to that
    one."""
    against = against or {}
    paired = any(against.get(case, case) != case for case in cases)
    head = ["setting", "debiased distance", "accuracy", "diversity", *(["rows per image"] if cost else [])]
    head += ["debiased distance against", "difference", "of accuracy"] if paired else []
    rows = []
    for case in cases:
        row = [
            f"`{case.name}`" if not case.label else case.name,
            str(found.estimate(case, "distance_debiased")),
            percent(found.estimate(case, "accuracy")),
            str(found.estimate(case, "diversity")),
        ]
        if cost:
            row.append(f"{found.rows(case):g}")
        other = against.get(case, case)
        if paired and other == case:
            row += ["", "", ""]
        elif paired:
            change = found.difference(case, other, "accuracy")
            row += [
                other.name,
                signed(found.difference(case, other, "distance_debiased")),
                signed(replace(change, value=100 * change.value, error=100 * change.error)) + " points",
            ]
        rows.append(row)
    real = found.floor.metrics
    last = ["real images", str(real["distance_debiased"]), percent(real["accuracy"]), str(real["diversity"])]
    rows.append([*last, *[""] * (len(head) - len(last))])
    return table(head, rows)


def protocol(found: Found, more: str = "") -> str:
    """What the numbers of a page rest on, in a paragraph; ``more`` is added."""
    point = next(iter(found.points.values()))
    k = len(found.trainings)
    errors = (
        "the sampling error of one training (the sampling seeds are the same for all) and the spread of the trainings, "
        "whose variances add"
        if k > 1
        else "the sampling error; training variation is not in it, as there is one training"
    )
    measured, many = point.score.protocol, "s" * (k > 1)
    ways = {(one.setting.sampler, one.setting.steps) for one in found.points.values()}
    how = "{} with {} steps".format(*next(iter(ways))) if len(ways) == 1 else "sampler and steps as the rows say"
    said = (
        f"8x8 digits, the `digits` recipe at half its width (`--channels {CHANNELS}`), {k} training{many} per model "
        f"(seed{many} {', '.join(map(str, found.trainings))}), N = {measured.n:,} images per training and setting, "
        f"sampling seeds {measured.seeds}, {how}. "
        "Distance here is the debiased distance, the Fréchet distance of a classifier's features to the "
        f"{measured.reference_n:,} training images "
        f"without its finite-N bias; real images: {found.floor.n} held out. ± is one standard error: {errors}. "
        "Differences are paired image by image; bold: beyond three standard errors."
    )
    return f"{said} {more}".strip()


def _line(point: Point) -> str:
    shown = ", ".join(f"{title_of(name)} {point.score.metrics[name]}" for name in ("distance_debiased", "accuracy"))
    return f"  {point.setting.checkpoint} {point.guidance} {point.setting.sampler} {point.setting.steps}: {shown}"
