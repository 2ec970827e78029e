"""Caches of diffusers, which answer from earlier calls of a network."""

from __future__ import annotations

from typing import Any

from fairlead.core.errors import UsageError
from fairlead.diffusers.perturbation import plain


def check_uncached(network: Any, name: str) -> None:
    """Refuse a network that answers from earlier calls: a guidance calls it for other rows, and for other branches at
    other steps, than the ones that the cache was made for.

    Args:
        name: what the user calls it, such as "pipe.transformer".

    Raises:
        UsageError: naming the cache.
    """
    check_switched_off(network, name)
    for module in plain(network).modules():
        registry = getattr(module, "_diffusers_hook", None)
        for key, hook in getattr(registry, "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                raise UsageError(
                    f"{name} has the cache {key!r} ({type(hook).__name__}), whose answers are those of other calls; "
                    f"take it away: {name}._diffusers_hook.remove_hook({key!r}, recurse=True), or load it anew"
                )


def check_switched_off(network: Any, name: str) -> None:
    """The part of :func:`check_uncached` that takes no time: what ``enable_cache`` switches on."""
    config = getattr(plain(network), "_cache_config", None)
    if config is not None:
        kind = type(config).__name__.removesuffix("Config")
        raise UsageError(
            f"{name} has the cache {kind} switched on, which answers from other calls than those of a guidance; call "
            f"{name}.disable_cache()"
        )
