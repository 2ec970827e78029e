"""Vendi score: the effective number of different samples in a set, without a reference.

With K the cosine similarities of n samples, p the eigenvalues of K / n (they sum to 1), of order q

    VS_q = (sum p^q)^(1 / (1 - q)),   VS_1 = exp(-sum p log p),   VS_0 = rank,   VS_inf = 1 / max p

in 1..n: n for orthogonal samples, 1 for copies. Friedman & Dieng 2022, 2210.02410 (q = 1); Pasarkar & Dieng 2023,
2310.12952 (any q: a small one counts rare kinds, a large one only the common). It grows with n: compare equal n only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import one_thread
from fairlead.measure.metrics import checked_features


def vendi_score(features: Tensor, q: float = 1.0, chunk: int = 1024) -> float:
    """Of ``features`` [n, d], any float dtype, each row brought to length 1; float64, >= 1.

    The eigenvalues are those of X^T X / n [d, d] when d < n, summed ``chunk`` rows at a time, else of X X^T / n [n, n];
    apart from zeros they are the same. At most about 8 d (chunk + 3 d) or 8 n (2 d + 3 n) bytes: 170 MB for d = 2048.

    Args:
        features: at least 1 sample.
        q: order >= 0, ``math.inf`` allowed. Eigenvalues below rounding count as 0, which matters for q < 1.

    Raises:
        UsageError: if q < 0, a feature is not finite, or a sample is 0 throughout.
    """
    if not q >= 0:
        raise UsageError(f"vendi: order q = {q}; expected q >= 0, 1 for the usual score")
    return _diversity(_shares(checked_features(features, "vendi", 1, chunk=chunk), chunk), q)


def vendi_by_label(features: Tensor, labels: Tensor, q: float = 1.0) -> tuple[float, float]:
    """The mean over labels of the score within each label, and the standard deviation between labels (nan for one).

    Args:
        features: [n, d].
        labels: int64 [n]; give every label the same number of samples, the score grows with it.

    Raises:
        UsageError: if there is not one label each, or as :func:`vendi_score`.
    """
    if labels.shape != features.shape[:1]:
        raise UsageError(f"vendi: {len(features)} samples, labels {list(labels.shape)}; expected one label each")
    kinds = sorted(set(labels.tolist()))
    scores = torch.tensor([vendi_score(features[labels == label], q) for label in kinds], dtype=torch.float64)
    return float(scores.mean()), float(scores.std()) if len(kinds) > 1 else math.nan


def _shares(x: Tensor, chunk: int) -> Tensor:
    """Eigenvalues of K / n that are not 0, float64, sum 1."""
    n, d = x.shape
    if d < n:
        matrix = torch.zeros(d, d, dtype=torch.float64)
        for part in torch.split(x, chunk):
            rows = _unit(part)
            matrix.addmm_(rows.T, rows)
    else:
        rows = _unit(x)
        matrix = rows @ rows.T
    with one_thread():
        values = torch.linalg.eigvalsh(matrix)
    values = values[values > values.max() * torch.finfo(torch.float64).eps * max(n, d)]
    shares: Tensor = values / values.sum()
    return shares


def _unit(rows: Tensor) -> Tensor:
    rows = rows.to(torch.float64)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise UsageError("vendi: a sample has features that are 0 throughout and no direction; check the images")
    unit: Tensor = rows / lengths
    return unit


def _diversity(p: Tensor, q: float) -> float:
    if math.isinf(q):
        return float(1 / p.max())
    if math.isclose(q, 1.0, abs_tol=1e-8):
        return float(torch.special.entr(p).sum().exp())
    return float(((q * p.log()).logsumexp(dim=0) / (1 - q)).exp())
