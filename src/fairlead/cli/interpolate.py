"""``fairlead interpolate``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.cli.typed_options import GridText, SamplerText
from fairlead.core.progress import bars


@dataclass(frozen=True)
class Interpolate:
    """Sample images between two conditions: the same noise, mixed embeddings.

    OUT gets strip.png (one row per seed, one column per frame) and interpolation.json. The command prints how evenly
    the images change, in features and in pixels: the largest change between neighbouring frames over the mean one, so
    that 1 is perfectly even and frames - 1 is a single jump. Between two classes it also prints what a judge sees in
    each frame.

    Example: fairlead interpolate runs/digits --cond seven one --guidance "cfg(2)" --out seven-to-one
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the results; must not hold an interpolation yet."""
    cond: tuple[str, str]
    """The two ends: class names, indices or prompts."""
    n: int = 4
    """Number of seeds, which are the rows of the strip."""
    frames: int = 9
    """Images per seed, including both ends."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), ..., or "tuned"."""
    sampler: SamplerText = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: GridText = "trailing"
    seed: int = 0
    """The first seed."""
    batch_size: int = 64
    """Images denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    weights: str = "ema"
    """ema (averaged), raw (as trained), or ema:0.08, see `fairlead sample`."""
    data: str | None = None
    """Where the images are on which judge and features are trained, if not where they were in training."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.report.interpolations import interpolate

        options = vars(self)
        a, b = self.cond
        found = interpolate(
            a=a, b=b, **{name: value for name, value in options.items() if name != "cond"}, progress=bars
        )
        print(f"{found}; {self.out / 'strip.png'}")
