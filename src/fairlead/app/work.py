"""Work that a page watches: it runs in a thread of its own, can be stopped between two steps, and never waits for
whoever looks on: what has not been looked at when the next state is there is passed over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
PAUSE = 0.1
"""Seconds between two looks at what goes on: drawing takes time from it."""


class Job(Generic[T]):
    """One run of ``make``, whose items are states: the newest says everything that those before it said.

    Iterating starts it and gives the newest state whenever there is one, the last for sure; ending the iteration early
    stops it. An error in it is raised where it is iterated.
    """

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make
        self._ready = threading.Condition()
        self._newest: list[T] = []
        self._error: BaseException | None = None
        self._stopped, self._ended, self._taken = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, name="fairlead-playground", daemon=True)

    def take(self) -> bool:
        """Whether it is the first to ask: a work is run once."""
        first, self._taken = not self._taken, True
        return first

    def stop(self) -> None:
        """No step is begun from now on."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def __iter__(self) -> Iterator[T]:
        if not self.stopped:
            self._thread.start()
        else:
            self._ended = True
        try:
            while True:
                with self._ready:
                    self._ready.wait_for(lambda: self._newest or self._ended)
                    newest, self._newest = self._newest, []
                if not newest:
                    break
                yield newest[0]
                with self._ready:
                    self._ready.wait_for(lambda: self._ended, PAUSE)
            if self._error is not None:
                raise self._error
        finally:
            self.stop()
            if self._thread.ident is not None:
                self._thread.join()

    def _run(self) -> None:
        items = self._make()
        try:
            for item in items:
                with self._ready:
                    self._newest = [item]
                    self._ready.notify_all()
                if self.stopped:
                    break
        except BaseException as error:  # raised again where the work is looked at
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            with self._ready:
                self._ended = True
                self._ready.notify_all()


class Desks:
    """The work of every open page: one at a time. A new one stops the one before, and leaving stops it too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, Job[object]] = {}
        self._kept: dict[str, dict[str, object]] = {}

    def begin(self, page: str, work: Job[T]) -> Job[T]:
        with self._lock:
            before = self._of.get(page)
            self._of[page] = work  # type: ignore[assignment]
        if before is not None:
            before.stop()
        return work

    def keep(self, page: str, name: str, thing: object) -> None:
        """Keep what a page shows under a name, for when it wants to see it in another way."""
        with self._lock:
            self._kept.setdefault(page, {})[name] = thing

    def kept(self, page: str, name: str) -> Any:
        """What was kept last under a name; None for nothing."""
        return self._kept.get(page, {}).get(name)

    def take(self, page: str) -> Job[object] | None:
        """What a page asked for last, if it has not been taken."""
        with self._lock:
            work = self._of.get(page)
            return work if work is not None and work.take() else None

    def stop(self, page: str) -> None:
        """Stop what a page has running, if anything."""
        with self._lock:
            work = self._of.get(page)
        if work is not None:
            work.stop()

    def leave(self, page: str) -> None:
        """A page was closed: stop and forget."""
        self.stop(page)
        with self._lock:
            self._of.pop(page, None)
            self._kept.pop(page, None)

    def __len__(self) -> int:
        return len(self._of)
