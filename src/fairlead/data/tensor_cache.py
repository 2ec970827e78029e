"""Tensors that are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairlead.core.files import replacing

_UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError)


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
        described: all that decides its values, JSON-ready; its hash ends the file's name and stands in the file.
        shape: of the tensor; with ``dtype``, finiteness and the hash of its values what a file must have to be
            believed.
        folder: default: :func:`cache_folder`. A damaged file is computed anew; where nothing can be stored the tensor
            is returned all the same.
    """
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    root = folder or cache_folder()
    if root is None:
        return make()
    path = root / f"{stem}-{key[:16]}.safetensors"
    found = (stored_tensors(path, key) or {}).get(stem)
    if found is not None and tuple(found.shape) == shape and found.dtype == dtype and bool(found.isfinite().all()):
        return found
    found = make()
    with suppress(OSError, SafetensorError):  # read-only or full: the next run computes it again
        store_tensors(path, key, {stem: found}, durable=False)
    return found


def cache_folder() -> Path | None:
    """The environment variable FAIRLEAD_CACHE, else ``~/.cache/fairlead``; None where there is no home."""
    try:
        return Path(os.environ.get("FAIRLEAD_CACHE") or Path.home() / ".cache" / "fairlead")
    except RuntimeError:
        return None


def stored_tensors(path: Path, of: str) -> dict[str, Tensor] | None:
    """The tensors in a file of :func:`store_tensors`; None if it is absent, torn, foreign, or not that of ``of``."""
    try:
        with safe_open(path, framework="pt") as stored:
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            about = stored.metadata() or {}
    except _UNREADABLE:
        return None
    return found if about.get("of") == of and about.get("sha256") == _digests(found) else None


def store_tensors(path: Path, of: str, tensors: Mapping[str, Tensor], durable: bool = True) -> None:
    """Write tensors with what they are of and the hash of their values.

    Raises:
        OSError, SafetensorError: if that cannot be done.
    """
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with replacing(path, durable=durable) as partial:
        save_file(whole, partial, metadata={"of": of, "sha256": _digests(whole)})


def _digests(tensors: Mapping[str, Tensor]) -> str:
    if len(tensors) == 1:
        return digest(*tensors.values())
    return hashlib.sha256(json.dumps({name: digest(tensors[name]) for name in sorted(tensors)}).encode()).hexdigest()


def digest(values: Tensor) -> str:
    """sha256 of the bytes of a tensor."""
    plain = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()
