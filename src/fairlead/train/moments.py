"""The first two moments of each class of a data set, for the classifier of noisy images."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.data.images import ImageData, stratified_order, stream, to_float
from fairlead.nets.noisy_classifier import FLOOR, ClassMoments

MOST = 4096
"""Images of a class that are looked at."""
ROUNDS = 8
"""Of the subspace iteration."""


def class_moments(data: ImageData, rank: int) -> ClassMoments:
    """Of the images in [-1, 1], float32; mirrored images count where the set has them (``data.flip``).

    A class without images is given those of all classes, and the share of half an image.

    Args:
        rank: directions of variance kept; a class of n images has at most n - 1.
    """
    each = [_of(_images(data, label), rank) for label in range(len(data.classes))]
    counts = data.labels.bincount(minlength=len(data.classes)).double().clamp(min=0.5)
    mean, axes, variance, rest = (torch.stack(parts) for parts in zip(*each, strict=True))
    return ClassMoments((counts / counts.sum()).float(), mean, axes, variance, rest)


def _images(data: ImageData, label: int) -> Tensor:
    """At most ``MOST`` of them, [n, d]."""
    index = (data.labels == label).nonzero()[:, 0]
    if not len(index):
        index = stratified_order(data.labels, seed=0)
    chosen = index[torch.randperm(len(index), generator=stream("moments", 0, label))[:MOST]]
    images = to_float(data.images[chosen])
    return (torch.cat([images, images.flip(-1)]) if data.flip else images).flatten(1)


def _of(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean [d], axes [k, d], variances along them [k] and elsewhere [] of x [n, d], by subspace iteration."""
    n, d = x.shape
    k = min(rank, n - 1, d)
    mean = x.mean(0)
    centred = x - mean
    basis = torch.linalg.qr(torch.randn(d, min(d, k + 8), generator=stream("moments", 1, 0))).Q
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, spread, axes = torch.linalg.svd(centred @ basis, full_matrices=False)
    variance = spread[:k] ** 2 / max(1, n - 1)
    left = centred.square().sum() / max(1, n - 1) - variance.sum()
    rest = (left / max(1, d - k)).clamp(min=0)
    found, along = torch.zeros(rank, d), rest.expand(rank).clone()
    found[:k], along[:k] = axes[:k] @ basis.T, variance
    return mean, found, along + FLOOR, rest + FLOOR
