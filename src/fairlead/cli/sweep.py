"""``fairlead sweep``"""

from __future__ import annotations

import shlex
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.core.hold import shared_hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Bar, clock
from fairlead.core.registry import names

if TYPE_CHECKING:
    from fairlead.measure.estimate import Estimate
    from fairlead.measure.evaluate import Evaluator
    from fairlead.tune.budget import Budget
    from fairlead.tune.store import Point, SweepFolder
    from fairlead.tune.sweep import Outlook
    from fairlead.tune.sweep import Sweep as Measuring
    from fairlead.tune.workers import Workers

DEFAULT_SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Sweep:
    """Measure settings side by side, from the same noise: every checkpoint with every guidance, sampler and number of
    steps that are given.

    Distance is the Fréchet distance of features to the training images; the floor is that of held-out real images at
    the same number. Adherence is judged by a classifier that neither guides nor gives the features. Both classifiers
    are trained by a fixed recipe on first use and cached. Of models that are told text or attributes of scenes,
    agreement with what they were asked for is judged too, attribute by attribute.

    Finished batches are stored: after a kill, Ctrl-C or the end of the budget, the same command goes on with nothing
    made twice, and a command with more guidances, scales, samplers, steps or checkpoints adds to what is there.
    `torchrun --nproc_per_node 2 -- $(which fairlead) sweep ...` shares the work, as `accelerate launch` does on GPUs;
    the table is the same.

    Example: fairlead sweep runs/digits --scales 0 1 1.5 2 3 5 --n 500 --out runs/digits/sweep
    """

    model: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Training runs, RUN@step500, checkpoint folders, or diffusers pipelines (with --data). Real images are those of
    the first."""
    out: Path
    """Folder for the results; a sweep that is there goes on if it has the same n, seed, conditions, ..."""
    guidance: tuple[str, ...] = ("cfg({scale})",)
    """Expressions; {scale} is replaced by every number of --scales."""
    scales: tuple[float, ...] | None = None
    """Scales for {scale}: 0 is unconditional, 1 conditional without guidance. Default: 0 1 1.25 1.5 2 3 5."""
    n: int = 500
    """Images a setting, over all conditions; at least 3 of each."""
    seed: int = 0
    """Seed of the first image; the same seeds for every setting."""
    cond: tuple[str, ...] = ()
    """Classes, taken in turn, and compared with real images of these; nothing for every class in turn. Models told more
    than a label take what held-out images say of themselves."""
    sampler: Annotated[
        tuple[str, ...], tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = ("ddim",)
    steps: tuple[int, ...] = (20,)
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    batch_size: int = 64
    """Images denoised together, and stored together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    budget: str | None = None
    """What this start may spend: '20000 images', '4e6 rows' or '30 minutes'. No setting is begun that does not fit."""
    keep_images: bool = False
    """Keep all images of every setting, not only the examples."""
    data: str | None = None
    """Where the images are, if not where they were in training."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        with shared_hold(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.cli.options import evaluator_for
        from fairlead.cli.report import write_report
        from fairlead.models.load import load
        from fairlead.tune.budget import Budget
        from fairlead.tune.setting import all_settings, expand
        from fairlead.tune.store import SweepFolder
        from fairlead.tune.sweep import Shared
        from fairlead.tune.sweep import Sweep as Measuring
        from fairlead.tune.workers import Workers

        scales = self.scales
        if scales is None:
            scales = DEFAULT_SCALES if any("{scale}" in text for text in self.guidance) else ()
        settings = all_settings(self.model, expand(self.guidance, scales), self.sampler, self.steps)
        budget = None if self.budget is None else Budget.parse(self.budget)
        shared = Shared(
            self.n,
            self.seed,
            self.cond,
            self.grid,
            self.batch_size,
            self.precision,  # type: ignore[arg-type]  # planning refuses others
        )
        check_folder(self.out)
        workers = Workers.launched(self.device)
        measuring = Measuring(settings, shared, partial(load, device=workers.device))
        folder = SweepFolder(self.out)
        folder.check(measuring.described())
        evaluator = None
        if workers.main:
            chosen = measuring.labels if self.cond else ()
            evaluator = evaluator_for(self.model[0], self.data, chosen, measuring.first, (self.n,))
            self._say_other_data(measuring)
        points = measure_with_progress(measuring, folder, evaluator, budget, self.keep_images, workers)
        if points:
            path, text = write_report(self.out)
            print(f"{text}\nreport: {path}")

    def _say_other_data(self, measuring: Measuring) -> None:
        first = measuring.models[self.model[0]]
        for name, model in measuring.models.items():
            if model.get("data_fingerprint") != first.get("data_fingerprint"):
                print(
                    f"{name} was trained on other images than {self.model[0]}; both are measured against those of "
                    f"{self.model[0]}",
                    file=sys.stderr,
                )


def measure_with_progress(
    measuring: Measuring,
    folder: SweepFolder,
    evaluator: Evaluator | None,
    budget: Budget | None = None,
    keep_images: bool = False,
    workers: Workers | None = None,
) -> list[Point]:
    """Run a sweep behind a bar over its images, printing a line a setting.

    Returns:
        all points of the folder, in the order of the table; none in other than the main process.
    """
    from fairlead.tune.setting import labels_of
    from fairlead.tune.store import Point
    from fairlead.tune.sweep import Batch, Outlook, Stopped
    from fairlead.tune.workers import Workers

    workers = workers or Workers()
    settings = list(measuring.keys)
    label = dict(zip(settings, labels_of(settings), strict=True))
    width = min(48, max(16, *map(len, label.values())))
    command = f"fairlead {shlex.join(sys.argv[1:])}"
    rows = total = 0.0
    began = time.perf_counter()
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} images [{elapsed}{postfix}]"
    with Bar(0, "image", shown=workers.main, form=form) as bar:
        try:
            for event in measuring.measure(
                folder, evaluator, command=command, budget=budget, keep_images=keep_images, workers=workers
            ):
                if not workers.main:
                    continue
                if isinstance(event, Outlook):
                    bar.write(_outlook(event, budget))
                    if keep_images and event.measured:
                        bar.write("of settings that are measured already, only images that were kept then are kept")
                    floor = folder.floor
                    if floor is not None:
                        bar.write(_line("real images", floor.metrics, "", width))
                    bar.reset(event.now.images)
                    total, began = event.now.rows, time.perf_counter()
                elif isinstance(event, Batch):
                    # the batches are dealt in turn, so the others are as far
                    rows += workers.count * event.work.rows
                    left = max(0.0, total - rows) * (time.perf_counter() - began) / max(rows, 1.0)
                    bar.note(f"about {clock(left)} left")
                    bar.update(min(workers.count * event.work.images, (bar.total or 0) - bar.n))
                elif isinstance(event, Point):
                    cost = f"{event.rows_per_image:g} rows {event.ms_per_image:.1f} ms"
                    bar.write(_line(label[event.setting], event.score.metrics, cost, width))
                elif isinstance(event, Stopped):
                    bar.write(
                        f"the budget of {budget} is spent: {event.settings} of {len(settings)} settings are left "
                        f"({event.work}); the same command goes on"
                    )
        except KeyboardInterrupt:
            if workers.main and folder.started():
                bar.write(f"finished batches are in {folder.folder}; the same command goes on", file=sys.stderr)
            raise
    return folder.read()[1] if workers.main else []


def _outlook(event: Outlook, budget: Budget | None) -> str:
    text = f"{event.settings} setting{'s' * (event.settings > 1)}"
    if event.measured:
        text += f", {event.measured} of them measured"
    text += f"; to do: {event.left}" if event.measured < event.settings else "; nothing to do"
    if budget is not None and event.beyond:
        text += f"; within {budget}: {event.now}, without {event.beyond} of the settings"
    return text


def _line(name: str, metrics: Mapping[str, Estimate], cost: str, width: int) -> str:
    from fairlead.measure.agreement import AGREEMENT, adherence_of
    from fairlead.measure.metrics import DEBIASED, RAW, title_of

    shown = (DEBIASED, RAW, adherence_of(metrics), "diversity")
    values = "  ".join(f"{title_of(key)} {metrics[key]}" for key in shown if key in metrics)
    line = f"{name:<{width}} {values}  {cost}"
    each = [f"{key.removeprefix('agreement_')} {metrics[key]}" for key in list(AGREEMENT)[1:] if key in metrics]
    return "\n".join([line, *(textwrap.wrap(", ".join(each), 110, initial_indent="    ", subsequent_indent="    "))])
