"""Tensors that are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.files import replacing


def cached(
    stem: str,
    described: Any,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    make: Callable[[], Tensor],
    folder: Path | None = None,
) -> Tensor:
    """The tensor that ``make`` returns, from disk where it is there.

    Args:
        stem: beginning of the file's name and the tensor's name in it.
        described: all that decides its values, JSON-ready; its hash ends the file's name.
        shape: of the tensor; with ``dtype`` and finiteness what a file must have to be believed.
        folder: default: the environment variable FAIRLEAD_CACHE, else ``~/.cache/fairlead``. A damaged file is
            computed anew; where nothing can be stored the tensor is returned all the same.
    """
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    try:
        root = folder or Path(os.environ.get("FAIRLEAD_CACHE") or Path.home() / ".cache" / "fairlead")
    except RuntimeError:  # there is no home
        return make()
    path = root / f"{stem}-{key}.safetensors"
    try:
        found = load_file(path)[stem]
        if tuple(found.shape) == shape and found.dtype == dtype and bool(found.isfinite().all()):
            return found
    except (OSError, KeyError, SafetensorError):  # absent, torn or foreign
        pass
    found = make()
    try:
        with replacing(path) as partial:
            save_file({stem: found.contiguous()}, partial)
    except (OSError, SafetensorError):  # read-only or full: the next run computes it again
        pass
    return found
