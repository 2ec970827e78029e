"""Latents that a transformer takes as patches in a row, and the picture that they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PATCH = 2
"""Edge of a patch."""


def unpacked(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Flux's [n, h w / 4, 4 c] -> [n, c, h, w]."""
    h, w = size
    return x.reshape(len(x), h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, h, w)


def packed(x: Tensor) -> Tensor:
    """The inverse of :func:`unpacked`."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def packs(pipe: Any) -> bool:
    """Whether a pipeline puts its latents in a row as :func:`packed` does."""
    probe = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    try:
        return bool(torch.equal(pipe._pack_latents(probe, 1, 2, 4, 6), packed(probe)))
    except (AttributeError, TypeError, ValueError, RuntimeError):  # it has none, or one of another kind
        return False


def picture_size(arguments: Mapping[str, Any], length: int) -> tuple[int, int] | None:
    """Height and width of the latents in a call of a network that takes ``length`` patches for each sample, from what
    it gets their positions; None if it does not get them.

    Args:
        arguments: ``img_ids`` [..., length or more, 3], of which the last two count, or ``img_shapes``, for each sample
            the numbers of frames, rows and columns of the latents, then of other images.
    """
    ids, shapes = arguments.get("img_ids"), arguments.get("img_shapes")
    rows, columns = 0, 0
    if isinstance(ids, Tensor) and ids.shape[-1] == 3:
        last = (ids if ids.ndim == 2 else ids[0])[:length].amax(0)
        rows, columns = int(last[1]) + 1, int(last[2]) + 1
    elif isinstance(shapes, list) and shapes:
        first = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
        frames, rows, columns = first
        rows = rows if frames == 1 else 0
    return (PATCH * rows, PATCH * columns) if length and rows * columns == length else None
