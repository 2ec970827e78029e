"""Places that a user names: looked at without surprises, and checked before the work whose results go there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.core.errors import LONGEST, UsageError, shortened

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_LONGEST_NAME = 255
"""Bytes of one name, on every file system in use."""
_PROBE = 4096
"""Bytes that a place must take to count as writable: one block."""


def home_expanded(path: str | Path) -> Path:
    """``path`` with ``~`` replaced by the home folder; as it is where nobody's home is meant or known."""
    return Path(os.path.expanduser(path))


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there, ``~`` expanded; False for what can be no path at all.

    Raises:
        UsageError: if that cannot be seen, for lack of permission or because the disk fails.
    """
    return stat.S_ISDIR(_mode(home_expanded(path)))


def is_file(path: str | Path) -> bool:
    """Whether a file is there, as :func:`is_there` sees it; no pipe, no device."""
    return stat.S_ISREG(_mode(Path(path)))


def is_there(path: str | Path) -> bool:
    """Whether anything is there, as :func:`is_folder` sees it; ``~`` is a name like any other."""
    return _mode(Path(path)) != 0


def unreadable(error: OSError, path: str | Path | None = None) -> str:
    """``cannot open '/root/x': permission denied``: what an error of the file system says, with its path."""
    name = error.filename if error.filename is not None else path
    reason = (error.strerror or str(error) or type(error).__name__).strip()
    reason = reason[:1].lower() + reason[1:]
    return reason if name is None else f"cannot open {shortened(os.fsdecode(name), LONGEST)}: {reason}"


def read_text(path: Path, what: str) -> str:
    """The text of a file, UTF-8 with or without a byte order mark; a pipe of the shell, ``<(...)``, is one too.

    Raises:
        UsageError: if there is none, it is a folder or a device, may not be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {shortened(str(path), LONGEST)} is not text in UTF-8 ({error.reason})") from error


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of a file, or of a pipe of the shell; never waits for one that nobody writes to.

    Raises:
        UsageError: if there is no file, it is a folder or a device, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        piped = stat.S_ISFIFO(mode) and str(path).startswith("/dev/")
        if not stat.S_ISREG(mode) and not piped:
            raise UsageError(f"{what} {shortened(str(path), LONGEST)} is {_kind(mode)}; expected a file")
        return path.read_bytes()
    except UsageError:
        raise
    except OSError as error:
        shown, reason = shortened(str(path), LONGEST)[1:-1], (error.strerror or str(error)).lower()
        raise UsageError(f"{what} {shown}: cannot be read ({reason}); check the path and its permissions") from error
    except ValueError as error:
        raise UsageError(f"{what}: {shortened(str(path), LONGEST)} holds a null character") from error


def check_folder(
    folder: str | Path,
    instead: str = "choose another --out",
    *,
    fresh: Mapping[str, str] | None = None,
    files: Iterable[str] = (),
) -> None:
    """Raise UsageError unless results can be written to ``folder``, which need not be there yet; leaves nothing behind.

    Every command and function that writes calls this before its work. Creating the folder, where it is not there, is
    left to the writing.

    Args:
        instead: what the user could do.
        fresh: files of an earlier result that must not be there, and what each says is there, e.g. ``{"run.json": "a
            run"}``.
        files: others that will be written or replaced.
    """
    folder = Path(folder)
    shown = shortened(str(folder), LONGEST)[1:-1]
    try:
        above = _nearest(folder, instead)
        for name, result in (fresh or {}).items():
            if os.path.lexists(folder / name):
                raise UsageError(f"{shown} already holds {result}; {instead}")
        for name in files:
            if os.path.isdir(folder / name):
                raise UsageError(f"{shown} holds a folder {name!r}, where a file is to be written; {instead}")
        with tempfile.TemporaryFile(dir=above) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot write to {shown}: {reason}; {instead}") from error


def check_file(path: str | Path, instead: str = "choose another file") -> None:
    """:func:`check_folder` for a single file that is to be written."""
    path = Path(path)
    if not path.name:
        raise UsageError(f"{str(path)!r} is not the name of a file; {instead}")
    check_folder(path.parent, instead, files=[path.name])
    _check_name(path.name, path, instead)


def can_write(folder: str | Path) -> bool:
    """Whether :func:`check_folder` has no objection."""
    try:
        check_folder(folder)
    except UsageError:
        return False
    return True


def _mode(path: Path) -> int:
    """0 where nothing is."""
    try:
        return path.stat().st_mode
    except ValueError:  # a null character
        return 0
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise UsageError(f"{unreadable(error, path)}; check the path and its permissions") from error


def _nearest(folder: Path, instead: str) -> Path:
    """The nearest folder above ``folder``, or itself, that is there."""
    if "\0" in str(folder):
        raise UsageError(f"{shortened(str(folder), LONGEST)} holds a null character; {instead}")
    above = folder
    while True:
        shown = shortened(str(above), LONGEST)[1:-1]
        try:
            mode = above.stat().st_mode
        except FileNotFoundError:
            if above.is_symlink():
                raise UsageError(f"{shown} is a link to nothing; {instead}") from None
            _check_name(above.name, folder, instead)
            if above == above.parent:
                raise
            above = above.parent
            continue
        if not stat.S_ISDIR(mode):
            raise UsageError(f"{shown} is {_kind(mode)}; {instead}")
        return above


def _check_name(name: str, path: Path, instead: str) -> None:
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise UsageError(
            f"cannot write to {shortened(str(path), LONGEST)[1:-1]}: a name of {len(os.fsencode(name))} bytes is too "
            f"long, at most {_LONGEST_NAME} are possible; {instead}"
        )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def place_of(source: str, near: Path) -> str:
    """Where a folder that a checkpoint names is now: there, seen from the working directory, or below a folder above
    the checkpoint, as when both were moved; as it was named, if it is in none of these places.

    Args:
        near: the checkpoint's folder.
    """
    named = Path(source).expanduser()
    if named.is_dir():
        return source
    parts = named.parts[1:] if named.is_absolute() else named.parts
    tails = [Path(*parts[i:]) for i in range(len(parts) if named.is_absolute() else 1) if parts[i:]]
    for tail in tails:
        for above in near.resolve().parents:
            if (above / tail).is_dir():
                return str(above / tail)
    return source
