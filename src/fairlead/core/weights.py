"""Which weights a network has, in a few letters."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weight_hash(network: nn.Module) -> str:
    """sha256[:12] of names, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
