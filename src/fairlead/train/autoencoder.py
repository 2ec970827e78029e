"""A trained autoencoder as a folder of diffusers, with the scale of its latents measured."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import fairlead
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing, settle
from fairlead.core.strict_json import sealed
from fairlead.data.autoencoder import Autoencoder, autoencoder_of
from fairlead.data.latents import Latents
from fairlead.nets.autoencoder import KLAutoencoder
from fairlead.train.loop import Training


def finished_autoencoder(training: Training) -> Autoencoder:
    """The averaged autoencoder; its scale is 1 / standard deviation of the latents of the training images."""
    kl = cast(KLAutoencoder, training.averaged_network()).kl
    unscaled = autoencoder_of(kl, str(training.out or "autoencoder"))
    kl.register_to_config(scaling_factor=1 / Latents.of(unscaled, training.data).std())
    return autoencoder_of(kl, unscaled.source)


def save_autoencoder(autoencoder: Autoencoder, training: Training, measured: dict[str, Any]) -> Path:
    """Write OUT/config.json and OUT/diffusion_pytorch_model.safetensors, which diffusers loads, and our own
    OUT/autoencoder.json.

    Args:
        measured: JSON-ready, goes into the last.

    Raises:
        UsageError: if a file cannot be written; each is whole or as it was before.
    """
    assert training.out is not None
    about, out = training.about(), training.out
    description = {
        "hash": autoencoder.hash,
        "scale": autoencoder.scale,
        "latent_shape": list(autoencoder.latent_shape(training.data.shape)),
        "step": training.step,
        **{name: about[name] for name in ("data", "net", "objective", "train", "parameters", "precision")},
        "measured": measured,
        "fairlead": fairlead.__version__,
    }
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".autoencoder.") as partial:
            cast(Any, autoencoder.network).save_pretrained(partial)
            settle(Path(partial))
            for path in sorted(Path(partial).iterdir(), reverse=True):  # weights before their description
                os.replace(path, out / path.name)
        with replacing(out / "autoencoder.json") as path:
            path.write_text(json.dumps(sealed(description), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write the autoencoder to {out}: {error}; its checkpoint is saved") from error
    return out / "autoencoder.json"
