"""The autoencoder of latent diffusion (Rombach et al. 2022, 2112.10752): the `AutoencoderKL` of diffusers, made small.

x [n, c, s, s] -> N(mean, std^2) over [n, latent, s / f, s / f], f = 2^(levels - 1) -> [n, c, s, s].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fairlead.core.errors import UsageError
from fairlead.core.pretrained import library
from fairlead.core.typed import Count, Depth, Size


class KLAutoencoder(nn.Module):
    """``(x [n, c, s, s], noise [n, *latent_shape]) -> (reconstruction [n, c, s, s], divergence [n])``.

    The reconstruction is that of mean + std * noise; the divergence is KL(N(mean, std^2) || N(0, 1)) in nats.

    Args:
        channels_in: channels of an image.
        size: height and width of an image; divisible by the factor.
        classes: 0; an autoencoder is told nothing.
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
        size: Size,
        classes: Count = 0,
        channels: Size = 32,
        multipliers: Sequence[Size] = (1, 2, 2),
        blocks: Depth = 1,
        latent: Size = 4,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(multipliers) - 1)
        if size % factor:
            raise UsageError(
                f"image size {size} cannot be encoded by a factor of {factor}: expected a multiple of it; pass --size "
                f"{max(1, size // factor) * factor} or another --net"
            )
        if classes:
            raise UsageError(f"an autoencoder is told nothing, got {classes} classes; make it for 0")
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
            sample_size=size,
            scaling_factor=1.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        )
        self.latent_shape = (latent, size // factor, size // factor)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.kl.encode(x).latent_dist
        divergence: Tensor = posterior.kl()
        return self.kl.decode(posterior.mean + posterior.std * noise.to(posterior.mean)).sample, divergence
