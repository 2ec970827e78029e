"""How long work says how far it is: the command line shows a bar in a terminal, or a line now and then in a log; a
notebook may draw its own; the default is silent."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST, EVERY = 5.0, 30.0
"""Seconds before the first line of a log and between two."""
QUIET = 2.0
"""Seconds that work without a bar may take before it is named."""


class Progress(Protocol):
    """Called with a title when work begins. Inside the block, the function it gives is called with each count that is
    done; ``total`` is None where it is not known, and ``unit`` is empty where nothing is counted."""

    def __call__(
        self, title: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], object]]: ...


@contextmanager
def silent(title: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], object]]:
    """A :class:`Progress` that shows nothing."""
    yield lambda count: None


def in_terminal() -> bool:
    """Whether standard error shows a line that is written again and again."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Bar:
    """Counts work up to ``total`` (None: unknown) on standard error.

    In a terminal it is a bar of tqdm. Anywhere else (a file, a pipe, TERM=dumb) it is a line after 5 seconds, one
    every 30 seconds, and one at the end. An error while writing it ends the bar, never the work.
    """

    def __init__(
        self, total: int | None, unit: str, title: str = "", *, initial: int = 0, shown: bool = True, form: str = ""
    ) -> None:
        from tqdm import tqdm

        self.total, self.n = total, initial
        self._unit, self._title, self._postfix = unit, title, ""
        self._began, self._first, self._lines = time.monotonic(), initial, shown and not in_terminal()
        self._next = self._began + FIRST
        self._live: tqdm[Any] | None = None
        if shown and not self._lines:
            more = {"bar_format": form} if form else {}
            self._live = tqdm(
                total=total, unit=unit, desc=title or None, initial=initial, dynamic_ncols=True, leave=True, **more
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        self.n += count
        if self._live is not None:
            self._live.update(count)
        elif self._lines and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._line()

    def note(self, text: str) -> None:
        """Shown behind the count from the next time it is drawn."""
        self._postfix = text
        if self._live is not None:
            self._live.set_postfix_str(text, refresh=False)

    def reset(self, total: int) -> None:
        """Start to count anew."""
        self.total, self.n, self._first, self._began = total, 0, 0, time.monotonic()
        self._next = self._began + FIRST
        if self._live is not None:
            self._live.reset(total)

    def write(self, text: str, file: TextIO | None = None) -> None:
        """A line of its own, on standard output by default."""
        if self._live is not None:
            self._live.write(text, file=file)
        else:
            print(text, file=file or sys.stdout, flush=True)

    def close(self) -> None:
        """The last state stays to be seen; nothing where nothing was counted."""
        if self._live is not None:
            self._live.close()
        elif self._lines and self.n > self._first:
            self._line()
        self._lines = False

    def _line(self) -> None:
        seconds = time.monotonic() - self._began
        count = f"{self.n:,}" if self.total is None else f"{self.n:,} of {self.total:,}"
        parts = [f"{count} {self._unit}s", clock(seconds), *([self._postfix] if self._postfix else [])]
        try:
            print((f"{self._title}: " if self._title else "") + ", ".join(parts), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it any more
            self._lines = False


@contextmanager
def counting_bar(title: str, total: int | None, unit: str = "image") -> Iterator[Callable[[int], None]]:
    """A bar that appears with the first count."""
    bars: list[Bar] = []

    def advance(count: int) -> None:
        if not bars:
            bars.append(Bar(total, unit, title))
        bars[0].update(count)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def bars(title: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], object]]:
    """A :class:`~fairlead.core.progress.Progress`: a bar where something is counted, else a line if it takes long."""
    if unit:
        with counting_bar(title, total, unit) as advance:
            yield advance
    else:
        with working(title):
            yield lambda count: None


@contextmanager
def working(what: str) -> Iterator[None]:
    """A line on standard error that says ``what`` goes on, if the block takes more than two seconds."""
    timer = threading.Timer(QUIET, _say, (f"{what} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(text: str) -> None:
    from tqdm import tqdm

    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError, ValueError):
            tqdm.write(text, file=sys.stderr)


def clock(seconds: float) -> str:
    """``3:20``, ``1:02:05``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
