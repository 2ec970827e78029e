"""``fairlead train-autoencoder``"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fairlead.cli.training import TrainOptions, finishing, train_with_progress
from fairlead.core.errors import UsageError
from fairlead.core.signals import unbroken
from fairlead.nets.build import AUTOENCODER_PRESETS, autoencoder_preset
from fairlead.train.config import AUTOENCODER_RECIPES, Recipe

if TYPE_CHECKING:
    from fairlead.train.loop import Training


@dataclass(frozen=True)
class TrainAutoencoder(TrainOptions):
    """Train a small autoencoder, which diffusers loads too, for a diffusion model of its latents.

    At the end its error on the test split is measured, and OUT is a folder that diffusers loads, with the scale of the
    latents in its configuration. Ctrl-C or SIGTERM saves a checkpoint and stops; the same command with --resume goes on
    to the same bits as an uninterrupted run.

    Example: fairlead train-autoencoder --data digits --out runs/vae
    """

    recipe: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Preset of all below: {', '.join(AUTOENCODER_RECIPES)}; by default the one named like the data, else "
            "digits."
        ),
    ] = None  # type: ignore[assignment]
    net: Annotated[
        str | None,
        tyro.conf.arg(help=f"Network preset, how much smaller latents are: {', '.join(AUTOENCODER_PRESETS)}."),
    ] = None
    latent: int | None = None
    """Channels of the latents."""
    objective: Literal["l1", "l2"] | None = None
    """Error of the reconstruction: l1, absolute, or l2, squared."""
    optimizer: str | None = None
    """adamw, or muon: matrices by orthogonal updates, all else by adamw; small shapes come earlier, each step is
    dearer."""
    kl: float | None = None
    """Weight of the KL divergence to N(0, 1) against the error summed over an image."""

    def _recipe(self, recipes: Mapping[str, Recipe]) -> Recipe:
        if self.recipe is not None:
            return super()._recipe(recipes)
        return recipes.get(self.data or "digits", recipes["digits"])

    def _net(self, recipe: Recipe, size: int) -> str:
        return self.net or autoencoder_preset(size)

    def run(self) -> None:
        with self.started(AUTOENCODER_RECIPES, AUTOENCODER_PRESETS, ("channels", "latent")) as training:
            train_with_progress(training)
            if training.accelerator.is_main_process:
                with finishing(self.out):
                    self._finish(training)

    def _finish(self, training: Training) -> None:
        from fairlead.core.files import replacing
        from fairlead.data.hub import load_data
        from fairlead.diffusers.kl_autoencoder import finished_autoencoder, save_autoencoder
        from fairlead.report.held_out import reconstruction_error, reconstruction_grid

        autoencoder = finished_autoencoder(training)
        given = {name: value for name, value in training.config.data.items() if name != "limit"}
        data = load_data(**given, split="test")
        errors = reconstruction_error(autoencoder, data)
        measured = {"data": data.name, "split": data.split, "fingerprint": data.fingerprint}
        with unbroken():
            save_autoencoder(autoencoder, training, {**measured, **{name: asdict(e) for name, e in errors.items()}})
        shape = autoencoder.latent_shape(data.shape)
        print(
            f"{len(data):,} test images: PSNR {errors['psnr']} dB, mean absolute error {errors['l1']} of the range; "
            f"latents {'x'.join(map(str, shape))}, scale {autoencoder.scale:.4g}, weights {autoencoder.hash}"
        )
        path = self.out / "reconstructions.png"
        try:
            with replacing(path, durable=False) as partial:
                partial.write_bytes(reconstruction_grid(autoencoder, data))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}; the autoencoder itself is saved") from error
        print(f"pictures: {path}; train on its latents: fairlead train --latents {self.out} --out RUN")
