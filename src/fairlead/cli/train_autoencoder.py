"""``fairlead train-autoencoder``"""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.train.options import AutoencoderOptions, DataName, OutFolder


@dataclass(frozen=True)
class TrainAutoencoder(AutoencoderOptions):
    """Train a small autoencoder for a diffusion model of its latents; diffusers loads it too.

    At the end its error on the test split is measured, and OUT is a folder that diffusers loads, with the scale of the
    latents in its configuration. Ctrl-C or SIGTERM saves a checkpoint and stops; the same command with --resume
    continues to the same bits as an uninterrupted run.

    Example: fairlead train-autoencoder --data digits --out runs/vae
    """

    out: OutFolder
    data: DataName = None

    def run(self) -> None:
        from fairlead.report.training import autoencoder_trained

        autoencoder_trained(self)
