"""A folder that is held by the run that works on it, so that no second run writes there at the same time.

FOLDER/.held    JSON: which process on which host, when it started. Touched every BEAT seconds, gone at the end.

The file is made with O_EXCL, so one of many that start at once gets the folder. A holder on this host counts as dead
when its process is (a number that was given to another process since is recognised by its start). A holder on another
host, or in another container, counts as dead when its file was not touched for STALE seconds by the clock of the disk.
Nothing here relies on locks of the file system; where there are some, they order those who find a dead holder.

Over 300 lines: taking a folder, the signs of life and giving it back are one protocol, to be read together.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.launch import Launch
from fairlead.core.places import check_folder

NAME = ".held"
BEAT, STALE = 15.0, 180.0
"""Seconds between two signs of life, and without one until a holder on another host counts as dead: longer than the
minute for which a network disk may show an old time."""
TORN = 30.0
"""Seconds after which a file that says nothing counts as left by a process that died while making it."""


@dataclass(eq=False)
class _Held:
    """A file of this process."""

    token: str
    process: int
    thread: int
    made: list[Path]
    count: int = 1
    ended: threading.Event = field(default_factory=threading.Event)


_OWN: dict[Path, _Held] = {}
_GUARD = threading.RLock()


class Hold:
    """The hold of this thread on ``folder``, from its making to ``release`` or the end of the process; as a context
    manager, to the end of the block. A thread may hold a folder several times; the last release ends the hold. The
    folder is made if need be; if it is still empty at the end, it is removed again.

    Args:
        beside: keep the file beside the folder rather than in it: for a folder that is moved into place at the end.

    Raises:
        UsageError: if another run holds the folder, naming its host and process, or nothing can be written there.
    """

    def __init__(self, folder: str | Path, beside: bool = False) -> None:
        self.folder = Path(folder)
        path = Path(os.path.abspath(self.folder))
        self._path = path.parent / f".{path.name}{NAME}" if beside else path / NAME
        self._released = False
        with _GUARD:
            own = _OWN.get(self._path)
            if own is not None and own.process == os.getpid():
                me = threading.get_ident()
                if own.thread != me and any(thread.ident == own.thread for thread in threading.enumerate()):
                    raise UsageError(
                        f"{self.folder} is held by another thread of this process; wait until it ends, or choose "
                        "another folder"
                    )
                own.thread, own.count = me, own.count + 1
                return
            check_folder(self._path.parent, "choose another --out")
            try:
                _OWN[self._path] = self._take()
            except OSError as error:
                raise UsageError(f"cannot write to {self.folder}: {error}; choose another --out") from error
        threading.Thread(target=_beat, args=(self._path, _OWN[self._path]), daemon=True).start()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def check(self) -> None:
        """Raise UsageError if another run took the folder over: this one was suspended, or cut off from its disk, for
        so long that it counted as dead."""
        with _GUARD:
            own = _OWN.get(self._path)
        if self._released or own is None:
            return
        holder = _read(self._path)
        if holder is not None and holder["token"] != own.token:
            raise UsageError(
                f"{self.folder} was taken over by {_named(holder)}, as this run showed no sign of life for {STALE:g} "
                "seconds; this run writes nothing more"
            )

    def release(self) -> None:
        """End the hold; at once or not at all, and twice is once."""
        with _GUARD:
            own = _OWN.get(self._path)
            if self._released or own is None or own.process != os.getpid():
                return
            self._released = True
            own.count -= 1
            if own.count == 0:
                _let_go(self._path)

    def _take(self) -> _Held:
        made = _made(self._path.parent)
        token = secrets.token_hex(8)
        try:
            while True:
                try:
                    handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
                except FileExistsError:
                    self._clear()
                    continue
                with open(handle, "wb") as file:
                    file.write(json.dumps({**_me(), "token": token}).encode())
                return _Held(token, os.getpid(), threading.get_ident(), made)
        except BaseException:
            _unmake(made)
            raise

    def _clear(self) -> None:
        """Remove the file of a dead holder.

        Raises:
            UsageError: if its holder is alive.
        """
        try:
            handle = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            with suppress(ImportError, OSError):  # no such locks here: the file itself decides
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                return
            if not os.path.samestat(there, os.fstat(handle)):
                return  # another one has cleared it, and there is a new one
            age = _now(self._path.parent) - there.st_mtime
            holder = _read(self._path)
            for _ in range(25):  # most often it is just being written
                if holder is not None or abs(age) >= TORN:
                    break
                time.sleep(0.02)
                holder = _read(self._path)
            if _alive(holder, abs(age)):
                raise UsageError(self._refusal(holder, age))
            self._path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _refusal(self, holder: dict[str, Any] | None, age: float) -> str:
        what = f"{self.folder} is held by {'a process that is starting' if holder is None else _named(holder)}"
        if holder is not None and not _on_this_host(holder):
            what += f", whose last sign of life is {max(0.0, age):.0f} s old (dead after {STALE:.0f} s)"
        return f"{what}; wait until it ends, or choose another folder"


@contextmanager
def shared_hold(folder: str | Path) -> Iterator[None]:
    """A hold of all processes of a launch: the main one takes it."""
    if not Launch.here().main:
        yield
        return
    with Hold(folder):
        yield


def _let_go(path: Path) -> None:
    own = _OWN.pop(path)
    own.ended.set()
    with suppress(OSError):
        holder = _read(path)
        if holder is not None and holder["token"] == own.token:
            path.unlink()
    _unmake(own.made)


@atexit.register
def _let_all_go() -> None:
    with _GUARD:
        for path in [path for path, own in _OWN.items() if own.process == os.getpid()]:
            _let_go(path)


def _beat(path: Path, own: _Held) -> None:
    while not own.ended.wait(BEAT):
        holder = _read(path)
        if holder is not None and holder["token"] == own.token:
            with suppress(OSError):  # the next one may get through
                os.utime(path)


def _made(folder: Path) -> list[Path]:
    """Make a folder; which of it and those above were not there, the deepest first. None stays where one cannot be."""
    missing = []
    for above in (folder, *folder.parents):
        if above.exists():
            break
        missing.append(above)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        for part in missing:
            _unmake([part])
        raise
    return missing


def _unmake(made: list[Path]) -> None:
    with suppress(OSError):  # not empty
        for folder in made:
            folder.rmdir()


def _read(path: Path) -> dict[str, Any] | None:
    """What a file says; None if there is none, or it says nothing."""
    try:
        holder = json.loads(path.read_bytes())
        _ = holder["host"] + holder["boot"] + holder["space"] + holder["started"] + holder["since"] + holder["token"]
        _ = holder["process"] + 0
    except (OSError, ValueError, LookupError, TypeError):
        return None
    found: dict[str, Any] = holder
    return found


def _me() -> dict[str, Any]:
    process = os.getpid()
    return {
        **_host(),
        "process": process,
        "started": _started(process) or "",
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _host() -> dict[str, str]:
    """Where the numbers of processes mean the same: the name of the host, its start, the container."""
    boot = space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot, "space": space}


def _on_this_host(holder: dict[str, Any]) -> bool:
    return all(holder[name] == value for name, value in _host().items())


def _alive(holder: dict[str, Any] | None, age: float) -> bool:
    if holder is None:
        return age < TORN
    if not _on_this_host(holder):
        return age < STALE
    if holder["process"] == os.getpid() and holder["started"] == (_started(os.getpid()) or ""):
        return False  # this process itself, and it knows of no such hold: an interrupted one
    started = _started(holder["process"])
    return started is not None and (started == holder["started"] or "" in (started, holder["started"]))


def _started(process: int) -> str | None:
    """When a process of this host started, in a form that only compares; "" if that is not to be known, None if it has
    ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:  # of another user
        pass
    try:
        if Path("/proc/self/stat").exists():
            state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            return None if state in "ZX" else fields[18]
        shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(process)], capture_output=True, text=True)
        state, _, start = shown.stdout.strip().partition(" ")
        return None if state.startswith("Z") else start.strip()
    except (OSError, LookupError):
        return ""


def _now(folder: Path) -> float:
    """The time by the clock of the disk."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _named(holder: dict[str, Any]) -> str:
    host = holder["host"] if holder["host"].isprintable() else repr(holder["host"])
    return f"process {holder['process']} on host {host} since {holder['since']}"
