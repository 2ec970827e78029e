"""Adherence, diversity and saturation, each a mean with its standard error."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.measure.estimate import Estimate, mean_estimate, proportion_estimate


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 [n]: 1 where the largest of ``logits`` [n, k] is the wanted class ``labels`` int64 [n], else 0."""
    _check(logits, labels)
    return (logits.argmax(dim=1) == labels).to(torch.float64)


def certainties(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 [n]: the softmax probability of the wanted class ``labels`` int64 [n] under ``logits`` [n, k]."""
    _check(logits, labels)
    return logits.to(torch.float64).log_softmax(dim=1).gather(1, labels[:, None])[:, 0].exp()


def shares_at_limits(x0: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """float64 [n]: for each sample of ``x0`` [n, ...], the share of values <= low or >= high.

    Raises:
        UsageError: if a value is not finite.
    """
    if not bool(x0.isfinite().all()):
        raise UsageError(f"saturation: {int((~x0.isfinite()).sum())} values are not finite; lower the guidance scale")
    return ((x0 <= low) | (x0 >= high)).flatten(1).to(torch.float64).mean(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """Share of samples that the judge recognises as what was asked for, in [0, 1]; see :func:`hits`."""
    return proportion_estimate(hits(logits, labels))


def confidence(logits: Tensor, labels: Tensor) -> Estimate:
    """Mean probability the judge gives to what was asked for, in [0, 1]; see :func:`certainties`."""
    return mean_estimate(certainties(logits, labels))


def pairwise_diversity(features: Tensor, labels: Tensor, chunk: int = 256) -> Estimate:
    """Mean L2 distance of two samples of the same condition, averaged over the conditions with equal weight.

    The standard error is a delete-one jackknife within each condition; conditions are independent.

    Args:
        features: [n, ...], features or pixels; distances are exact differences in float64, ``chunk`` rows at a time.
        labels: int64 [n].

    Raises:
        UsageError: if a condition has fewer than 3 samples.
    """
    x = features.detach().flatten(1).to("cpu", torch.float64)
    if labels.shape != (len(x),):
        raise UsageError(
            f"diversity: {len(x)} samples but labels of shape {list(labels.shape)}; expected one label each"
        )
    labels = labels.to("cpu")
    means, variances = [], []
    for label in sorted(set(labels.tolist())):
        own = x[labels == label]
        m = len(own)
        if m < 3:
            raise UsageError(f"diversity: label {label} has {m} samples, expected at least 3 of every label; draw more")
        rows = torch.cat([_distances(part, own).sum(dim=1) for part in torch.split(own, chunk)])
        total = rows.sum() / 2
        without = (total - rows) / ((m - 1) * (m - 2) / 2)
        means.append(float(total / (m * (m - 1) / 2)))
        variances.append(float((without - without.mean()).square().sum() * (m - 1) / m))
    return Estimate(sum(means) / len(means), sum(variances) ** 0.5 / len(means), len(x))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(
            f"expected logits [n, k] and labels [n], got {list(logits.shape)} and {list(labels.shape)}; pass whole runs"
        )
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise UsageError(
            f"expected at least one label, all of them in 0..{logits.shape[1] - 1}; check the wanted classes"
        )
