"""How long work says how far it is: the command line draws bars, a notebook may draw its own, the default is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


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
