"""Arithmetic per sample: nothing here reduces over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """[n] -> [n, 1, ...] to multiply x [n, ...]; anything of more axes as it is."""
    value = value.to(device=x.device, dtype=x.dtype)
    return value.reshape(-1, *([1] * (x.ndim - 1))) if value.ndim == 1 else value


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per sample, [n, ...] -> [n, 1, ...], in float64 for the length of a sample."""
    if a.ndim == 1:
        return a.double() * b
    return (a.double() * b).sum(tuple(range(1, a.ndim)), keepdim=True)  # b is widened in the product


def length(a: Tensor) -> Tensor:
    """Euclidean norm per sample, [n, ...] -> float64 [n, 1, ...]."""
    if a.ndim == 1:
        return a.double().abs()
    norm: Tensor = torch.linalg.vector_norm(a, dim=tuple(range(1, a.ndim)), keepdim=True, dtype=torch.float64)
    return norm


def ratio(top: Tensor, bottom: Tensor, otherwise: float = 0.0) -> Tensor:
    """top / bottom, and ``otherwise`` where bottom is 0."""
    return (top / bottom).masked_fill_(bottom.logical_not(), otherwise)


def parallel(a: Tensor, b: Tensor) -> Tensor:
    """The part of a that is parallel to b, per sample, [n, ...]; 0 where b is 0."""
    wide = b.double()
    return ratio(dot(wide, a), dot(wide, wide)).to(b) * b
