"""Digits cut out of scenes: where the image differs from its border, whatever the colours, the place and the size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CROP = 14
"""Side of a cut-out digit in pixels."""
_FAINT, _FULL = 0.15, 0.75
"""Differences from the border, in shares of the largest, that become 0 and 1."""
_LINE = 0.5 / 28
"""A row or column belongs to a digit if the ink in it sums to more than so many sides of the image."""
_MARGIN = 1 / 28
"""Ground around a digit, in sides of the image."""


def digit_crops(images: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second digit of every image, each uint8 [n, 1, 14, 14], ink 255.

    Where there are ``two``, the image is cut in halves across the direction in which its ink is spread more; the left
    or upper one is the first. Of an image with one digit, both are the whole.

    Args:
        images: uint8 [n, c, h, w].
        two: bool [n].
    """
    h, w = images.shape[2:]
    ink = _ink(images)
    share = ink / ink.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    side = _variance(share.sum(dim=1)) > _variance(share.sum(dim=2))
    before = torch.where(
        side[:, None, None], (torch.arange(w) < w / 2)[None, None, :], (torch.arange(h) < h / 2)[None, :, None]
    )
    alone = ~two[:, None, None]
    return _cut(images, before | alone), _cut(images, ~before | alone)


def _ink(images: Tensor) -> Tensor:
    """float32 [n, h, w]: the largest difference of any channel from the border's median colour, in [0, 255]."""
    x = images.to(torch.float32)
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2)
    return (x - border.median(dim=2).values[:, :, None, None]).abs().amax(dim=1)


def _variance(share: Tensor) -> Tensor:
    """Of the place, [n], under the shares [n, m]."""
    at = torch.arange(share.shape[1], dtype=torch.float32)
    mean = (share * at).sum(dim=1, keepdim=True)
    return (share * (at - mean).square()).sum(dim=1)


def _cut(images: Tensor, where: Tensor) -> Tensor:
    """The square around the ink ``where`` true, bool [n, h, w], resampled."""
    ink = _ink(images) * where
    ink = ((ink / ink.amax(dim=(1, 2), keepdim=True).clamp(min=1.0) - _FAINT) / (_FULL - _FAINT)).clamp(0, 1)
    n, h, w = ink.shape
    top, bottom = _ends(ink.sum(dim=2) > _LINE * w)
    left, right = _ends(ink.sum(dim=1) > _LINE * h)
    half = (torch.maximum(bottom - top, right - left) / 2 + _MARGIN * w)[:, None, None]
    steps = 2 * (torch.arange(CROP, dtype=torch.float32) + 0.5) / CROP - 1
    y = (((top + bottom) / 2)[:, None, None] + half * steps[None, :, None]).expand(n, CROP, CROP)
    x = (((left + right) / 2)[:, None, None] + half * steps[None, None, :]).expand(n, CROP, CROP)
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], dim=-1)
    # a large image is reduced by an area at a time: between 28 and 64 pixels, nothing is skipped at 2 x 2
    fine = F.interpolate(grid.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)
    cut = F.avg_pool2d(F.grid_sample(ink[:, None], fine, align_corners=False), 2)
    return (cut * 255).round().to(torch.uint8)


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Outer edges, float32 [n], of the first and the last true of ``seen`` bool [n, m]; the whole where none is."""
    m = seen.shape[1]
    first = seen.to(torch.int8).argmax(dim=1).to(torch.float32)
    last = m - seen.flip(1).to(torch.int8).argmax(dim=1).to(torch.float32)
    return first, last
