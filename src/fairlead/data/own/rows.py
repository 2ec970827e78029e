"""Images that are still to be decoded, by number: files, rows of an Arrow table, arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.places import unreadable

Encoded = str | bytes | NDArray[np.uint8]
"""A path, the content of a file, or pixels [h, w] or [h, w, c]."""


class ImageRows(Protocol):
    """Images by number, readable from several threads at once."""

    def __len__(self) -> int: ...

    def contents(self) -> Any:
        """What, JSON-ready, is another thing when the images are others: sizes and times of files, not their bytes."""
        ...

    def read(self, start: int, stop: int) -> Sequence[tuple[str, Encoded]]:
        """(name for messages, image) of the rows start .. stop - 1."""
        ...


class FileRows:
    """Files, each an image."""

    def __init__(self, paths: Sequence[Path], folder: Path, what: str) -> None:
        self._paths, self._folder, self._what = paths, folder, what

    def __len__(self) -> int:
        return len(self._paths)

    def contents(self) -> Any:
        return [str(self._folder), stamps(self._paths, self._what)]

    def read(self, start: int, stop: int) -> Sequence[tuple[str, Encoded]]:
        return [(str(path), str(path)) for path in self._paths[start:stop]]


class ArrowRows:
    """ImageRows of a data set of `datasets`, as they are stored: twice as fast as decoding through that library.

    Args:
        sets: the whole split.
        column: of the images.
        index: int64 [n], the rows that are meant.
        row_name: of a row without its number, for messages.
        readable: folders whose files a row may name in place of holding an image itself.
    """

    def __init__(
        self, whole: Any, column: str, index: Tensor, row_name: str, what: str, readable: Sequence[Path]
    ) -> None:
        self._whole, self._column, self._numbers = whole, column, index.tolist()
        self._rows = whole.select_columns(column).with_format("arrow").select(self._numbers)
        self._row_name, self._what, self._readable = row_name, what, readable

    def __len__(self) -> int:
        return len(self._numbers)

    def contents(self) -> Any:
        files = [Path(file["filename"]) for file in self._whole.cache_files]
        # a set in memory has no file, and is identified by its contents alone
        return [stamps(files, self._what) or id(self._whole), self._column, self._numbers]

    def read(self, start: int, stop: int) -> Sequence[tuple[str, Encoded]]:
        """
        Raises:
            UsageError: for a row that names a file outside of the readable folders in place of its content.
        """
        images = self._rows[start:stop].column(self._column).to_pylist()
        return [self._one(number, image) for number, image in zip(self._numbers[start:stop], images, strict=True)]

    def _one(self, number: int, image: Any) -> tuple[str, Encoded]:
        path, content = (image["path"], image["bytes"]) if image is not None else (None, None)
        if content is not None or not path:
            # no content and no path: an empty file, which is reported as broken under the name of its row
            return f"{self._row_name} {number}" + (f" ({path})" if path else ""), content or b""
        if not any(Path(path).resolve().is_relative_to(folder) for folder in self._readable):
            raise UsageError(
                f"data {self._what!r}: {self._row_name} {number} has the path of a file instead of an image, "
                f"{path!r:.100}, "
                "and such files are never read; store their bytes, or name them in a metadata.jsonl beside them"
            )
        return path, str(path)


class ArrayRows:
    """ImageRows of an array.

    Args:
        pixels: opens it: [n, h, w] or [n, h, w, 3], uint8 or float -1 to 1, may be mapped.
        file: that they are from.
        index: int64 [n], the rows that are meant.
    """

    def __init__(self, pixels: Callable[[], NDArray[Any]], file: Path, key: str, index: Tensor) -> None:
        self._open, self._file, self._key, self._numbers = cache(pixels), file, key, index.tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    def contents(self) -> Any:
        return [stamps([self._file], str(self._file)), self._key, self._numbers]

    def read(self, start: int, stop: int) -> Sequence[tuple[str, Encoded]]:
        pixels = self._open()
        return [(f"{self._file.name}, {self._key} {i}", _bytes(pixels[i])) for i in self._numbers[start:stop]]


def _bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 0 to 255 of uint8 or float -1 to 1."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.round((pixels.astype(np.float32) + 1) * 127.5).astype(np.uint8)


def stamps(paths: Sequence[Path], what: str) -> list[list[Any]]:
    """[path, bytes, times of the last changes in ns] of each file: as good as its content for telling a change. The
    second time is that of its entry, which a copy of an older file over it changes too.

    Raises:
        UsageError: if a file is gone.
    """
    found: list[list[Any]] = []
    for path in paths:
        try:
            about = os.stat(path)
        except OSError as error:
            raise UsageError(f"data {what!r}: {unreadable(error, path)}") from error
        found.append([str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns])
    return found
