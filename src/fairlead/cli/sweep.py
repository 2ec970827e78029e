"""``fairlead sweep``"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fairlead.cli.typed_options import GridText, as_given
from fairlead.core.progress import Bar, bars, clock
from fairlead.core.registry import names

if TYPE_CHECKING:
    from fairlead.measure.metrics import Estimate
    from fairlead.tune.budget import Outlook
    from fairlead.tune.class_scales import ByClass
    from fairlead.tune.sweep_run import Event


@dataclass(frozen=True)
class Sweep:
    """Measure settings side by side, from the same noise: every combination of the given checkpoints, guidances,
    samplers and numbers of steps.

    Distance is the Fréchet distance of features to the training images. Noise floor: the distance that held-out real
    images get under the same protocol. Accuracy is judged by a classifier that neither guides nor supplies the
    features; both classifiers are trained by a fixed recipe on first use and cached. For models conditioned on text or
    attributes of scenes, agreement with the prompt is judged attribute by attribute. --prompts measures a model
    that is conditioned on text without real images and judges.

    Finished batches are stored. After a kill, Ctrl-C or the end of the budget the same command continues without
    repeating work; a command with more guidances, scales, samplers, steps or checkpoints adds to the results.
    `torchrun --nproc_per_node 2 -- $(which fairlead) sweep ...` shares the work, as `accelerate launch` does on GPUs;
    the table is the same.

    Example: fairlead sweep runs/digits --scales 0 1 1.5 2 3 5 --n 500 --out runs/digits/sweep
    """

    model: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Training runs, RUN@step500, checkpoint folders, or diffusers pipelines (with --data or --prompts). Real images
    are those of the first."""
    out: Path
    """Folder for the results; a sweep in it continues if it has the same n, seed, conditions, ..."""
    guidance: tuple[str, ...] = ("cfg({scale})",)
    """Expressions; {scale} is replaced by every number of --scales."""
    scales: tuple[float, ...] | None = None
    """Scales for {scale}: 0 is unconditional, 1 conditional without guidance. Default: 0 1 1.25 1.5 2 3 5."""
    n: int = 500
    """Images per setting, over all conditions; at least 3 of each."""
    seed: int = 0
    """Seed of the first image; the same seeds for every setting."""
    cond: tuple[str, ...] = ()
    """Classes, taken in turn, and compared with real images of these classes; default: all classes. For a model that is
    conditioned on text: prompts, as for --prompts; default: the captions of held-out images."""
    prompts: Path | None = None
    """A file of prompts, one per line (or JSON lines, CSV, parquet with a column prompt), taken in turn. No real images
    are needed and no judge is trained; the cosine of image and prompt, diversity, saturation and cost are measured."""
    sampler: Annotated[
        tuple[str, ...], tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = ("ddim",)
    steps: tuple[int, ...] = (20,)
    """Steps of the sampler."""
    grid: GridText = "trailing"
    batch_size: int = 64
    """Images denoised together, and stored together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    budget: str | None = None
    """Limit of this call: '20000 images', '4e6 rows' or '30 minutes'. A setting that does not fit is not begun."""
    keep_images: bool = False
    """Keep all images of every setting, not only the examples."""
    by_class: bool = False
    """Say which scale has the smallest distance in each class, with an interval, or that n shows no difference."""
    data: str | None = None
    """Where the images are, if not where they were in training; with --prompts any folder of real images, for the
    distance."""
    features: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Features for distance and diversity: {', '.join(names('extractor'))}; dinov2:PATH, clip:PATH, "
            "classifier:DATA. By default a classifier of the images; with --prompts the network of --clip."
        ),
    ] = None
    clip: str | None = None
    """The network for the cosine of image and prompt: clip:PATH or other features that embed text; by default
    --features if they embed text, else clip."""
    judge: Literal["quick", "thorough"] = "quick"
    """Judge of accuracy: quick, trained in half a minute; thorough, for photographs, in half an hour of a core."""
    reward: str | None = None
    """A further column: the mean of a reward, as for particles: 'judged("seven")', 'similarity("a red seven")'."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.report.sweeps import sweep

        with SweepBar(self.keep_images) as bar:
            found = sweep(**vars(self), progress=bars, on_event=bar, command=as_given())
        if found is not None:
            print("\n".join([found.choice.text, *said_by_class(found.by_class), f"report: {found.path}"]))


def said_by_class(found: ByClass | None) -> list[str]:
    """A sentence, and a table where the classes differ surely."""
    from fairlead.report.search_page import class_lines

    return [] if found is None else [found.text, *(class_lines(found) if found.apart else [])]


class SweepBar:
    """A bar over the images of a sweep, with a line per setting; called with its events."""

    def __init__(self, keep_images: bool = False) -> None:
        self.keep_images = keep_images
        self.bar: Bar | None = None
        self.rows = self.total = self.began = 0.0
        self.outlook: Outlook | None = None

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, event: Event) -> None:
        from fairlead.tune.budget import FinishedBatch, Outlook, Stopped
        from fairlead.tune.setting import Point

        if isinstance(event, Outlook):
            self.outlook = event
            form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} images [{elapsed}{postfix}]"
            self.bar = Bar(event.now.images, "image", form=form)
            self.bar.write(_outlook(event))
            if self.keep_images and event.measured:
                self.bar.write("of settings that are measured already, only images that were kept then are kept")
            if event.floor.metrics:
                self.bar.write(self._line("real images", event.floor.metrics, ""))
            self.total, self.began = event.now.rows, time.perf_counter()
            return
        assert self.bar is not None
        assert self.outlook is not None
        if isinstance(event, FinishedBatch):
            # the batches are dealt in turn, so the others are as far
            count = self.outlook.processes
            self.rows += count * event.work.rows
            left = max(0.0, self.total - self.rows) * (time.perf_counter() - self.began) / max(self.rows, 1.0)
            self.bar.note(f"about {clock(left)} left")
            self.bar.update(min(count * event.work.images, (self.bar.total or 0) - self.bar.n))
        elif isinstance(event, Point):
            cost = f"{event.rows_per_image:g} rows {event.ms_per_image:.1f} ms"
            self.bar.write(self._line(self.outlook.labels[event.setting], event.score.metrics, cost))
        elif isinstance(event, Stopped):
            self.bar.write(
                f"the budget of {self.outlook.budget} is spent: {event.settings} of {len(self.outlook.labels)} "
                f"settings are left ({event.work}); the same command continues"
            )

    def _line(self, name: str, metrics: Mapping[str, Estimate], cost: str) -> str:
        from fairlead.measure.agreement import AGREEMENT, adherence_of
        from fairlead.measure.metrics import DEBIASED, RAW, title_of

        assert self.outlook is not None
        width = min(48, max(16, *map(len, self.outlook.labels.values())))
        shown = (DEBIASED, RAW, adherence_of(metrics), "diversity", "reward")
        values = "  ".join(f"{title_of(key)} {metrics[key]}" for key in shown if key in metrics)
        line = f"{name:<{width}} {values}  {cost}"
        each = [f"{key.removeprefix('agreement_')} {metrics[key]}" for key in list(AGREEMENT)[1:] if key in metrics]
        lead = "    "
        return "\n".join([line, *textwrap.wrap(", ".join(each), 110, initial_indent=lead, subsequent_indent=lead)])


def _outlook(event: Outlook) -> str:
    text = f"{event.settings} setting{'s' * (event.settings > 1)}"
    if event.measured:
        text += f", {event.measured} of them measured"
    text += f"; to do: {event.left}" if event.measured < event.settings else "; nothing to do"
    if event.budget is not None and event.beyond:
        text += f"; within {event.budget}: {event.now}, without {event.beyond} of the settings"
    return text
