"""Decoded images in one file that is mapped into memory: read at random by row, by any number of processes.

FAIRLEAD_CACHE/images-QUESTION/   one folder for each thing that was asked for: a folder, a split, a size, ...
    index.json                    what is in it: of which files, which rows, what was left out
    KEY.pixels                    uint8 [n, c, h, w]
    KEY.wide, KEY.sizes           of fit "random": the images before they were cropped, their heights and widths
    KEY.pixels.part, KEY.journal  while they are prepared, see `preparation`
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.files import replacing
from fairlead.core.strict_json import read_json

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Broken:
    """An image that could not be decoded: its row, its name, and why."""

    row: int
    name: str
    reason: str

    def __str__(self) -> str:
        """Its name, and the beginning of the reason."""
        return f"{self.name} ({shorten(self.reason, 60, placeholder=' ...')})"


@dataclass(frozen=True, eq=False)
class Crops:
    """Images that are larger than the size of a set: at every visit another part of each is seen.

    Attributes:
        pixels: uint8, all bytes of all images, [c, h, w] each.
        starts: int64 [n], where each begins.
        sizes: int64 [n, 2], height and width of each.
        shape: (c, h, w) of a part.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor
    shape: Shape

    def whole(self, i: int) -> Tensor:
        """uint8 [c, h, w]"""
        start, (height, width) = int(self.starts[i]), self.sizes[i].tolist()
        channels = self.shape[0]
        return self.pixels[start : start + channels * height * width].reshape(channels, height, width)

    def at(self, index: Tensor, draws: Tensor) -> Tensor:
        """uint8 [b, c, h, w]: a part of each image at ``index`` (int64 [b]), placed by ``draws`` [b, 2] in [0, 1)."""
        _, height, width = self.shape
        room = self.sizes[index] - torch.tensor([height, width])
        corners = torch.minimum((draws.double() * (room + 1)).long(), room).tolist()
        parts = [
            self.whole(i)[:, top : top + height, left : left + width]
            for i, (top, left) in zip(index.tolist(), corners, strict=True)
        ]
        return torch.stack(parts)

    def subset(self, index: Tensor | slice) -> Crops:
        return Crops(self.pixels, self.starts[index], self.sizes[index], self.shape)


@dataclass(frozen=True, eq=False)
class Stored:
    """Decoded images.

    Attributes:
        images: uint8 [n, c, h, w], mapped: pages that nobody reads take no memory.
        crops: the images of which these are the centres, for fit "random".
        kept: int64 [n], the row of each.
        coloured: how many have a pixel whose channels differ.
        broken: what could not be decoded and is left out.
        folder: where they are, and ``key``, under which name.
    """

    images: Tensor
    crops: Crops | None
    kept: Tensor
    coloured: int
    broken: tuple[Broken, ...]
    folder: Path
    key: str

    def fingerprint(self, of: str) -> str | None:
        """What :meth:`remember` was given for a set of these images that is described by the text ``of``."""
        try:
            text = self._noted(of).read_text()
        except (OSError, UnicodeError):
            return None
        return text if len(text) == _DIGITS and not set(text) - set("0123456789abcdef") else None

    def remember(self, of: str, fingerprint: str) -> None:
        """Hashing gigabytes takes seconds, and the second start costs nothing."""
        with suppress(OSError), replacing(self._noted(of), durable=False) as partial:
            partial.write_text(fingerprint)

    def _noted(self, of: str) -> Path:
        name = hashlib.sha256(f"{self.key} {of}".encode()).hexdigest()
        return self.folder / f"{name[:_DIGITS]}.fingerprint"


_DIGITS = 16


def open_store(folder: Path, key: str, kept: int) -> Stored | None:
    """The images that are prepared in ``folder``; None if they are not those of ``key``, or not whole."""
    try:
        index = read_json(folder / "index.json")
        if not isinstance(index, dict) or index["key"] != key or index["stamp"] != stamp(folder, key):
            return None
        shape = tuple(int(side) for side in index["shape"])
        broken = tuple(Broken(int(row), str(name), str(reason)) for row, name, reason in index["broken"])
        n, channels, height, width = shape
        if n + len(broken) != kept:
            return None
        images = mapped(folder / f"{key}.pixels", shape)
        crops = None
        if index["random"]:
            sizes = torch.from_numpy(np.load(folder / f"{key}.sizes"))
            crops = crops_of(folder / f"{key}.wide", sizes, (channels, height, width))
        lost = {each.row for each in broken}
        rows = torch.tensor([row for row in range(kept) if row not in lost], dtype=torch.int64)
        return Stored(images, crops, rows, int(index["coloured"]), broken, folder, key)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def crops_of(path: Path, sizes: Tensor, shape: Shape) -> Crops:
    bytes_each = sizes.prod(dim=1) * shape[0]
    starts = bytes_each.cumsum(0) - bytes_each
    return Crops(mapped(path, (int(bytes_each.sum()),)), starts, sizes, shape)


def mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """uint8 of a file, mapped: what is written to the tensor stays in this process.

    Raises:
        OSError, ValueError: if it is not there, or of another length.
    """
    array = np.memmap(path, np.uint8, mode="c", shape=shape)
    if path.stat().st_size != array.size:
        raise ValueError(f"{path}: another length")
    return torch.from_numpy(array)


def stamp(folder: Path, key: str) -> list[Any]:
    """By which a file of pixels is known that was changed or copied after it was prepared."""
    about = (folder / f"{key}.pixels").stat()
    return [about.st_size, about.st_mtime_ns]


def publish(folder: Path, key: str, index: dict[str, Any]) -> None:
    """Make what is prepared under ``key`` the contents of ``folder``, and remove what was there before."""
    with replacing(folder / "index.json") as partial:
        partial.write_text(json.dumps({"key": key, "stamp": stamp(folder, key), **index}))
    for path in folder.iterdir():
        if path.suffix in (".pixels", ".wide", ".sizes", ".part", ".journal", ".fingerprint") and path.stem[:16] != key:
            with suppress(OSError):
                path.unlink()


def only(path: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Keep only the spans (first byte, bytes) of a file, in their order, in a new file under its name."""
    shorter = path.with_suffix(".kept.part")
    with open(path, "rb") as whole, open(shorter, "wb") as kept:
        for start, length in spans:
            whole.seek(start)
            kept.write(whole.read(length))
        kept.flush()
        os.fsync(kept.fileno())
    os.replace(shorter, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process prepares a folder; the others wait, and find it done. The lock ends with its process."""
    try:
        import fcntl
    except ImportError:  # on Windows two may prepare at once, each for itself
        yield
        return
    with open(folder / "lock", "w") as handle:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
