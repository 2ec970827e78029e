"""The autoencoder of latent diffusion (Rombach et al. 2022, 2112.10752): the `AutoencoderKL` of diffusers, made small.

x [n, c, s, s] -> N(mean, std^2) over [n, latent, s / f, s / f], f = 2^(levels - 1) -> [n, c, s, s].
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

import fairlead
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing, settle
from fairlead.core.strict_json import sealed
from fairlead.core.typed import Count, Depth, Size
from fairlead.data.latents import Latents
from fairlead.diffusers.autoencoder import Autoencoder, autoencoder_of
from fairlead.diffusers.pretrained import library
from fairlead.nets.sizes import Sides, shown_sides, sides_of
from fairlead.train.loop import Training


class KLAutoencoder(nn.Module):
    """``(x [n, c, h, w], noise [n, *latent_shape]) -> (reconstruction [n, c, h, w], divergence [n])``.

    The reconstruction is that of mean + std * noise; the divergence is KL(N(mean, std^2) || N(0, 1)) in nats.

    Args:
        channels_in: channels of an image.
        size: height and width of an image, or one number for both; divisible by the factor.
        classes: 0; an autoencoder has no conditions.
        channels: width of the first level.
        multipliers: width of each level, in units of ``channels``; each level halves the size of the one before.
        blocks: residual blocks a level.
        latent: channels of the latents.

    Raises:
        UsageError: if diffusers is not installed, or the factor does not divide the size.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Sides,
        classes: Count = 0,
        channels: Size = 32,
        multipliers: Sequence[Size] = (1, 2, 2),
        blocks: Depth = 1,
        latent: Size = 4,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(multipliers) - 1)
        height, width = sides_of(size)
        if height % factor or width % factor:
            fitting = shown_sides([max(1, side // factor) * factor for side in (height, width)])
            raise UsageError(
                f"image size {shown_sides(size)} cannot be encoded by a factor of {factor}: expected a multiple of it; "
                f"pass --size {fitting} or another --net"
            )
        if classes:
            raise UsageError(f"an autoencoder has no conditions, got {classes} classes; make it for 0")
        levels = len(multipliers)
        self.kl = library("autoencoders", "diffusers").AutoencoderKL(
            in_channels=channels_in,
            out_channels=channels_in,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(channels * m for m in multipliers),
            layers_per_block=blocks,
            latent_channels=latent,
            norm_num_groups=math.gcd(channels, 8),
            sample_size=max(height, width),
            scaling_factor=1.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        )
        self.latent_shape = (latent, height // factor, width // factor)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.kl.encode(x).latent_dist
        divergence: Tensor = posterior.kl()
        return self.kl.decode(posterior.mean + posterior.std * noise.to(posterior.mean)).sample, divergence


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
