"""One array of a .npz of numpy, mapped: as it lies in the file where it is stored, of what is compressed a copy."""

from __future__ import annotations

import struct
import tempfile
import threading
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fairlead.core.errors import UsageError
from fairlead.data.tensor_cache import cache_folder

BROKEN = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What a file that is no .npz, or a damaged one, makes numpy and zipfile raise."""
_HEAD = 30
"""Bytes of a member's head before its name."""
_PIECE = 2**20


@dataclass(frozen=True, eq=False)
class Member:
    """An array that is not read yet.

    Attributes:
        path: of the file.
        name: of the array in it.
        shape, dtype: as its head says.
        fortran: whether the first index runs fastest.
        what: the array, for messages.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    what: str
    _found: list[NDArray[Any]] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, path: Path, stored: zipfile.ZipFile, name: str, what: str) -> Member:
        """By its head.

        Raises:
            Exception: one of ``BROKEN``.
        """
        with stored.open(f"{name}.npy") as file:
            shape, fortran, dtype = _head(file)
        return cls(path, name, shape, dtype, fortran, what)

    def mapped(self) -> NDArray[Any]:
        """Read-only. What is compressed is unpacked once, in pieces, into a file without a name, gone with the process;
        it takes no memory either.

        Raises:
            UsageError: if it cannot be read, or not be unpacked for want of room.
        """
        with self._lock:
            if not self._found:
                try:
                    self._found.append(self._mapped())
                except BROKEN as error:
                    reason = " ".join(str(error).split())[:200]
                    raise UsageError(
                        f"{self.what} cannot be read ({reason}); what is compressed needs room in FAIRLEAD_CACHE"
                    ) from error
            return self._found[0]

    def _mapped(self) -> NDArray[Any]:
        order: Any = "F" if self.fortran else "C"
        with zipfile.ZipFile(self.path) as stored:
            info = stored.getinfo(f"{self.name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                with open(self.path, "rb") as file:
                    file.seek(info.header_offset)
                    name, extra = struct.unpack("<HH", file.read(_HEAD)[26:])
                    file.seek(info.header_offset + _HEAD + name + extra)
                    _head(file)
                    return np.memmap(file, self.dtype, mode="r", offset=file.tell(), shape=self.shape, order=order)
            with stored.open(info) as packed, tempfile.TemporaryFile(dir=cache_folder()) as file:
                _head(packed)
                while piece := packed.read(_PIECE):
                    file.write(piece)
                file.flush()
                return np.memmap(file, self.dtype, mode="r", shape=self.shape, order=order)


def _head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether in Fortran order, type), after which the numbers begin."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which are never read")
    return shape, fortran, dtype
