"""Digits as shapes: grey images of a digit set brought to one frame, and drawn from there at any place, size and slant.

Resampling is bilinear, from coordinates worked out element by element, and averaged over sub-pixels: the bits of an
image do not depend on the images beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.images import ImageData

FRAME = 24
"""Side of the frame of a glyph, in pixels; the digit fills ``INSIDE`` of them in height, centred."""
INSIDE = 20
WIDEST = 0.66
"""Width of the widest digits, in heights; what is wider is squeezed."""
_SEEN = 0.25
"""Grey level above which a pixel belongs to the digit, in [0, 1]."""
_EDGES = (0.2, 0.7)
"""Grey levels that become 0 and 1: strokes of 8 x 8 images are soft."""


def frame_glyphs(source: ImageData) -> Tensor:
    """The digits of ``source`` as uint8 [n, 24, 24]: cropped, 20 pixels high, at most 0.66 as wide, ink 255.

    Each is sheared to the mean slant of its class in ``source`` (second moments), so that the slant of a scene is what
    was asked for, not how its writer leaned. Dark digits on light ground are inverted, all of a set together.

    Raises:
        UsageError: if the images are not grey or the classes are not the ten digits.
    """
    if source.shape[0] != 1:
        raise UsageError(
            f"scenes: source {source.name!r} has {source.shape[0]} channels, expected grey digits; "
            "scenes give the colours themselves"
        )
    if source.classes != DIGIT_NAMES:
        shown = ", ".join(source.classes[:4]) + (", ..." if len(source.classes) > 4 else "")
        raise UsageError(
            f"scenes: source {source.name!r} is no digit set: its classes are {shown}; expected 0 to 9 or zero to nine"
        )
    missing = [name for label, name in enumerate(DIGIT_NAMES) if not bool((source.labels == label).any())]
    if missing:
        raise UsageError(f"scenes: source {source.name!r}, split {source.split!r}, has no image of {missing[0]!r}")
    parts = [source.images[start : start + 4096, 0].to(torch.float32) / 255 for start in range(0, len(source), 4096)]
    border = torch.cat([torch.cat([part[:, 0], part[:, -1], part[:, :, 0], part[:, :, -1]], dim=1) for part in parts])
    if float(border.median()) > 0.5:
        parts = [1 - part for part in parts]
    slopes = torch.cat([_slopes(part) for part in parts])
    means = torch.stack([slopes[source.labels == label].mean() for label in range(len(DIGIT_NAMES))])
    excess = (slopes - means[source.labels]).clamp(-0.6, 0.6)
    framed = [_framed(part, own) for part, own in zip(parts, torch.split(excess, 4096), strict=True)]
    return torch.cat(framed)


def draw_glyphs(frames: Tensor, size: int, x: Tensor, y: Tensor, height: Tensor, lean: Tensor) -> Tensor:
    """Coverage float32 [n, size, size] in [0, 1] of one digit an image.

    Args:
        frames: uint8 [n, 24, 24].
        size: side of the images in pixels.
        x, y: centre of each digit in pixels, [n]; (0, 0) is the outer corner of the first pixel.
        height: of each digit in pixels, [n].
        lean: how far the top moves to the right for each pixel of height, [n]; 0 leaves the class's own slant.
    """
    fine = 2 if size >= FRAME else 3
    centres = (torch.arange(size * fine, dtype=torch.float32) + 0.5) / fine
    down = (centres[None, :, None] - y[:, None, None]) / height[:, None, None]
    across = (centres[None, None, :] - x[:, None, None]) / height[:, None, None] + lean[:, None, None] * down
    reach = 2 * INSIDE / FRAME  # the frame is [-1, 1], the digit's height one
    grid = torch.stack([across, down.expand_as(across)], dim=-1) * reach
    drawn = F.grid_sample(frames[:, None].to(torch.float32) / 255, grid, align_corners=False)
    return F.avg_pool2d(drawn, fine)[:, 0]


def _slopes(grey: Tensor) -> Tensor:
    """How far each digit [n, h, w] moves to the right for each pixel downwards: covariance over variance of rows."""
    n, h, w = grey.shape
    weight = grey / grey.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    rows, columns = torch.arange(h, dtype=torch.float32)[:, None], torch.arange(w, dtype=torch.float32)[None, :]
    down = rows - (weight * rows).sum(dim=(1, 2)).reshape(n, 1, 1)
    across = columns - (weight * columns).sum(dim=(1, 2)).reshape(n, 1, 1)
    variance = (weight * down * down).sum(dim=(1, 2))
    return (weight * down * across).sum(dim=(1, 2)) / variance.clamp(min=1e-6)


def _framed(grey: Tensor, excess: Tensor) -> Tensor:
    """uint8 [n, 24, 24] of ``grey`` [n, h, w], sheared back by ``excess`` [n] and cropped."""
    n, h, w = grey.shape
    seen = grey > _SEEN * grey.amax(dim=(1, 2), keepdim=True)
    rows = torch.arange(h, dtype=torch.float32)[None, :, None].expand(n, h, w)
    columns = torch.arange(w, dtype=torch.float32)[None, None, :].expand(n, h, w)
    top, bottom = _ends(rows, seen)
    middle = (top + bottom) / 2
    straight = columns - excess[:, None, None] * (rows - middle[:, None, None])
    left, right = _ends(straight, seen)
    tall, wide = bottom - top + 1, right - left + 1
    shown = torch.minimum(wide / tall, torch.tensor(WIDEST))  # width in heights
    steps = ((torch.arange(FRAME, dtype=torch.float32) + 0.5) - FRAME / 2) / INSIDE
    down = steps[None, :, None] * tall[:, None, None]
    across = steps[None, None, :] / shown[:, None, None] * wide[:, None, None]
    source_y = middle[:, None, None] + down.expand(n, FRAME, FRAME)
    source_x = ((left + right) / 2)[:, None, None] + across + excess[:, None, None] * down
    grid = torch.stack([(2 * source_x + 1) / w - 1, (2 * source_y + 1) / h - 1], dim=-1)
    framed = F.grid_sample(grey[:, None], grid, align_corners=False)[:, 0]
    framed = framed / framed.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    low, high = _EDGES
    return (((framed - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8)


def _ends(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of ``values`` [n, h, w] ``where`` true, [n] each; the middle of the image if nowhere."""
    low = values.masked_fill(~where, torch.inf).amin(dim=(1, 2))
    high = values.masked_fill(~where, -torch.inf).amax(dim=(1, 2))
    middle = values.mean(dim=(1, 2))
    return torch.where(low.isfinite(), low, middle), torch.where(high.isfinite(), high, middle)
