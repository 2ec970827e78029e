"""Networks for the length of a block: in evaluation mode and as they were after it, or without memory for weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_ROOM = 4
"""Networks may make parameters, while they are built, that they put others in the place of."""
_LOCK = threading.Lock()
_OFF: dict[nn.Module, int] = {}
"""Modules that were in training mode -> the blocks that hold them in evaluation mode."""


@contextmanager
def evaluating(*parts: Any) -> Iterator[None]:
    """Every module of ``parts`` is in evaluation mode inside; those that were training do so again after the last such
    block of all threads. What is no module is left alone."""
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    with _LOCK:
        mine = [module for module in modules if module.training or module in _OFF]
        for module in mine:
            module.training = False
            _OFF[module] = _OFF.get(module, 0) + 1
    try:
        yield
    finally:
        with _LOCK:
            for module in mine:
                _OFF[module] -= 1
                if not _OFF[module]:
                    del _OFF[module]
                    module.training = True


def gradients_of(*inputs: Tensor) -> torch.set_grad_enabled:
    """A block in which gradients are kept only where an input wants one: weights that want theirs do not count."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and any(x.requires_grad for x in inputs))


@contextmanager
def weightless(values: int) -> Iterator[None]:
    """Networks that are built inside the block take no memory for their weights, and cannot have many more than
    ``values`` numbers in their parameters.

    Raises:
        ValueError: in the block, for a larger network.
    """
    mine, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() == mine:
            count += max(1, parameter.numel())
            if count > _ROOM * values:
                raise ValueError(f"a network of more than {values:,} numbers, as many as there are")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()
