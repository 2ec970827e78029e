"""``fairlead edit``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.cli.typed_options import GRID
from fairlead.core.errors import UsageError
from fairlead.core.progress import bars
from fairlead.core.registry import names


@dataclass(frozen=True)
class Edit:
    """Change images to another condition, and keep what the condition does not mention.

    Without --source, images are noised and sampled from there (SDEdit). With --source, the noise from which sampling
    returns to each image is found, and sampled under the new condition. OUT gets the images, run.json, grid.png (before
    and after), and inversion.safetensors, which --inverted reuses.

    Example: fairlead edit runs/digits --images digits@test --n 8 --strength 0.6 --cond three --out threes
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, a checkpoint folder, or a pipeline."""
    out: Path
    """Folder for the images; must not hold a run yet."""
    images: tuple[str, ...] = ()
    """Files, a folder of images, or a data set, as in scenes@test."""
    cond: tuple[str, ...] = ()
    """The new condition, one for all images or one per image; nothing for null."""
    method: Annotated[
        str | None, tyro.conf.arg(help="sdedit, inversion, fixed-point, null-text or negative. Default: sdedit.")
    ] = None
    source: tuple[str, ...] = ()
    """What the images show, one condition for all or one per image, for methods that invert."""
    strength: float | None = None
    """Where sampling begins, from above 0 (the image stays) to 1 (noise alone). Default: 0.6 for sdedit without a mask,
    else 1."""
    mask: str | None = None
    """An image of the same size, transparent or white where images are sampled anew; for sdedit."""
    resample: int | None = None
    """With a mask, how often each step is repeated. Default: 4."""
    rounds: int | None = None
    """Most evaluations per step of fixed-point (default 30), or steps of Adam per step of null-text (10)."""
    inverted: str | None = None
    """inversion.safetensors of an earlier edit, instead of images and source."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), ..., or "tuned"."""
    source_guidance: str | None = None
    """Guidance while inverting, for inversion and fixed-point; "none" is scale 1. Default: --guidance."""
    n: int | None = None
    """Use only the first n images. Default: all."""
    resize: bool = False
    """Bring the images to the model's size: shorter side resized, centre cropped."""
    sampler: Annotated[
        str | None,
        tyro.conf.arg(help=f"Of sdedit: {', '.join(names('sampler'))}; the other methods are of ddim. Default: ddim."),
    ] = None
    steps: int | None = None
    """Steps of the sampler from noise alone; those above the strength are not taken. Default: 20, or those of
    --inverted."""
    grid: Annotated[str | None, tyro.conf.arg(help=f"{GRID} Default: trailing.")] = None
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
