"""How well a classifier of noisy images knows the class, by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, to_float
from fairlead.data.names import same_names
from fairlead.measure.estimate import Estimate, proportion_estimate
from fairlead.models.classifier import NoisyClassifierModel

EDGES = (8.0, 6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0, -8.0)


@dataclass(frozen=True)
class NoiseBin:
    """Accuracy at noise levels with low <= log-SNR < high."""

    low: float
    high: float
    accuracy: Estimate


def accuracy_by_noise(
    classifier: NoisyClassifierModel,
    data: ImageData,
    edges: Sequence[float] = EDGES,
    seed: int = 0,
    batch_size: int = 256,
) -> list[NoiseBin]:
    """Every image once in each bin, at a log-SNR uniform in it, with its own noise.

    Args:
        data: of the classifier's shape and classes.
        edges: of the bins in log-SNR, falling; bins that reach beyond the noisy end of the schedule are left out.
        seed: of the noise levels and the noise.
    """
    if data.shape != classifier.shape or not same_names(data.classes, classifier.classes):
        raise UsageError(
            f"data {data.name!r} has images {list(data.shape)} of {len(data.classes)} classes, the classifier knows "
            f"{list(classifier.shape)} of {len(classifier.classes)}; measure it on its own data"
        )
    schedule, device, bins = classifier.schedule, classifier.device, []
    noisiest = float(schedule.log_snr(torch.ones((), dtype=torch.float64)))
    for number, (high, low) in enumerate(pairwise(edges)):
        if low < noisiest:
            continue
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        level = low + (high - low) * torch.rand(len(data), generator=generator, dtype=torch.float64)
        t = schedule.t_of_log_snr(level)
        hits = []
        for part in torch.split(torch.arange(len(data)), batch_size):
            x0 = to_float(data.images[part])
            alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(t[part]))
            x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
            with torch.no_grad():
                answer = classifier.log_prob(x_t.to(device), t[part]).argmax(1).cpu()
            hits.append(answer == data.labels[part])
        bins.append(NoiseBin(low, high, proportion_estimate(torch.cat(hits))))
    return bins
