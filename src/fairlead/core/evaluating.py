"""Networks that a user has handed over, in evaluation mode for the length of a block and as they were after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
