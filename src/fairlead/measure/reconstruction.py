"""How well an autoencoder gives images back."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, to_float
from fairlead.diffusers.autoencoder import Autoencoder
from fairlead.measure.estimate import Estimate, mean_estimate

_CHUNK = 256


def reconstruction_error(autoencoder: Autoencoder, data: ImageData) -> dict[str, Estimate]:
    """Errors of decode(encode(image)), from the posterior mean, clipped to [-1, 1]; their means over the images.

    Returns:
        "l1": mean absolute error in units of the range, 0 to 1; "psnr": -10 log10 of the mean squared error in those
        units, in dB, of each image by itself, at most 100.

    Raises:
        UsageError: for images that it cannot encode, or none.
    """
    autoencoder.latent_shape(data.shape)
    if not len(data):
        raise UsageError(f"data {data.name!r}, split {data.split!r}, has no images to measure on")
    absolute, squared = [], []
    with torch.no_grad():
        for part in torch.split(data.images, _CHUNK):
            images = to_float(part)
            difference = (rebuilt(autoencoder, images) - images).double().flatten(1) / 2
            absolute.append(difference.abs().mean(1))
            squared.append(difference.square().mean(1))
    psnr = -10 * torch.cat(squared).clamp(min=1e-10).log10()
    return {"l1": mean_estimate(torch.cat(absolute)), "psnr": mean_estimate(psnr)}


def rebuilt(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """decode(encode(images)) of images [n, c, h, w] in [-1, 1], clipped to it."""
    return autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1)
