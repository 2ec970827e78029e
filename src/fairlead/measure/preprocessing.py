"""What pretrained image networks see: their preprocessing, read from ``preprocessor_config.json`` and done here,
without torchvision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import UsageError

SETTINGS = "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that torch has too."""


@dataclass(frozen=True)
class Preparation:
    """From uint8 images to what a network sees: resize, crop the centre, divide, normalise.

    Attributes:
        shortest: size of the shorter side after resizing; None to use ``size``.
        size: (height, width) after resizing; None to use ``shortest``; both None: as it is.
        crop: (height, width) of the centre that is kept; None for all.
        mean, std: per channel, of values times ``factor``.
        factor: usually 1/255.
        mode: "bicubic" or "bilinear", see :func:`resized`.
    """

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float
    mode: str

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, 3, H, W] of ``images`` uint8 [n, 3, h, w]."""
        return self._seen(images, resized)

    def unrounded(self, images: Tensor) -> Tensor:
        """The same of float ``images`` [n, 3, h, w] in [-1, 1], differentiable: nothing is rounded to whole levels."""
        return self._seen((images.float() + 1) * 127.5, _interpolated)

    def _seen(self, images: Tensor, resize: Callable[[Tensor, tuple[int, int], str], Tensor]) -> Tensor:
        height, width = images.shape[2:]
        target = self.size or (height, width)
        if self.shortest is not None:
            short = min(height, width)
            target = (int(self.shortest * height / short), int(self.shortest * width / short))
        x = resize(images, target, self.mode)
        if self.crop is not None:
            top, left = ((whole - part) // 2 for whole, part in zip(target, self.crop, strict=True))
            if top < 0 or left < 0:
                raise UsageError(
                    f"{SETTINGS}: cannot crop {self.crop} from images of {target}; use a whole model folder"
                )
            x = x[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x * self.factor - mean) / std

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def resized(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, c, *size] of whole numbers in [0, 255], antialiased.

    As PIL does it: across, then down, each rounded to whole levels, halves up. (One pass differs by up to 3 levels.)
    """
    x = images.to(torch.float32)
    for step in ((x.shape[2], size[1]), size):
        if step != tuple(x.shape[2:]):
            x = F.interpolate(x, step, mode=mode, antialias=True).add(0.5).floor().clamp(0, 255)
    return x


def _interpolated(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Float images [n, c, h, w] as [n, c, *size], antialiased."""
    return images if tuple(images.shape[2:]) == size else F.interpolate(images, size, mode=mode, antialias=True)


def prepared(settings: Mapping[str, Any], what: str) -> Preparation:
    """The preparation that a ``preprocessor_config.json`` describes.

    Raises:
        UsageError: for a filter or a size that is not known here.
    """
    mode = FILTERS.get(settings.get("resample", 3))
    if mode is None:
        raise UsageError(f"{what}: {SETTINGS} asks for PIL filter {settings['resample']}; expected 2 or 3")
    shortest, size = None, None
    if settings.get("do_resize", True):
        shortest, size = _side(settings.get("size", {}), what)
        if shortest is None and size is None:
            raise UsageError(
                f"{what}: {SETTINGS} resizes to {settings.get('size')!r}; expected shortest_edge, or height and width"
            )
    crop = None
    if settings.get("do_center_crop", False):
        edge, crop = _side(settings.get("crop_size", {}), what)
        crop = crop if edge is None else (edge, edge)
    normal = settings.get("do_normalize", True)
    return Preparation(
        shortest,
        size,
        crop,
        tuple(settings["image_mean"]) if normal else (0.0,),
        tuple(settings["image_std"]) if normal else (1.0,),
        float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
        mode,
    )


def _side(size: Any, what: str) -> tuple[int | None, tuple[int, int] | None]:
    """(shorter side, None) or (None, (height, width)); an int is the shorter side, as in older files."""
    if isinstance(size, int):
        return size, None
    if isinstance(size, Mapping) and size.get("shortest_edge"):
        return int(size["shortest_edge"]), None
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return None, (int(size["height"]), int(size["width"]))
    return None, None
