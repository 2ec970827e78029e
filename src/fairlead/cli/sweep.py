"""``fairlead sweep``"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.core.registry import names

if TYPE_CHECKING:
    from fairlead.measure.evaluate import Evaluator
    from fairlead.measure.score import Floor
    from fairlead.models.model import Model
    from fairlead.tune.sweep import Point, SweepFolder, SweepSettings

DEFAULT_SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Sweep:
    """Measure several guidances on one model, from the same noise, and report them side by side.

    Distance is the Fréchet distance of features to the training images; the floor is that of held-out real images at
    the same number. Adherence is judged by a classifier that neither guides nor gives the features. Both classifiers
    are trained by a fixed recipe on first use and cached.

    Example: fairlead sweep runs/digits --scales 0 1 1.5 2 3 5 --n 500 --out runs/digits/sweep
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the results; must not hold a sweep yet."""
    guidance: tuple[str, ...] = ("cfg({scale})",)
    """Expressions; {scale} is replaced by every number of --scales."""
    scales: tuple[float, ...] | None = None
    """Scales for {scale}: 0 is unconditional, 1 conditional without guidance. Default: 0 1 1.25 1.5 2 3 5."""
    n: int = 500
    """Images a guidance, over all conditions; at least 3 of each."""
    seed: int = 0
    """Seed of the first image; the same seeds for every guidance."""
    cond: tuple[str, ...] = ()
    """Conditions, taken in turn, and compared with real images of these classes; nothing for every class in turn."""
    sampler: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    batch_size: int = 64
    """Images denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    data: str | None = None
    """Where the images are, if not where they were in training."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.cli.options import evaluator_for
        from fairlead.cli.report import write_report
        from fairlead.models.load import load
        from fairlead.tune.sweep import SweepFolder, SweepSettings, expand, plans

        scales = self.scales
        if scales is None:
            scales = DEFAULT_SCALES if any("{scale}" in text for text in self.guidance) else ()
        guidances = expand(self.guidance, scales)
        folder = SweepFolder(self.out)
        folder.check_free()
        model = load(self.model, device=self.device)
        settings = SweepSettings(
            self.n,
            self.seed,
            self.cond,
            self.sampler,
            self.steps,
            self.grid,
            self.batch_size,
            self.precision,  # type: ignore[arg-type]  # plans refuses others
        )
        plans(model, guidances, settings)
        labels = model.encode(self.cond).values["label"].tolist() if self.cond else ()
        evaluator = evaluator_for(self.model, self.data, labels)
        floor = evaluator.floor(self.n)
        folder.start(model, floor, settings, f"fairlead {shlex.join(sys.argv[1:])}")
        measure_with_progress(model, evaluator, floor, guidances, settings, folder)
        print(f"report: {write_report(self.out)}")


def measure_with_progress(
    model: Model,
    evaluator: Evaluator,
    floor: Floor,
    guidances: list[str],
    settings: SweepSettings,
    folder: SweepFolder,
) -> list[Point]:
    """Run a sweep, storing and printing a line a guidance."""
    from tqdm import tqdm

    from fairlead.tune.sweep import sweep

    points = []
    with tqdm(total=len(guidances), unit="setting", dynamic_ncols=True) as bar:
        bar.write(_line("real images", {name: str(value) for name, value in floor.metrics.items()}, ""))
        for point, _ in sweep(model, evaluator, guidances, settings, floor.n):
            folder.add(point)
            points.append(point)
            cost = f"{point.rows_per_image:g} rows {point.ms_per_image:.1f} ms"
            bar.write(_line(point.guidance, {name: str(v) for name, v in point.score.metrics.items()}, cost))
            bar.update()
    return points


def _line(name: str, values: dict[str, str], cost: str) -> str:
    shown = ("distance", "accuracy", "diversity")
    return f"{name:<16} " + "  ".join(f"{key} {values[key]}" for key in shown if key in values) + f"  {cost}"
