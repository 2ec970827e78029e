"""The stream of training batches of a set."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, stream, to_float


class Batches:
    """An endless, random-access source of training batches: batch ``step`` is a pure function of (seed, step).

    The permutations of epochs 0, 1, 2, ... form one stream that is cut into batches, so every sample comes once per
    epoch, a batch may straddle two epochs, and ``batch_size`` may exceed the data set. If ``data.flip``, half of the
    images are mirrored; where it has ``crops``, another part of an image is seen at every visit. Resuming at a step
    needs no state.

    Args:
        batch_size: of the global batch, whatever the number of processes.
    """

    def __init__(self, data: ImageData, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size: expected at least 1, got {batch_size}")
        if len(data) == 0:
            raise UsageError(f"data {data.name!r}, split {data.split!r}, has no images to train on")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self._cached: tuple[int, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one sample."""
        return self.data.shape

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """The contiguous share of process ``rank`` of ``world`` of the global batch ``step`` >= 0.

        Returns:
            x float32 [b, c, h, w] in [-1, 1] and labels int64 [b], with b = batch_size / world.

        Raises:
            UsageError: if ``world`` does not divide the batch size, or ``rank`` or ``step`` is out of range.
        """
        index = self.index(step, rank, world)
        labels, crops = self.data.labels[index], self.data.crops
        if crops is None:
            images = self.data.images[index]
        else:
            draws = torch.rand(self.batch_size, 2, generator=stream("crop", self.seed, step))
            images = crops.at(index, draws[rank * len(index) : (rank + 1) * len(index)])
        flips = self.flips(step, rank, world)
        if flips is not None:
            images = torch.where(flips.reshape(-1, 1, 1, 1), images.flip(-1), images)
        return to_float(images), labels

    def flips(self, step: int, rank: int = 0, world: int = 1) -> Tensor | None:
        """bool [b], which samples of :meth:`batch` of the same arguments are mirrored; None if the data never is."""
        if not self.data.flip:
            return None
        # drawn for the global batch: a sample's flip does not depend on the process it lands on
        flips = torch.rand(self.batch_size, generator=stream("flip", self.seed, step)) < 0.5
        share = self.batch_size // world
        return flips[rank * share : (rank + 1) * share]

    def index(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """int64 [b], which samples of the data :meth:`batch` of the same arguments holds, in its order: for their
        captions and attributes.

        Raises:
            UsageError: as :meth:`batch`.
        """
        if world < 1 or self.batch_size % world:
            raise UsageError(
                f"batch size {self.batch_size} is not divisible by {world} processes; use a multiple of {world}"
            )
        if not 0 <= rank < world:
            raise UsageError(f"rank: expected 0 to {world - 1}, got {rank}")
        if step < 0:
            raise UsageError(f"step: expected 0 or more, got {step}")
        share = self.batch_size // world
        return self._stream_slice(step * self.batch_size + rank * share, share)

    def _stream_slice(self, start: int, count: int) -> Tensor:
        """Sample indices at positions start .. start + count - 1 of the concatenated permutations."""
        n = len(self.data)
        parts = []
        while count > 0:
            epoch, offset = divmod(start, n)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        cached = self._cached
        if cached is None or cached[0] != epoch:
            order = torch.randperm(len(self.data), generator=stream("shuffle", self.seed, epoch))
            cached = self._cached = epoch, order
        return cached[1]


class RecordedBatches:
    """:class:`Batches` of what was recorded of each sample, in the same order.

    Args:
        values: [n, ..., c, h, w], one for each sample of the data.
    """

    def __init__(self, batches: Batches, values: Tensor) -> None:
        self.images, self.values = batches, values

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of one sample."""
        return tuple(self.values.shape[-3:])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """The values [b, ...] and labels int64 [b]; as :meth:`Batches.batch`."""
        index = self.index(step, rank, world)
        return self.values[index], self.images.data.labels[index]

    def index(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        return self.images.index(step, rank, world)
