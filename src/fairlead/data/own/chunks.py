"""The chunks of a set that is being prepared: where each goes, and decoding one to its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.decode import ANOTHER_SIZE, BrokenImageError, decoded_image, in_colour
from fairlead.data.own.fitting import Fit, size_text
from fairlead.data.own.rows import Encoded, ImageRows
from fairlead.data.own.store import Broken, Shape

AT_ONCE = 16
"""Encoded images that a thread holds."""


@dataclass(frozen=True)
class Layout:
    """Where each row goes.

    Attributes:
        shape: (c, h, w) of each image.
        sizes: int64 [n, 2], of fit "random"; None for the others.
        rows: of a chunk.
    """

    shape: Shape
    sizes: Tensor | None
    rows: int


@dataclass(frozen=True)
class Chunk:
    """What came of a chunk: the hash of its bytes, images in colour, what is broken."""

    digest: str
    coloured: int
    broken: tuple[Broken, ...]


class InColourError(Exception):
    """An image in colour among those that were taken for grey."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of ``rows`` under a plan.

    Attributes:
        size: (height, width) that images are brought to as ``fit`` says; None: they have it.
        pixels, wide: the files that they are written to.
        what: the data set, for messages.
    """

    rows: ImageRows
    plan: Layout
    size: tuple[int, int] | None
    fit: Fit
    pixels: Path
    wide: Path
    what: str

    @property
    def number(self) -> int:
        """How many there are."""
        return -(-len(self.rows) // self.plan.rows)

    def spans(self, number: int) -> list[tuple[Path, int, int]]:
        """(file, first byte, number of bytes) of a chunk in each file."""
        first = number * self.plan.rows
        count = min(self.plan.rows, len(self.rows) - first)
        each = int(np.prod(self.plan.shape))
        spans = [(self.pixels, first * each, count * each)]
        if self.plan.sizes is not None:
            bytes_each = self.plan.sizes.prod(dim=1) * self.plan.shape[0]
            spans.append((self.wide, int(bytes_each[:first].sum()), int(bytes_each[first : first + count].sum())))
        return spans

    def digest(self, number: int) -> str:
        digest = hashlib.sha256()
        for path, start, length in self.spans(number):
            try:
                with open(path, "rb") as handle:
                    handle.seek(start)
                    digest.update(handle.read(length))
            except OSError:
                return ""
        return digest.hexdigest()

    def count(self, number: int) -> int:
        return min(self.plan.rows, len(self.rows) - number * self.plan.rows)

    def write(self, number: int, files: Sequence[int]) -> Chunk:
        """Decode a chunk and write it to its place."""
        channels, height, width = self.plan.shape
        first = number * self.plan.rows
        images = np.zeros((self.count(number), *self.plan.shape), np.uint8)
        wide: list[bytes] = []
        broken: list[Broken] = []
        for start in range(0, len(images), AT_ONCE):
            stop = min(start + AT_ONCE, len(images))
            for i, (name, source) in enumerate(self.rows.read(first + start, first + stop), start):
                room = (height, width) if self.plan.sizes is None else tuple(self.plan.sizes[first + i].tolist())
                try:
                    array = decoded_row(name, source, self.size, self.fit, self.what)
                    if array.shape[:2] != room:
                        self._other_size(name, array, room)
                except BrokenImageError as error:
                    broken.append(Broken(first + i, name, str(error)))
                    array = np.zeros(room, np.uint8)
                if array.ndim == 3 and channels == 1:
                    raise InColourError
                planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
                top, left = (room[0] - height) // 2, (room[1] - width) // 2
                images[i] = planes[:, top : top + height, left : left + width]
                if self.plan.sizes is not None:
                    wide.append(np.broadcast_to(planes, (channels, *room)).tobytes())
        parts = [images.tobytes(), *([b"".join(wide)] if self.plan.sizes is not None else [])]
        digest = hashlib.sha256()
        for file, part, (_, at, _) in zip(files, parts, self.spans(number), strict=True):
            digest.update(part)
            while part:
                written = os.pwrite(file, part, at)
                part, at = part[written:], at + written
        return Chunk(digest.hexdigest(), int(in_colour(torch.from_numpy(images)).sum()), tuple(broken))

    def _other_size(self, name: str, array: NDArray[np.uint8], room: tuple[int, ...]) -> None:
        if self.size is not None:  # its head says another size than its pixels have
            raise BrokenImageError(f"its head says that it has {size_text(room)} pixels after resizing")
        first = next(name for name, _ in self.rows.read(0, 1))
        raise UsageError(
            f"data {self.what!r}: images differ in size ({first} is {size_text(room)}, {name} is "
            f"{size_text(array.shape[:2])}, height x width); {ANOTHER_SIZE}"
        )


def decoded_row(name: str, source: Encoded, size: tuple[int, int] | None, fit: Fit, what: str) -> NDArray[np.uint8]:
    """As :func:`fairlead.data.decode.decoded_image`, its refusals with the name of the image."""
    try:
        return decoded_image(source, size, fit)
    except UsageError as error:
        raise UsageError(f"data {what!r}: {name} {error}") from None
