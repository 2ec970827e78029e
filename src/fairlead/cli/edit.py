"""``fairlead edit``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.progress import bars
from fairlead.core.registry import names


@dataclass(frozen=True)
class Edit:
    """Make images anew under a condition, and keep what it does not speak of.

    Without a source, images are noised and sampled from there (SDEdit). With one, the noise is found that they are the
    samples of, and sampled under the new condition. OUT gets the images, run.json, grid.png (before and after), and
    inversion.safetensors, which --inverted takes the next time.

    Example: fairlead edit runs/digits --images digits@test --n 8 --strength 0.6 --cond three --out threes
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, a checkpoint folder, or a pipeline."""
    out: Path
    """Folder for the images; must not hold a run yet."""
    images: tuple[str, ...] = ()
    """Files, a folder of images, or a data set, as in scenes@test."""
    cond: tuple[str, ...] = ()
    """What the images become, one for all or one each; nothing for null."""
    method: Annotated[
        str | None, tyro.conf.arg(help="sdedit, inversion, fixed-point, null-text or negative. Default: sdedit.")
    ] = None
    source: tuple[str, ...] = ()
    """What the images show, one for all or one each, for methods that invert."""
    strength: float | None = None
    """Where sampling begins, from above 0 (the image stays) to 1 (noise alone). Default: 0.6 for sdedit without a mask,
    else 1."""
    mask: str | None = None
    """An image of their size, transparent or white where they are made anew; for sdedit."""
    resample: int | None = None
    """How often each step is taken with a mask. Default: 4."""
    rounds: int | None = None
    """Evaluations of a step at most by fixed-point (default 30), steps of Adam in each by null-text (10)."""
    inverted: str | None = None
    """inversion.safetensors of an earlier edit, in the place of images and source."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), ..., or "tuned"."""
    source_guidance: str | None = None
    """That of inverting, for inversion and fixed-point; "none" is scale 1. Default: --guidance."""
    n: int | None = None
    """The first so many of the images. Default: all."""
    resize: bool = False
    """Bring the images to the model's size: shorter side resized, centre cropped."""
    sampler: Annotated[
        str | None,
        tyro.conf.arg(help=f"Of sdedit: {', '.join(names('sampler'))}; the other methods are of ddim. Default: ddim."),
    ] = None
    steps: int | None = None
    """Steps of the sampler from noise alone; those above the strength are not taken. Default: 20, or those of
    --inverted."""
    grid: Annotated[str | None, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}. Default: trailing.")] = None
    seed: int = 0
    """Seed of the first image; the next ones have the next seeds."""
    batch_size: int = 64
    """Images denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    weights: str | None = None
    """ema (averaged) or raw (as trained). Default: ema."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.report.edits import edit

        if not self.images and self.inverted is None:
            raise UsageError("--images: expected images to edit, e.g. --images photos/ or --images digits@test --n 8")
        options = {name: value for name, value in vars(self).items() if name not in ("images", "cond", "source")}
        found = edit(
            images=_one_or_several(self.images),
            cond=_one_or_several(self.cond),
            source=_one_or_several(self.source),
            **options,
            progress=bars,
        )
        print(f"{found}; {self.out / 'grid.png'}")


def _one_or_several(given: tuple[str, ...]) -> str | list[str] | None:
    return None if not given else given[0] if len(given) == 1 else list(given)
