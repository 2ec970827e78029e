"""Where a run begins if not in noise alone: at images with noise (SDEdit, Meng et al. 2022, 2108.01073).

An image is noised to the time t = ``strength``, x_t = alpha x0 + sigma z with z the noise that a run from its seed
starts with, and sampled from there. Steps of the grid above that time are not taken.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.arguments import as_tensor, is_count, plain, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule
from fairlead.data.images import to_float
from fairlead.data.own.fitting import size_text
from fairlead.models.model import Model
from fairlead.sample.edit.given import images_of, mask_of
from fairlead.sample.edit.repaint import Replacing
from fairlead.sample.noise import NoiseStream
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Sampling

STRENGTH, RESAMPLE = 0.6, 4
"""Strength without a mask, and how often each step is taken with one, unless they are given."""
_AT_ONCE = 64
"""Images encoded together."""
_FAR = 2.0
"""Floating images beyond this are of another scale; what a model has made may leave [-1, 1] by less."""


@dataclass(frozen=True, eq=False)
class Start(ABC):
    """Where the n samples of a run begin.

    Attributes:
        x: what they begin with, [n, *shape] in the model's space, on its device.
        strength: the time that the run begins at, in (0, 1].
    """

    x: Tensor
    strength: float

    __repr__ = brief

    @property
    def n(self) -> int:
        return len(self.x)

    def of_n(self, n: int) -> Start:
        """The same for n samples, which all begin with the one there is if it is one."""
        return self if self.n == n else replace(self, x=self.x.expand(n, *self.x.shape[1:]))

    @abstractmethod
    def x_t(self, batch: slice, noise: NoiseStream, alpha: float, sigma: float) -> Tensor:
        """The state of the samples of ``batch`` at the first time of the grid."""

    def check(self, sampling: Sampling) -> None:  # noqa: B027 (most starts take any)
        """Raise UsageError where the run cannot be sampled so from here."""

    def sampler(self, inner: Sampler, batch: slice) -> Sampler:
        """What samples ``batch`` from there; ``inner`` is the run's sampler."""
        return inner

    def null(self, batch: slice) -> Condition | Sequence[Condition] | None:
        """What stands in the place of the null condition: one for the run, or one for each step."""
        return None

    def described(self) -> dict[str, Any]:
        """What decides the samples, JSON-ready."""
        return {"strength": self.strength, "images": _hash(self.x)}


@dataclass(frozen=True, eq=False)
class ImageStart(Start):
    """Images with noise, of which a part may be known.

    Attributes:
        anew: bool [n or 1, ...], broadcasts against ``x``: where it is made anew; None: everywhere.
        resample: see :class:`Replacing`.
    """

    anew: Tensor | None = None
    resample: int = 1

    def x_t(self, batch: slice, noise: NoiseStream, alpha: float, sigma: float) -> Tensor:
        x0 = self.x[batch]
        return alpha * x0 + sigma * noise.start().to(x0)

    def sampler(self, inner: Sampler, batch: slice) -> Sampler:
        if self.anew is None:
            return inner
        anew = self.anew[batch] if len(self.anew) > 1 else self.anew
        return Replacing(inner, self.x[batch], anew, self.resample)

    def described(self) -> dict[str, Any]:
        masked = {} if self.anew is None else {"mask": _hash(self.anew), "resample": self.resample}
        return {**super().described(), **masked}


def image_start(
    model: Model, start: Any, strength: float | None = None, mask: Any = None, resample: int | None = None
) -> ImageStart | None:
    """The start of a run from images, None if there are none; see ``fl.sample`` for the arguments.

    Raises:
        UsageError: for images or masks of another size, numbers that are not finite, a strength outside (0, 1], a
            mask that leaves nothing to do, and for what is given without images.
    """
    if start is None:
        for name, value in (("strength", strength), ("mask", mask), ("resample", resample)):
            if value is not None:
                raise UsageError(f"{name}: it is of images that a run starts from, and none were given; pass start=")
        return None
    if resample is not None and mask is None:
        raise UsageError(f"resample={shown(resample)}: it is how often steps are taken with a mask; pass mask= too")
    resample = RESAMPLE if resample is None else plain(resample)
    if not is_count(resample):
        raise UsageError(f"resample: expected how often each step is taken, an integer from 1, got {shown(resample)}")
    strength = as_strength((1.0 if mask is not None else STRENGTH) if strength is None else strength)
    images = images_of(start)
    anew = None if mask is None else _mask(model, mask_of(mask), len(images) if images.ndim else 0).to(model.device)
    x0 = in_space(model, checked_images(model, images))
    return ImageStart(x0, strength, anew, resample if anew is not None else 1)


def as_strength(strength: Any) -> float:
    """Raises UsageError for what is no time in (0, 1]."""
    strength = plain(strength)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise UsageError(
            f"strength: expected a number above 0 (the image stays) and at most 1 (from noise alone), got "
            f"{shown(strength)}"
        )
    return float(strength)


def times_from(times: Tensor, strength: float, schedule: NoiseSchedule) -> Tensor:
    """The part of a grid [steps + 1] at and below the time ``strength``, which is rounded to the schedule's table."""
    size = schedule.table_size
    first = strength if size is None else max(1, round(strength * size)) / size
    if first >= float(times[0]):
        return times
    return torch.cat([times.new_tensor([first]), times[times < first - 1e-9]])


def checked_images(model: Model, images: Tensor) -> Tensor:
    """Images as the model's are decoded, floating [n, *image_shape].

    Args:
        images: uint8 [n, c, h, w], or floating in [-1, 1]; grey ones are taken for coloured ones where the model's are;
            of a model whose samples are no images, samples [n, *shape].

    Raises:
        UsageError: for another size, or numbers that are not finite or outside of [-1, 1].
    """
    x, wanted = images, model.image_shape
    if x.ndim == 4 == len(wanted) + 1 and x.shape[1] == 1 and wanted[0] == 3:
        x = x.expand(-1, 3, -1, -1)
    if x.ndim != len(wanted) + 1 or tuple(x.shape[1:]) != wanted or not len(x):
        raise UsageError(
            f"start: expected images [n, {', '.join(map(str, wanted))}] of this model's size, got {list(x.shape)}; "
            "resize them"
        )
    if x.dtype == torch.uint8 and len(wanted) == 3:
        x = to_float(x)
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        raise UsageError(f"start: expected images as uint8, or finite floating numbers, got {_described(x)}")
    if len(wanted) == 3 and float(x.abs().max()) > _FAR:
        raise UsageError(f"start: expected floating images in [-1, 1], got {_described(x)}; or pass them as uint8")
    return x


def in_space(model: Model, images: Tensor) -> Tensor:
    """Images of :func:`checked_images` in the model's space, [n, *shape] on its device.

    Raises:
        UsageError: for a model that cannot encode images.
    """
    with torch.no_grad():
        x0 = torch.cat([model.to_space(part.to(model.device)) for part in torch.split(images, _AT_ONCE)])
    if tuple(x0.shape[1:]) != model.shape:
        raise UsageError(f"start: this model's images become {list(x0.shape[1:])}, its samples are {list(model.shape)}")
    return x0


def _described(x: Tensor) -> str:
    if not x.is_floating_point():
        return str(x.dtype)
    finite = x[x.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    return f"{int((~x.isfinite()).sum())} that are not finite, the others from {low:.4g} to {high:.4g}"


def _mask(model: Model, mask: Any, n: int) -> Tensor:
    """bool [n or 1, ...] that broadcasts against samples: a place of the model's space is made anew where any of its
    pixels is."""
    given, shape = as_tensor("mask", mask), model.image_shape
    pixels = shape[1:] if len(shape) == 3 else shape
    one = given.shape == pixels
    anew = given[None] if one else given.squeeze(1) if len(shape) == 3 and given.ndim == 4 else given
    if anew.shape[1:] != pixels or len(anew) not in (1, n):
        raise UsageError(
            f"mask: expected {size_text(pixels)} of this model's images, or that for each of {n}, got "
            f"{list(given.shape)}"
        )
    if anew.dtype != torch.bool:
        if not bool(((anew == 0) | (anew == 1)).all()):
            raise UsageError("mask: expected true or 1 where an image is sampled anew, false or 0 where it is kept")
        anew = anew == 1
    for each in anew:
        if bool(each.all()) or not bool(each.any()):
            what = "the whole image" if bool(each.all()) else "nothing"
            raise UsageError(f"mask: {what} is to be made anew; {'leave it out' if bool(each.all()) else 'mark some'}")
    if len(shape) == 3:
        anew = anew[:, None]
        if model.shape != shape:
            anew = F.adaptive_max_pool2d(anew.float(), model.shape[1:]) > 0
            if bool(anew.all()):
                raise UsageError("mask: it touches every place of the latents, so nothing would stay; make it smaller")
    return anew


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
