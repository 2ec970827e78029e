"""Image conditions: what is left of an image, from which the whole is to be made again.

    superres(factor=4)            the image at a fraction of its size (2104.07636)
    inpaint(low=0.3, high=0.7)    the image without a box, and where the box is (2111.05826)

The condition "image" is joined to the network's input, so it has the size of the image: [n, c', h, w].
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.core.places import read_bytes
from fairlead.core.registry import lookup
from fairlead.core.syntax import keywords, number, parsed, quoted
from fairlead.data.decode import decode_images, open_image, unwarned
from fairlead.data.images import to_float
from fairlead.data.own.fitting import size_text

DRAWS = 4
"""Uniform numbers per sample that a degradation may use."""


class Degradation(Protocol):
    """A kind of image condition; frozen, and a pure function."""

    def channels(self, image: int) -> int:
        """Of the condition, for images of ``image`` channels."""
        ...

    def of(self, x0: Tensor, draws: Tensor) -> Tensor:
        """The condition [n, c', h, w] of clean images x0 [n, c, h, w] in [-1, 1]; ``draws`` [n, DRAWS] in [0, 1)."""
        ...

    def read(self, path: str, shape: Sequence[int]) -> Tensor:
        """The condition [c', h, w] that a file stands for, for images of ``shape`` (c, h, w).

        Raises:
            UsageError: if it cannot be read or does not fit.
        """
        ...


@dataclass(frozen=True)
class SuperResolution:
    """Means over blocks of ``factor`` x ``factor`` pixels, each spread over its block. A file holds either the small
    image or one of full size, which is made small first."""

    factor: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 2:
            raise UsageError(f"superres: expected a factor of 2 or more, a whole number, got {self.factor!r}")

    def channels(self, image: int) -> int:
        return image

    def of(self, x0: Tensor, draws: Tensor) -> Tensor:
        if x0.shape[-2] % self.factor or x0.shape[-1] % self.factor:
            raise UsageError(f"{self}: images of {size_text(x0.shape[2:])} cannot be divided by {self.factor}")
        return self.spread(F.avg_pool2d(x0, self.factor))

    def spread(self, small: Tensor) -> Tensor:
        """[..., h / factor, w / factor] -> [..., h, w], each pixel a block."""
        return small.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def read(self, path: str, shape: Sequence[int]) -> Tensor:
        image = to_float(decode_images([(path, read_bytes(Path(path), "image condition"))], None, path))
        image = _channels(image, shape[0], path)
        whole = tuple(shape[1:])
        small = tuple(side // self.factor for side in whole)
        if tuple(image.shape[2:]) == whole:
            return self.of(image, torch.zeros(1, DRAWS))[0]
        if tuple(image.shape[2:]) == small:
            return self.spread(image)[0]
        raise UsageError(
            f"image condition {path}: expected {size_text(small)} or {size_text(whole)} pixels (height x width) for "
            f"{self}, got {size_text(image.shape[2:])}"
        )

    def __str__(self) -> str:
        return _text("superres", self)


@dataclass(frozen=True)
class Inpaint:
    """The image with a box set to 0, and a channel that is 1 where the image is known. Sides of the box are uniform
    between ``low`` and ``high`` of the image's, its place is uniform. A file is a PNG that is transparent where it is
    to be filled."""

    low: float = 0.3
    high: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise UsageError(f"inpaint: expected sides 0 < low <= high <= 1, got low {self.low!r}, high {self.high!r}")

    def channels(self, image: int) -> int:
        return image + 1

    def known(self, draws: Tensor, height: int, width: int) -> Tensor:
        """1 where the image is known, [n, 1, height, width]."""
        inside = []
        for i, side in enumerate((height, width)):
            length = (side * (self.low + (self.high - self.low) * draws[:, i])).round().clamp(min=1)
            start = ((side + 1 - length) * draws[:, 2 + i]).floor()
            at = torch.arange(side, device=draws.device)
            inside.append((at >= start[:, None]) & (at < (start + length)[:, None]))  # [n, side]
        return (~(inside[0][:, :, None] & inside[1][:, None, :]))[:, None].to(draws.dtype)

    def of(self, x0: Tensor, draws: Tensor) -> Tensor:
        return _masked(x0, self.known(draws, x0.shape[-2], x0.shape[-1]).to(x0))

    def read(self, path: str, shape: Sequence[int]) -> Tensor:
        content = read_bytes(Path(path), "image condition")
        try:
            with unwarned(), open_image(content) as file:
                alpha = np.asarray(file.convert("RGBA"))[..., 3]
        except UsageError as error:
            raise UsageError(f"image condition {path}: {error}") from None
        except Exception as error:  # a broken file makes PIL raise anything
            raise UsageError(f"image condition {path}: cannot be read ({' '.join(str(error).split())})") from error
        known = torch.from_numpy(alpha >= 128).float()[None, None]
        if bool(known.all()):
            raise UsageError(f"image condition {path}: nothing in it is transparent, so there is nothing to fill in")
        image = _channels(to_float(decode_images([(path, content)], None, path)), shape[0], path)
        if tuple(image.shape[2:]) != tuple(shape[1:]):
            raise UsageError(
                f"image condition {path}: expected {size_text(shape[1:])} pixels (height x width), got "
                f"{size_text(image.shape[2:])}"
            )
        return _masked(image, known)[0]

    def __str__(self) -> str:
        return _text("inpaint", self)


def read_degradation(text: str) -> Degradation:
    """From ``superres``, ``inpaint(low=0.2)``, ...; read as syntax, never evaluated.

    Raises:
        UsageError: for an unknown name or argument, or a value that is no number.
    """
    advice = "expected a name with settings, such as superres(factor=4)"
    node = parsed(text, "image condition", advice)
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise UsageError(f"image condition {quoted(text)}: {advice}")
    kind = lookup("degradation", node.func.id)
    known = [f.name for f in fields(kind)]
    settings: dict[str, Any] = {}
    for key, given in keywords(node, node.func.id, "image condition", text).items():
        value = number(given)
        if key not in known or value is None or not math.isfinite(value):
            raise UsageError(f"image condition {quoted(text)}: {node.func.id} takes numbers for {', '.join(known)}")
        settings[key] = value
    made: Degradation = kind(**settings)
    return made


def _masked(x0: Tensor, known: Tensor) -> Tensor:
    return torch.cat([x0 * known, known.expand(len(x0), -1, -1, -1)], dim=1)


def _channels(image: Tensor, wanted: int, path: str) -> Tensor:
    """Grey as colour where that is wanted."""
    if image.shape[1] == wanted:
        return image
    if image.shape[1] == 1:
        return image.expand(-1, wanted, -1, -1)
    raise UsageError(f"image condition {path}: expected a grey image for this model, got a coloured one")


def _text(name: str, of: Any) -> str:
    changed = {f.name: getattr(of, f.name) for f in fields(of) if getattr(of, f.name) != f.default}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in changed.items())})" if changed else name
