"""Images as the judges see them in training: moved, and with a part hidden."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shifted(x: Tensor, limit: int, generator: torch.Generator, fill: str = "constant") -> Tensor:
    """Each image [n, c, h, w] moved by its own whole number of pixels in [-limit, limit] each way, filled with -1 or
    what ``F.pad`` has for ``fill``."""
    n, c, h, w = x.shape
    offset = torch.randint(0, 2 * limit + 1, (2, n), generator=generator)
    rows = (offset[0][:, None] + torch.arange(h))[:, None, :, None]
    columns = (offset[1][:, None] + torch.arange(w))[:, None, None, :]
    padded = F.pad(x, (limit,) * 4, fill, -1.0 if fill == "constant" else None)
    moved = padded[torch.arange(n)[:, None, None, None], torch.arange(c)[None, :, None, None], rows, columns]
    return channels_last(moved)


def holed(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each image [n, c, h, w] grey in a rectangle of this share of its sides, anywhere, also partly outside (cutout,
    1708.04552)."""
    n, _, h, w = x.shape
    inside = []
    for side in (h, w):
        middle = torch.randint(0, side, (n, 1), generator=generator)
        inside.append((torch.arange(side) - middle).abs() <= share * side / 2)
    return x.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0.0)


def channels_last(x: Tensor) -> Tensor:
    """Half the time on the CPU."""
    return x.contiguous(memory_format=torch.channels_last)
