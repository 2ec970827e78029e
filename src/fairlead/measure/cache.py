"""Features are computed once per (images, extractor) and then read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairlead.core.files import replacing
from fairlead.measure.extractors import Extractor


def cached_features(
    extractor: Extractor,
    images: Tensor,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """float32 [n, d], as ``extractor.features(images)``, read from ``folder`` if they are there, else stored there.

    Args:
        images: uint8 [n, c, h, w].
        folder: default: the environment variable FAIRLEAD_CACHE, else ``~/.cache/fairlead``. One file, named by the
            hash of the images' values and of the extractor's name. A damaged file is computed anew, and where nothing
            can be stored the features are returned all the same.
        progress: called with a number of images as they are done; not at all when the features are read.
    """
    folder = folder or _default_folder()
    if folder is None:
        return extractor.features(images, progress)
    described = f"{extractor.name} {list(images.shape)} {_digest(images)}"
    path = folder / f"features-{extractor.kind}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.safetensors"
    try:
        with safe_open(path, framework="pt") as stored:
            found: Tensor = stored.get_tensor("features")
            about = stored.metadata() or {}
        whole = found.shape == (len(images), extractor.d) and found.dtype == torch.float32
        if whole and about.get("of") == described and about.get("sha256") == _digest(found):
            return found
    except (OSError, ValueError, RuntimeError, SafetensorError):  # absent, torn or foreign
        pass
    found = extractor.features(images, progress).contiguous()
    try:
        with replacing(path) as partial:
            save_file({"features": found}, partial, metadata={"of": described, "sha256": _digest(found)})
    except (OSError, SafetensorError):  # read-only or full: the next run computes them again
        pass
    return found


def _default_folder() -> Path | None:
    try:
        return Path(os.environ.get("FAIRLEAD_CACHE") or Path.home() / ".cache" / "fairlead")
    except RuntimeError:  # there is no home
        return None


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()
