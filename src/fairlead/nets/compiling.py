"""Networks compiled by ``torch.compile``: as one graph where that can be, in parts where a network decides by values.

A compiled network computes what it did, to rounding. Another number of rows, another perturbation and training beside
sampling are compiled when they come first; a number of rows that changes again is then one of any size.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.nets.blocks import recorded_layers

_MOST = 64
"""Ways in which one network is compiled, in place of 8, before further ones run uncompiled."""


@lru_cache
def no_compiler(device: str) -> str:
    """Why nothing can be compiled for this kind of device, found out by trying; "" if it can.

    On a CPU that takes a C++ compiler and the headers of Python, on a GPU a C compiler and Triton.
    """
    from torch._inductor import config  # only here: it takes its time

    logger = logging.getLogger("torch._inductor.utils")
    try:
        with warnings.catch_warnings(), torch.no_grad(), config.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")  # about the caches, as the logger below
            logger.addFilter(_nothing)
            torch.compile(_tried)(torch.ones(8, device=device))
    except Exception as error:  # all that can go wrong in a compiler means the same here
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    finally:
        logger.removeFilter(_nothing)
    return ""


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _tried(x: Tensor) -> Tensor:
    return x.sin() + 1


def compile_in_place(network: nn.Module) -> None:
    """From now on calls of ``network`` run compiled, but for those whose attention or head is recorded
    (``attention_mass``); names and values of its weights stay. Of a network around one of diffusers that one is
    compiled: what surrounds it sets hooks."""
    torch._dynamo.config.cache_size_limit = max(_MOST, torch._dynamo.config.cache_size_limit)
    inside = getattr(network, "network", None)
    module = inside if isinstance(inside, nn.Module) else network
    module.compile()
    plain: Callable[..., Any] = module._call_impl
    compiled = module._compiled_call_impl
    assert compiled is not None

    def call(*args: Any, **kwargs: Any) -> Any:
        return (plain if recorded_layers() else compiled)(*args, **kwargs)

    module._compiled_call_impl = call


def compiled_twin(network: nn.Module) -> nn.Module:
    """A network with the same weights in the same memory that runs compiled, while ``network`` stays as it is."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    twin = copy.deepcopy(network, shared)
    compile_in_place(twin)
    return twin
