"""``fairlead interpolate``"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import working
from fairlead.core.registry import names
from fairlead.core.signals import unbroken

if TYPE_CHECKING:
    from fairlead.measure.interpolate import Interpolation


@dataclass(frozen=True)
class Interpolate:
    """Sample the way from one condition to another: the same noise, mixed embeddings.

    OUT gets strip.png (a row a seed, a column a frame) and interpolation.json. Printed is how evenly the images change
    (the largest change from a frame to the next over the mean one: 1 is perfectly even, frames - 1 is one jump), in
    features and in pixels, and, between two classes, what a judge sees in each frame.

    Example: fairlead interpolate runs/digits --cond seven one --guidance "cfg(2)" --out seven-to-one
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the results; must not hold an interpolation yet."""
    cond: tuple[str, str]
    """The two ends: class names, indices or prompts."""
    n: int = 4
    """Seeds: rows of the strip."""
    frames: int = 9
    """Images a seed, both ends among them."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), ..., or "tuned"."""
    sampler: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    seed: int = 0
    """The first seed."""
    batch_size: int = 64
    """Images denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    weights: str = "ema"
    """ema (averaged) or raw (as trained)."""
    data: str | None = None
    """Where the images are that judge and features are trained on, if not where they were in training."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; choose another --out")
        with Hold(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.cli.options import evaluator_for, guidance_of
        from fairlead.core.files import replacing
        from fairlead.measure.interpolate import interpolate
        from fairlead.models.load import load
        from fairlead.report.interpolate import strip, table

        check_folder(self.out, fresh={"interpolation.json": "an interpolation", "strip.png": "strip.png"})
        with working(f"loading {self.model}"):
            model = load(self.model, self.weights, self.device)  # type: ignore[arg-type]
        guidance, chosen = guidance_of(
            self.model, self.guidance, self.sampler, self.steps, model.metadata.get("weights_hash")
        )
        found = interpolate(
            model,
            *self.cond,
            n=self.n,
            frames=self.frames,
            guidance=guidance,
            seed=self.seed,
            sampler=self.sampler,
            steps=self.steps,
            grid=self.grid,
            batch_size=self.batch_size,
            precision=self.precision,  # type: ignore[arg-type]
        )
        evaluator = evaluator_for(self.model, self.data)
        shares = found.recognised(evaluator.judge) if found.between_classes(evaluator.judge) else {}
        features, pixels = found.smoothness(evaluator.extractor), found.smoothness()
        found = replace(found, run=replace(found.run, settings={**found.run.settings, **chosen}))
        about = self._about(found)
        about["smoothness"] = {"features": [features.value, features.error], "pixels": [pixels.value, pixels.error]}
        about["recognised"] = {name: [share.value for share in row] for name, row in shares.items()}
        about |= evaluator.described()
        picture = strip(found, {"fairlead": json.dumps(found.run.provenance())})
        try:
            with unbroken():
                with replacing(self.out / "strip.png", durable=False) as partial:
                    partial.write_bytes(picture)
                with replacing(self.out / "interpolation.json") as partial:
                    partial.write_text(json.dumps(about, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write to {self.out}: {error}") from error
        print("\n".join(table(found, shares)))
        print(
            f"largest change over the mean one, {self.frames} frames, {self.n} seeds: {features} in features, {pixels} "
            f"in pixels (1 is even, {self.frames - 1} is one jump); {self.out / 'strip.png'}"
        )

    def _about(self, found: Interpolation) -> dict[str, object]:
        return {"ends": list(found.ends), "weights": found.weights, **found.run.summary()}
