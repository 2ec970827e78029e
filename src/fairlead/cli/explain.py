"""``fairlead explain``"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.cli.typed_options import GridText, SamplerText, as_given
from fairlead.core.progress import bars


@dataclass(frozen=True)
class Explain:
    """Show what a guidance does to the predictions of a model, step by step.

    For every step: the scale of each term, the size of what it adds to x0, its angle to the conditional prediction and
    to the other terms, the effective scale (the w for which cfg(w) comes closest), the share of x0 outside the data
    range before and after finishers, and the network rows. A value that is not finite is traced to the term that made
    it. The images are those of fairlead sample with the same seeds, to the bit.

    The command prints a table. OUT gets explain.json (every number, for each seed), explain.png (plots over the noise
    level), film.png (the conditional and the guided prediction, one column per step) and explain.html with all of it.

    Example: fairlead explain runs/digits --cond seven --guidance "cfg(4) | clip()" --out why
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the results; must not hold an explanation yet."""
    guidance: str
    """An expression: cfg(4), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), cfg(12) | threshold(0.995), ..."""
    cond: str | None = None
    """A class name, an index or a prompt; nothing for unconditional samples."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds, one sample each; the table shows means over them."""
    compare: bool = False
    """Also evaluate the conditional and the null prediction where the guidance does not, so that angles and effective
    scales are known at every step; these rows are counted apart and do not change the images."""
    sampler: SamplerText = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: GridText = "trailing"
    batch_size: int = 64
    """Samples denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    weights: str = "ema"
    """ema (averaged), raw (as trained), or ema:0.08, see `fairlead sample`."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.report.explanations import explain
        from fairlead.report.text_table import WIDTH

        found = explain(**vars(self), progress=bars, command=as_given())
        print(f"{found.table()}\n\n{textwrap.fill(found.findings(), WIDTH)}\n\n{self.out / 'explain.html'}")
