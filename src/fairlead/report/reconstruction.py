"""The picture of an autoencoder: images above what it makes of them."""

from __future__ import annotations

import torch

from fairlead.data.autoencoder import Autoencoder
from fairlead.data.images import ImageData, stratified_order, to_float, to_uint8
from fairlead.measure.reconstruction import rebuilt
from fairlead.report.image_grid import image_grid


def reconstruction_grid(autoencoder: Autoencoder, data: ImageData, columns: int = 10) -> bytes:
    """PNG: a row of images of ``data``, spread over its classes, and a row of their reconstructions."""
    index = stratified_order(data.labels, seed=0)[:columns]
    images = data.images[index]
    with torch.no_grad():
        again = to_uint8(rebuilt(autoencoder, to_float(images)))
    return image_grid(
        torch.stack([images, again]),
        row_labels=["image", "decoded"],
        col_labels=[data.classes[label] for label in data.labels[index].tolist()],
        title=f"{data.name} {data.split}",
    )
