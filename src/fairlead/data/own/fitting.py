"""Sizes, height before width everywhere, and the ways to bring an image to one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from PIL import Image, ImageOps

from fairlead.core.arguments import is_count, plain_list, shown
from fairlead.core.errors import UsageError

Fit = Literal["centre", "random", "resize", "pad"]
"""How an image comes to a size. "centre": resized until it covers the size, then its centre; "random": the same, then
another part of it at every visit of a training (measuring and previews see the centre); "resize": stretched; "pad":
resized until it fits inside, on black."""
FITS: tuple[str, ...] = get_args(Fit)
MOST_PIXELS = 2**27
"""Of one image: 11,585 x 11,585, 0.4 GB in colour. A file of a few bytes may claim any number."""


def as_size(given: Any, what: str) -> tuple[int, int] | None:
    """(height, width) of 64, "64", "64x96" or [64, 96]; None for None.

    Raises:
        UsageError: for anything else, and for more pixels than an image may have.
    """
    value = plain_list(given)
    if value is None:
        return None
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d{1,9})(?:\s*[xX]\s*(\d{1,9}))?\s*", value)):
        value = [int(number) for number in found.groups() if number is not None]
    sides = [value, value] if is_count(value) else value
    if isinstance(sides, list | tuple) and len(sides) == 1:
        sides = [*sides, *sides]
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(map(is_count, sides)):
        raise UsageError(
            f"{what}: expected a size, a side such as 64 or height x width such as 64x96, whole numbers from 1, got "
            f"{shown(given)}"
        )
    height, width = map(int, sides)
    if height * width > MOST_PIXELS:
        asked = f"{height:,} pixels a side" if height == width else f"{height:,} x {width:,} pixels"
        raise UsageError(f"{what}: {asked} do not fit in memory; expected at most {int(MOST_PIXELS**0.5):,} a side")
    return height, width


def size_text(size: Sequence[int]) -> str:
    """``64x96``: height x width."""
    return "x".join(map(str, size))


def fitted_to(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """The image at (height, width) ``size``, antialiased bicubic; "random" leaves what lies beyond."""
    height, width = size
    if image.size == (width, height):
        return image
    if fit == "resize":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC, color=0)
    if fit == "random":
        high, wide = covering((image.height, image.width), size)
        return image.resize((wide, high), Image.Resampling.BICUBIC) if image.size != (wide, high) else image
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def covering(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image after it was resized until it just covers ``size``."""
    scale = max(size[0] / image[0], size[1] / image[1])
    return max(size[0], round(image[0] * scale)), max(size[1], round(image[1] * scale))
