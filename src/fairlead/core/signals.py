"""Ctrl-C, SIGTERM (kill, a scheduler) and SIGHUP (a closed terminal) end a command in one way.

The first of them raises :class:`EndSignal`, or is noted where a step or a file has to be finished before. The same
signal often comes twice at once, from the terminal and from a launcher: what comes within ``SAME`` seconds is one. A
later one ends at once. SIGUSR1 asks a training to save and to go on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME = 1.0
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SAVING = [getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name)]


class EndSignal(KeyboardInterrupt):
    """A signal ended the command; ``code`` is what it exits with, 128 + the signal's number: 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        return 128 + self.number


class SignalNotes:
    """What came while :func:`noting`: the number of the signal that asks to end, 0 without one; whether to save."""

    def __init__(self) -> None:
        self.ended = 0
        self._save = False

    def wants_save(self) -> bool:
        """Whether SIGUSR1 came since this was last asked."""
        asked, self._save = self._save, False
        return asked

    def _end(self, number: int) -> None:
        self.ended = number

    def _ask(self, number: int) -> None:
        self._save = True


@contextmanager
def ending() -> Iterator[None]:
    """Inside, the first signal raises :class:`EndSignal`; a later one kills the process while it cleans up."""
    with _handled(_ENDING, _Order(_raise, _kill)):
        yield


@contextmanager
def noting() -> Iterator[SignalNotes]:
    """Inside, the first signal is only noted, so that a step is never half done; a later one raises :class:`EndSignal`.
    SIGUSR1 is noted too."""
    noted = SignalNotes()
    with _handled(_ENDING, _Order(noted._end, _raise)), _handled(_SAVING, noted._ask):
        yield noted


@contextmanager
def unbroken() -> Iterator[None]:
    """For a short block that has to be done whole, such as writing several files: a signal comes at its end."""
    with noting() as noted:
        yield
    if noted.ended:
        _Order.first = None
        signal.raise_signal(noted.ended)


@contextmanager
def saving_ignored() -> Iterator[None]:
    """Where there is nothing to save yet, SIGUSR1 does nothing; by default it would kill."""
    with _handled(_SAVING, lambda number: None):
        yield


class _Order:
    """What to do at the first signal of a command, and at a later one; blocks in one another count together."""

    first: float | None = None
    depth = 0

    def __init__(self, at_first: Callable[[int], object], later: Callable[[int], object]) -> None:
        self.at_first, self.later = at_first, later

    def __call__(self, number: int) -> None:
        now = time.monotonic()
        if _Order.first is None:
            _Order.first = now
            self.at_first(number)
        elif now - _Order.first > SAME:
            self.later(number)


def _raise(number: int) -> None:
    raise EndSignal(number)


def _kill(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def _handled(numbers: list[signal.Signals], act: Callable[[int], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        act(number)

    if _Order.depth == 0:
        _Order.first = None
    _Order.depth += 1
    before: dict[int, Any] = {}
    try:
        for number in map(int, numbers):
            nohup = number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
            if not nohup:
                before[number] = signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _Order.depth -= 1
