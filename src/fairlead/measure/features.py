"""What every measure on features asks of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.errors import UsageError


def checked_features(features: Tensor, what: str, least: int, d: int | None = None, chunk: int = 1024) -> Tensor:
    """``features`` [n, d] as they are, detached and on the CPU; finiteness is looked at ``chunk`` rows at a time.

    Args:
        features: any float dtype.
        what: the measure and the side, for the message: "kid, fakes".
        least: the fewest samples that will do.
        d: the number of features of the other side, if it is known.

    Raises:
        UsageError: if the shape is not [n, d] with n >= least, d differs, a feature is not finite, or chunk < 1.
    """
    if chunk < 1:
        raise UsageError(f"{what}: chunk = {chunk}; expected at least 1 row at a time")
    if features.ndim != 2 or features.shape[1] == 0:
        raise UsageError(f"{what}: expected features of shape [n, d], got {list(features.shape)}; flatten them")
    if len(features) < least:
        raise UsageError(f"{what}: expected at least {least} samples, got {len(features)}; draw more images")
    if d is not None and features.shape[1] != d:
        raise UsageError(f"{what}: d = {features.shape[1]} features against d = {d}; use one extractor for both")
    x = features.detach().to("cpu")
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in torch.split(x, chunk))
    if bad:
        raise UsageError(f"{what}: {bad} of {len(x)} samples have features that are not finite; check the images")
    return x
