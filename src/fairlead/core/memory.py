"""How freed memory is kept on a CPU, how much there is, and how networks that are too large are found out."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_ROOM = 4
"""Networks may make parameters, while they are built, that they put others in the place of."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next tensor instead of handing it back to the system.

    Activations of a small network are a few megabytes, and glibc maps blocks of that size afresh or trims its heap, so
    that layers pay for page faults: without them a training step of the 28x28 preset takes about 0.9 of the time on two
    cores. The process holds on to its peak. True if it was done; only glibc is asked.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    done = [libc.mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(done)


def machine_memory() -> int | None:
    """Bytes that this process may have: the machine's memory, or less where its control group is limited; None where
    that cannot be asked."""
    try:
        bytes_there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            bytes_there = min(bytes_there, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return bytes_there


@contextmanager
def weightless(values: int) -> Iterator[None]:
    """Networks that are built inside the block take no memory for their weights, and cannot have many more than
    ``values`` numbers in their parameters.

    Raises:
        ValueError: in the block, for a larger network.
    """
    mine, count = get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if get_ident() == mine:
            count += max(1, parameter.numel())
            if count > _ROOM * values:
                raise ValueError(f"a network of more than {values:,} numbers, as many as there are")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()
