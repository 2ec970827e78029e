"""Features are computed once per (images, extractor) and then read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fairlead.data.tensor_cache import cache_folder, digest, store_tensor, stored_tensor
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
    folder = folder or cache_folder()
    if folder is None:
        return extractor.features(images, progress)
    described = f"{extractor.name} {list(images.shape)} {digest(images)}"
    path = folder / f"features-{extractor.kind}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.safetensors"
    found = stored_tensor(path, "features", described)
    if found is not None and found.shape == (len(images), extractor.d) and found.dtype == torch.float32:
        return found
    found = extractor.features(images, progress).contiguous()
    store_tensor(path, "features", described, found)
    return found
