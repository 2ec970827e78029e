"""Standing in the place of a pipeline's network, and of its ``__call__``, without touching either."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


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
    """The network behind stand-ins of blocks around this one."""
    while type(network) is StandIn:
        network = object.__getattribute__(network, "_fairlead")[0]
    return network


def own_kind(pipe: Any) -> type:
    """The class of a pipeline, whatever blocks it is in."""
    kind: type = getattr(type(pipe), "_fairlead_kind", type(pipe))
    return kind


def guided_kind(kind: Any, call: Callable[..., Any]) -> type:
    """The pipeline's class with another ``__call__``: Python looks it up on the class, not on the pipeline."""
    original = kind.__call__

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(original, self, *args, **kwargs)

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
    }
    return type(kind.__name__, (kind,), own)
