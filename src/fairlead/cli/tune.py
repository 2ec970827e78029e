"""``fairlead tune``"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fairlead.cli.sweep import SweepBar
from fairlead.cli.typed_options import GridText, SamplerText, as_given
from fairlead.core.progress import bars
from fairlead.core.registry import names

if TYPE_CHECKING:
    from fairlead.report.searches import SearchReport


@dataclass(frozen=True)
class Tune:
    """Find the best guidance for this model: search a range on common noise, then report on fresh noise.

    A single number in braces is searched on a grid that is refined only where settings are statistically
    indistinguishable, and its answer has an interval. Several numbers are searched by halving (pip install
    'fairlead[tune]'). Recommends the cheapest setting that is statistically indistinguishable from the best feasible
    one. If it was stopped, the same command continues.

    Example: fairlead tune runs/digits --budget 10000 --constraint "accuracy >= 0.99" --out runs/digits/tune
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, a checkpoint folder, or a diffusers pipeline (with --data or --prompts)."""
    out: Path
    """Folder for everything measured; the answer is also written to RUN/tuned.json, for `sample --guidance tuned`,
    beside those for other objectives, constraints, samplers, ..."""
    guidance: str = "cfg({scale})"
    """An expression with the numbers to search in braces: cfg({scale}).during(sigma=({low}, {high}))."""
    range: tuple[str, ...] = ()
    """NAME=LOW:HIGH for every number in braces; scale=1:8 by default."""
    budget: int = 10000
    """Images of the search."""
    objective: str | None = None
    """distance_debiased (without the bias of few images), accuracy, confidence, saturation, or for text models of
    scenes agreement (with all that the prompt says) or agreement_ink, ...; with --prompts cosine (of image and prompt),
    saturation, and with --data distance_debiased. distance_debiased and saturation are minimised, the others
    maximised. Default: distance_debiased; with --prompts but without --data cosine."""
    constraint: tuple[str, ...] = ()
    """What a recommended setting must satisfy: "accuracy >= 0.99", "agreement >= 0.9", "cosine >= 0.3",
    "distance_debiased <= 3", "rows_per_step <= 1.5"."""
    report: int = 1000
    """Images of each reported setting, on seeds that the search has not seen; 0 for no report."""
    by_class: bool = False
    """Also say which scale is best for each class, with an interval, or that the images show no difference."""
    sampler: SamplerText = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: GridText = "trailing"
    seed: int = 0
    """First seed of the search; the report begins at 1,000,000 more."""
    batch_size: int = 64
    """Images denoised together, and stored together."""
    precision: str = "fp32"
    """fp32 or bf16."""
    data: str | None = None
    """Where the images are, if not where they were in training; with --prompts any folder of real images, for the
    distance."""
    prompts: Path | None = None
    """A file of prompts, one per line, taken in turn, as for sweep: no real images are needed."""
    features: Annotated[
        str | None,
        tyro.conf.arg(help=f"Features for distance and diversity, as for sweep: {', '.join(names('extractor'))}."),
    ] = None
    clip: str | None = None
    """The network for the cosine of image and prompt, as for sweep."""
    judge: Literal["quick", "thorough"] = "quick"
    """Judge of accuracy: quick, trained in half a minute; thorough, for photographs, in half an hour of a core."""
    reward: str | None = None
    """A reward of the images, as for particles: a further column, for --objective reward or --constraint
    "reward >= -1"."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.report.searches import tune

        with SweepBar() as bar:
            found = tune(**vars(self), progress=bars, on_found=_say, on_event=bar, command=as_given())
        if found.report is not None:
            print(f"report: {found.report.path}")
        print(
            f"use it: fairlead sample {self.model} --guidance {shlex.quote(found.name)} --sampler "
            f"{shlex.quote(self.sampler)} --steps {self.steps} --cond {shlex.quote(found.example)} --out samples"
        )


def _say(found: SearchReport) -> None:
    from fairlead.report.search_page import class_lines, front_lines, summary

    lines = front_lines(found.tuned)
    own = found.tuned.by_class
    lines += ["", *class_lines(own)] if own is not None and own.apart else []
    print("\n".join([summary(found.tuned, found.template, found.objective), "", *lines, ""]))
