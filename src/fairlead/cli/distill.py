"""``fairlead distill``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.core.progress import bars
from fairlead.train.options import OutFolder


@dataclass(frozen=True)
class Distill:
    """Train a student that predicts in one row what a model predicts under a guidance, also in fewer steps.

    The student starts from the model's weights and is a model like any other. If it learned a fixed guidance, sample it
    without guidance; if it learned a range of scales, sample it with --guidance "distilled(3)". For a pipeline of
    Stable Diffusion, --lora 16 --prompts FILE trains adapters, which plain diffusers loads. Ctrl-C or SIGTERM saves a
    checkpoint and stops; the same command with --resume continues.

    Example: fairlead distill runs/digits --guidance "cfg({scale})" --range scale=1:4 --out runs/student
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, a checkpoint folder, or a diffusers pipeline."""
    out: OutFolder
    guidance: str = "none"
    """The guidance that the student learns: an expression that remembers nothing from step to step, such as
    "cfg(3) + pag(2) | rescale(0.7)"; {scale} in it is a scale that the student takes."""
    range: str = ""
    """The scales that the student learns, such as scale=1:8."""
    steps_to: int | None = None
    """Steps in which the student is to sample, with --sampler ddim: 4, 2 or 1."""
    steps_from: int | None = None
    """Steps of dpmpp_3m that the model takes in their place, a multiple of these. Default: the smallest from 16 on."""
    data: str | None = None
    """Where images to noise are, if not where they were in training."""
    steps: int | None = None
    """Optimiser steps; by default a quarter of the model's."""
    batch_size: int | None = None
    """Samples per step; by default the model's."""
    lr: float | None = None
    """Peak learning rate; by default half the model's."""
    warmup: int | None = None
    """Steps over which the learning rate rises from 0; by default the model's."""
    drop: float | None = None
    """Probability of dropping a condition of a sample, and the scale; by default the model's."""
    ema: float | None = None
    """Decay of the average of the weights; by default the model's."""
    precision: str | None = None
    """fp32, bf16, or auto; by default the model's."""
    seed: int = 0
    """Decides all random draws."""
    checkpoint_every: int | None = None
    """Steps between checkpoints that can be resumed; by default the model's."""
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    weights: str = "ema"
    """The model's weights: ema (averaged) or raw (as trained)."""
    lora: int | None = None
    """Rank of the adapters of a pipeline."""
    prompts: Path | None = None
    """A file of prompts, one per line, which a pipeline samples in turn under the guidance."""
    n: int | None = None
    """Paths of a pipeline, from noise to an image, on which its adapters are trained; by default 256."""
    path_steps: int | None = None
    """Steps of DDIM of each path; by default 20."""

    def run(self) -> None:
        from fairlead.report.trainings.distilling import distill

        distill(**vars(self), progress=bars)
