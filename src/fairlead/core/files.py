"""Files that are written whole or not at all. Every file of the package is written through here.

What costs minutes or decides what comes next (checkpoints, measured results, answers) is on the disk before it takes
its name, so that it survives a loss of power. Pictures, pages, tables made of stored results and caches are not waited
for (``durable=False``): one command makes them again, and a run has hundreds of pictures. A reader sees all of a file
or none of it either way. Modes of files follow the umask, also where a library makes its own private.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 64
"""Characters of a name that are repeated in that of its temporary file: the whole must fit into 255 bytes."""
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Some network file systems know no fsync of a folder."""


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the same folder; when the block ends well it takes the place of ``path``, at once.

    Args:
        durable: whether its bytes and its name are on the disk when the block is left.

    Raises:
        OSError: as the block or the file system does; ``path`` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, mode = _created(path.parent, path.name)
    try:
        yield partial
        partial.chmod(mode)
        if durable:
            synced(partial)
        os.replace(partial, path)
        if durable:
            synced(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Give every file below ``folder`` the mode that the umask says, and wait until all of it is on the disk. The
    folder can then be renamed to its final name; ``synced`` its parent after that.

    Raises:
        OSError: as the file system does.
    """
    probe, mode = _created(folder, "mode")
    probe.unlink()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
            synced(path)
        elif path.is_dir():
            synced(path)
    synced(folder)


def synced(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: as the file system does.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in _CANNOT_SYNC):
            raise
    finally:
        os.close(handle)


def _created(folder: Path, name: str) -> tuple[Path, int]:
    """A new empty file in ``folder`` and the mode that the system gave it."""
    path = folder / f".{name[:_LONGEST]}.{secrets.token_hex(6)}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return path, stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
