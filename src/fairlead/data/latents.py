"""Latents of a data set: encoded once, kept on disk, drawn anew in every batch.

Latents of a mirrored image are not the mirrored latents, so a set that is mirrored in training is encoded both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.core.places import place_of
from fairlead.core.registry import lookup
from fairlead.core.typed import Size
from fairlead.data.batches import Batches
from fairlead.data.images import ImageData, pixel_hash, stream
from fairlead.data.tensor_cache import cached


class LatentsConfig(TypedDict):
    """What a checkpoint records of the latents it is trained on, see :meth:`LatentCodec.config`."""

    source: str
    hash: str
    scale: float
    shift: float
    shape: list[Size]


class LatentCodec(Protocol):
    """An autoencoder as a diffusion model of its latents needs it; see ``diffusers.autoencoder.Autoencoder``."""

    @property
    def source(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def shift(self) -> float: ...

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]: ...
    def config(self, image: tuple[int, ...]) -> dict[str, Any]: ...
    def to(self, device: str | torch.device) -> LatentCodec: ...
    def moments(self, images: Tensor, progress: Callable[[int], object] | None = None) -> Tensor: ...
    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, x0: Tensor) -> Tensor: ...
    def scaled(self, scale: float, shift: float, source: str) -> LatentCodec: ...


def codec_from_config(config: Mapping[str, Any], owner: str, near: Path | None = None) -> LatentCodec:
    """The autoencoder that a checkpoint was trained on, with the scale that was recorded there.

    Args:
        config: from :meth:`LatentCodec.config`.
        owner: who needs it, for messages.
        near: a source that is not there is looked for in the folders above this one, see ``place_of``.

    Raises:
        UsageError: if it is not there, or has other weights than in training.
    """
    source, was = str(config["source"]), config["hash"]
    found = source if near is None else place_of(source, near)
    try:
        codec: LatentCodec = lookup("loader", "autoencoder")(found)
    except UsageError as error:
        raise UsageError(f"{owner} was trained on latents of an autoencoder with weights {was}; {error}") from error
    if codec.hash != was:
        raise UsageError(
            f"{owner} was trained on latents of autoencoder {source!r} with weights {was}, those of {found!r} are now "
            f"{codec.hash}; give back the autoencoder of the training"
        )
    return codec.scaled(float(config["scale"]), float(config["shift"]), found)


@dataclass(frozen=True, eq=False)
class Latents:
    """Posteriors N(mean, std^2) of the latents z of every image of a set.

    Attributes:
        moments: float32 [n, 2 c, h, w], the means and, behind them, the log-variances.
        mirrored: the same of the mirrored images, None if the set is not mirrored in training.
        scale, shift: a diffusion model sees (z - shift) * scale.
    """

    moments: Tensor
    mirrored: Tensor | None
    scale: float
    shift: float = 0.0

    __repr__ = brief

    @classmethod
    def of(
        cls,
        autoencoder: LatentCodec,
        data: ImageData,
        progress: Callable[[int], object] | None = None,
        folder: Path | None = None,
    ) -> Latents:
        """From the cache where they are there; of images that are larger than the size of the set, of their centres.

        Args:
            progress: called with numbers of images as they are encoded.
            folder: of the cache, see :func:`fairlead.data.tensor_cache.cached`.

        Raises:
            UsageError: for images that the autoencoder cannot encode.
        """
        channels, *size = autoencoder.latent_shape(data.shape)
        shape = (len(data), 2 * channels, *size)
        contents = pixel_hash(data.images)

        def encoded(mirror: bool) -> Tensor:
            def make() -> Tensor:
                return autoencoder.moments(data.images.flip(-1) if mirror else data.images, progress)

            described = [list(data.images.shape), contents, autoencoder.hash, mirror]
            return cached("latents", described, shape, torch.float32, make, folder)

        return cls(encoded(False), encoded(True) if data.flip else None, autoencoder.scale, autoencoder.shift)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one sample."""
        _, moments, h, w = self.moments.shape
        return moments // 2, h, w

    def std(self) -> float:
        """Standard deviation of all values of z over the set, the posteriors' own variance included, about their common
        mean (2112.10752, appendix G)."""
        count, total, squares = 0, 0.0, 0.0
        for moments in (self.moments, self.mirrored):
            for part in () if moments is None else torch.split(moments, 1024):
                mean, log_variance = part.double().chunk(2, dim=1)
                count += mean.numel()
                total += float(mean.sum())
                squares += float((mean**2 + log_variance.exp()).sum())
        return float((squares / count - (total / count) ** 2) ** 0.5)

    def at(self, index: Tensor, mirror: Tensor | None, noise: Tensor) -> Tensor:
        """Scaled draws float32 [b, c, h, w] of the samples at ``index`` (int64 [b]).

        Args:
            mirror: bool [b], which of them are mirrored; None: none.
            noise: unit normal [b, c, h, w].
        """
        moments = self.moments[index]
        if mirror is not None and self.mirrored is not None:
            moments = torch.where(mirror[:, None, None, None], self.mirrored[index], moments)
        mean, log_variance = moments.chunk(2, dim=1)
        return (mean + (0.5 * log_variance).exp() * noise - self.shift) * self.scale


class LatentBatches:
    """:class:`Batches` of latents: the same samples in the same order, mirrored alike; the draw from each posterior is
    a pure function of (seed, step) too."""

    def __init__(self, batches: Batches, latents: Latents) -> None:
        self.images, self.latents = batches, latents

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.latents.shape

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """x0 float32 [b, c, h, w], scaled latents, and labels int64 [b]; as :meth:`Batches.batch`."""
        index = self.index(step, rank, world)
        mine = slice(rank * len(index), (rank + 1) * len(index))
        generator = stream("latents", self.images.seed, step)
        noise = torch.randn((self.images.batch_size, *self.shape), generator=generator)[mine]
        return self.latents.at(index, self.images.flips(step, rank, world), noise), self.images.data.labels[index]

    def index(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        return self.images.index(step, rank, world)
