"""``fairlead export``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Export:
    """Write a run as a pipeline that diffusers loads without fairlead. The run needs a network of diffusers; a run of
    adapters (train --pipeline) is written as the file that a pipeline's load_lora_weights reads.

    Example: fairlead export runs/sd my-pipeline
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder for the pipeline; must not exist yet."""
    weights: str = "ema"
    """ema (averaged), raw (as trained), or ema:0.08, see `fairlead sample`."""
    autoencoder: str | None = None
    """For a model of latents, where the autoencoder is, if not where it was in training."""

    def run(self) -> None:
        from fairlead.diffusers.exported_pipeline import export, how_to_load

        written = export(self.model, self.folder, self.weights, autoencoder=self.autoencoder)
        parts = ", ".join(sorted(path.name for path in written.iterdir()))
        print(f"{written}: {parts}; load it with {how_to_load(written)}")
