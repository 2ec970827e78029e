"""Caches of diffusers, which answer from earlier calls of a network."""

from __future__ import annotations

import re
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.diffusers.perturbation import inner_network

_CACHES = re.compile("cache|broadcast")
"""In the modules of diffusers' hooks that answer from earlier calls."""


def check_uncached(network: Any, name: str) -> None:
    """Refuse a network that answers from earlier calls: a guidance calls it for other rows, and for other branches at
    other steps, than the ones that the cache was made for.

    Args:
        name: what the user calls it, such as "pipe.transformer".

    Raises:
        UsageError: naming the cache.
    """
    check_switched_off(network, name)
    found: dict[str, str] = {}
    for module in inner_network(network).modules():
        registry = getattr(module, "_diffusers_hook", None)
        for key, hook in getattr(registry, "hooks", {}).items():
            kind: Any = type(hook)
            if getattr(hook, "_is_stateful", False) or _CACHES.search(kind.__module__):
                found[key] = kind.__name__
    if found:
        hooks = ", ".join(f"{key!r} ({kind})" for key, kind in found.items())
        raise UsageError(
            f"{name} has the cache hooks {hooks}, which return results of other calls; load it again, or remove each "
            f"of them: diffusers.hooks.HookRegistry.check_if_exists_or_initialize({name}).remove_hook(NAME, "
            "recurse=True)"
        )


def check_switched_off(network: Any, name: str) -> None:
    """The part of :func:`check_uncached` that takes no time: what ``enable_cache`` switches on."""
    config = getattr(inner_network(network), "_cache_config", None)
    if config is not None:
        kind = type(config).__name__.removesuffix("Config")
        raise UsageError(
            f"{name} has the cache {kind} switched on, which returns results of other calls; call "
            f"{name}.disable_cache(), and save rows by cached(...), adaptive(...) or .during(...) around a method"
        )
