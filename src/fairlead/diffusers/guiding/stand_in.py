"""Standing in the place of a pipeline's network, and of its ``__call__``, without touching either.

All blocks that are open on a pipeline share its stand-ins. They are put there by the first and taken away by the last,
in whatever order blocks are closed. A call is guided by the innermost block of its own thread or task; calls of several
threads take turns, for a pipeline's scheduler keeps the state of one run.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from fairlead.core.errors import UsageError


class StandIn:
    """In the place of a network: called, it asks ``answer``; in everything else it is the network."""

    def __init__(self, network: Any, answer: Callable[..., Any]) -> None:
        object.__setattr__(self, "_fairlead", (network, answer))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return object.__getattribute__(self, "_fairlead")[1](*args, **kwargs)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(object.__getattribute__(self, "_fairlead")[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_fairlead")[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_fairlead")[0], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(object.__getattribute__(self, "_fairlead")[0], name)


def behind(network: Any) -> Any:
    """The network behind a stand-in."""
    while type(network) is StandIn:
        network = object.__getattribute__(network, "_fairlead")[0]
    return network


def check_in_place(pipe: Any, name: str, network: Any) -> None:
    """Raises UsageError for a network that is no longer stood in for."""
    here = vars(pipe)[name]
    if type(here) is not StandIn or behind(here) is not network:
        raise UsageError(f"pipe.{name} was replaced inside the block, so nothing would guide; attach again after it")


def own_kind(pipe: Any) -> type:
    """The class of a pipeline, whatever blocks it is in."""
    kind: type = getattr(type(pipe), "_fairlead_kind", type(pipe))
    return kind


class PipelineCall(Protocol):
    """One call of a pipeline: answers the calls of its parts."""

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any: ...


class AttachedBlock(Protocol):
    """What is open on a pipeline: carries out the pipeline's calls."""

    def call(self, original: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any: ...


_CHANGING = threading.RLock()
_MINE: ContextVar[tuple[AttachedBlock, ...]] = ContextVar("fairlead_blocks", default=())
"""The blocks of this thread or task, the innermost last."""
_RUNNING: ContextVar[tuple[tuple[Any, PipelineCall], ...]] = ContextVar("fairlead_runs", default=())
"""Pipelines that this thread or task is in a call of, and the run of each, the innermost last."""


@contextmanager
def running(pipe: Any, run: PipelineCall) -> Iterator[None]:
    """Inside, the parts of the pipeline that this thread calls are answered by ``run``."""
    token = _RUNNING.set((*_RUNNING.get(), (pipe, run)))
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def standing_in(pipe: Any, names: tuple[str, ...], block: AttachedBlock) -> Iterator[None]:
    """Calls of the pipeline go to ``block``, those of its parts ``names`` to the run of the call that they are in."""
    try:
        with _CHANGING:
            _Open.of(pipe).add(names, block)
        _MINE.set((*_MINE.get(), block))
        yield
    finally:
        _MINE.set(tuple(mine for mine in _MINE.get() if mine is not block))
        with _CHANGING:
            _Open.of(pipe).drop(block)


class _Open:
    """The blocks that are open on one pipeline."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.kind = pipe, type(pipe)
        self.blocks: list[tuple[AttachedBlock, int]] = []
        """With the thread that opened each, in the order of opening."""
        self.ours: dict[str, StandIn] = {}
        self.turn = threading.RLock()

    @classmethod
    def of(cls, pipe: Any) -> _Open:
        known: _Open | None = vars(type(pipe)).get("_fairlead_open")
        return known or cls(pipe)

    def add(self, names: tuple[str, ...], block: AttachedBlock) -> None:
        pipe = self.pipe
        self.blocks.append((block, threading.get_ident()))
        for name in names:
            if vars(pipe)[name] is not self.ours.get(name):  # the first block, or the part was replaced since
                network = behind(vars(pipe)[name])
                self.ours[name] = StandIn(network, functools.partial(self.answer, name, network))
                vars(pipe)[name] = self.ours[name]
        if type(pipe) is self.kind:
            pipe.__class__ = _guided_kind(self)

    def drop(self, block: AttachedBlock) -> None:
        self.blocks = [(other, thread) for other, thread in self.blocks if other is not block]
        if self.blocks:
            return
        for name, ours in self.ours.items():
            if vars(self.pipe)[name] is ours:  # else it was replaced inside the block
                vars(self.pipe)[name] = behind(ours)
        self.pipe.__class__ = self.kind

    def call(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The pipeline's call, by the block that it is in."""
        with self.turn:
            return self._block().call(original, self.pipe, *args, **kwargs)

    def _block(self) -> AttachedBlock:
        """The innermost of this thread or task; in a thread that has none, the innermost of the one that has some."""
        known = [block for block, _ in self.blocks]
        mine = [block for block in _MINE.get() if any(block is other for other in known)]
        threads = {thread for _, thread in self.blocks}
        if not mine and len(threads) > 1:
            raise UsageError(
                f"{self.kind.__name__}: {len(threads)} threads guide this pipeline, and the call is in none of their "
                "blocks; open a block around it, or give the thread a pipeline of its own"
            )
        return (mine or known)[-1]

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        """A part of the pipeline, called."""
        run = next((run for pipe, run in reversed(_RUNNING.get()) if pipe is self.pipe), None)
        if run is None:  # by somebody else than the pipeline
            return network(*args, **kwargs)
        return run.answer(name, network, *args, **kwargs)


def _guided_kind(blocks: _Open) -> type:
    """The pipeline's class with another ``__call__``: Python looks it up on the class, not on the pipeline."""
    kind: Any = blocks.kind
    original = kind.__call__

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return blocks.call(original, *args, **kwargs)

    def components(self: Any) -> dict[str, Any]:
        """What others take from the pipeline, to keep it, is the network itself."""
        return {name: behind(part) for name, part in kind.components.fget(self).items()}

    own = {
        "__call__": __call__,
        "components": property(components),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_fairlead_kind": kind,
        "_fairlead_open": blocks,
    }
    return type(kind.__name__, (kind,), own)
