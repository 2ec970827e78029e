"""Rewards of how an image looks: its brightness, its colour, its likeness to another image.

    energy(brightness(0.8), 2)    energy(color("red"))    energy(match("cat.png", [0, 0, 0.5, 1]))

Each reward is - distance^2 / 2 from the image to the nearest image with the wanted property, in units where images are
in [-1, 1]: log N(x0; nearest, 1). Scale s of ``energy`` corresponds to a standard deviation of 1 / sqrt(s) per pixel,
and the gradient is the vector to the nearest image. These rewards get decoded images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.arguments import plain, plain_list, shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.moment import Context, Resource
from fairlead.guide.notation import is_number
from fairlead.guide.rewards.reward import Fn, Reward


@dataclass(frozen=True)
class Brightness(Reward):
    """``brightness(0.8)``: the mean over all pixels and channels, 0 black, 1 white."""

    target: float
    name: ClassVar[str] = "brightness"

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _share(self.name, "target", self.target))

    def of(self, on: Context) -> Fn:
        def score(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            pixels = x0.flatten(1)
            return -0.5 * pixels.shape[1] * (pixels.mean(1) - (2 * self.target - 1)) ** 2

        return score


@dataclass(frozen=True)
class Color(Reward):
    """``color("red")`` (any CSS name or "#ff8800") or ``color(1, 0.5, 0)``: the mean of each channel of an RGB image,
    0 to 1."""

    red: str | float
    green: float | None = None
    blue: float | None = None
    name: ClassVar[str] = "color"

    def __post_init__(self) -> None:
        if isinstance(self.red, str):
            if self.green is not None or self.blue is not None:
                given = ", ".join(map(shown, (self.red, self.green, self.blue)))
                raise UsageError(f"color: expected a name alone or three numbers, got {given}")
            try:
                ImageColor.getrgb(self.red)
            except ValueError as error:
                raise UsageError(f'color: unknown colour {self.red!r}; write "red", "#ff8800" or 1, 0.5, 0') from error
        else:
            for channel in ("red", "green", "blue"):
                object.__setattr__(self, channel, _share(self.name, channel, getattr(self, channel)))

    @property
    def rgb(self) -> tuple[float, ...]:
        """In [0, 1]."""
        if isinstance(self.red, str):
            return tuple(value / 255 for value in ImageColor.getrgb(self.red)[:3])
        assert self.green is not None
        assert self.blue is not None
        return self.red, self.green, self.blue

    def of(self, on: Context) -> Fn:
        def score(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            if x0.ndim != 4 or x0.shape[1] != 3:
                raise UsageError(f"{self} needs RGB images, this model's are {list(x0.shape[1:])}; try brightness(...)")
            wanted = torch.tensor(self.rgb, dtype=x0.dtype, device=x0.device) * 2 - 1
            return -0.5 * x0[0, 0].numel() * ((x0.mean((2, 3)) - wanted) ** 2).sum(1)

        return score

    def check(self, on: Context) -> None:
        super().check(on)
        if on.model.image_shape and on.model.image_shape[0] == 1:
            raise UsageError(
                f"{self} needs RGB images, this model's are {list(on.model.image_shape)}; try brightness(...)"
            )


@dataclass(frozen=True)
class Match(Reward):
    """``match("cat.png", [top, left, bottom, right])``: equal to an image inside a box.

    Attributes:
        image: a file, or a name under which ``resources=`` gives a tensor [c, h, w] in [-1, 1]. It is scaled and cut to
            the samples' size; colour becomes grey for grey samples.
        box: in fractions of height and width, from the top and the left; default everything.
    """

    image: str
    box: Sequence[float] = (0.0, 0.0, 1.0, 1.0)
    name: ClassVar[str] = "match"

    def __post_init__(self) -> None:
        if not isinstance(self.image, str):
            raise UsageError(
                f"match: expected the path of an image, got {type(self.image).__name__}; to use a tensor, pass it in "
                "resources= under a name of your own"
            )
        box = plain_list(self.box)
        if not isinstance(box, list | tuple) or len(box) != 4:
            raise UsageError(f"match: expected box [top, left, bottom, right] in fractions of the image, got {box!r}")
        top, left, bottom, right = (_share(self.name, "box", edge) for edge in box)
        if not (left < right and top < bottom):
            raise UsageError(f"match: expected box [top, left, bottom, right] that is not empty, got {list(box)}")
        object.__setattr__(self, "box", (top, left, bottom, right))

    def of(self, on: Context) -> Fn:
        image = on.resource(self.image)

        def score(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            h, w = x0.shape[2:]
            top, left, bottom, right = self.box
            rows = slice(round(top * h), max(round(bottom * h), round(top * h) + 1))
            columns = slice(round(left * w), max(round(right * w), round(left * w) + 1))
            difference = x0 - fit_image(image, x0)
            return -0.5 * (difference[..., rows, columns] ** 2).flatten(1).sum(1)

        return score

    def check(self, on: Context) -> None:
        super().check(on)
        image = on.resource(self.image)
        if not isinstance(image, Tensor) or image.ndim != 3 or len(image) not in (1, 3):
            given = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise UsageError(f"{self}: expected an image as a tensor [1 or 3, h, w] in [-1, 1], got {given}")

    def resources(self) -> tuple[Resource, ...]:
        return (Resource("image", self.image),)


def fit_image(image: Tensor, x0: Tensor) -> Tensor:
    """An image [c, h, w] with the channels and the size of x0 [n, c, h, w]: scaled to cover it, its centre cut out."""
    image, (channels, height, width) = image.to(x0), x0.shape[1:]
    if len(image) == 3 and channels == 1:
        image = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    factor = max(height / image.shape[1], width / image.shape[2])
    size = (max(height, round(factor * image.shape[1])), max(width, round(factor * image.shape[2])))
    if size != tuple(image.shape[1:]):
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[:, top : top + height, left : left + width].expand(channels, -1, -1)


def _share(owner: str, argument: str, value: Any) -> float:
    value = plain(value)
    if not is_number(value) or not 0 <= value <= 1:
        raise UsageError(f"{owner}: expected {argument} to be a number from 0 to 1, got {value!r}")
    return float(value)
