"""Metrics of samples without a reference: adherence, saturation, diversity, Vendi and inception-style score.

Vendi is the effective number of different samples in a set. With K the cosine similarities of n samples, p the
eigenvalues of K / n (they sum to 1), of order q

    VS_q = (sum p^q)^(1 / (1 - q)),   VS_1 = exp(-sum p log p),   VS_0 = rank,   VS_inf = 1 / max p

in 1..n: n for orthogonal samples, 1 for copies. Friedman & Dieng 2022, 2210.02410 (q = 1); Pasarkar & Dieng 2023,
2310.12952 (any q: a small one counts rare kinds, a large one only the common). It grows with n: compare equal n only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import one_thread
from fairlead.measure.metrics import Estimate, checked_features, mean_estimate, proportion_estimate


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
    means, without = _diversities(features, labels, chunk)
    return Estimate(sum(means) / len(means), _jackknife_error(without), len(features))


def paired_diversity(a: Tensor, b: Tensor, labels: Tensor, chunk: int = 256) -> Estimate:
    """:func:`pairwise_diversity` of ``a`` minus that of ``b``; sample i of both has the same seed and label.

    Raises:
        UsageError: as there, or if the shapes differ.
    """
    if a.shape != b.shape:
        raise UsageError(f"diversity: expected features of one shape, got {list(a.shape)} and {list(b.shape)}")
    (means, without), (others, left) = _diversities(a, labels, chunk), _diversities(b, labels, chunk)
    value = (sum(means) - sum(others)) / len(means)
    return Estimate(value, _jackknife_error([x - y for x, y in zip(without, left, strict=True)]), len(a))


def _diversities(features: Tensor, labels: Tensor, chunk: int) -> tuple[list[float], list[Tensor]]:
    """For every condition its mean distance, and that mean without each of its samples in turn [m]."""
    x = features.detach().flatten(1).to("cpu", torch.float64)
    if labels.shape != (len(x),):
        raise UsageError(
            f"diversity: {len(x)} samples but labels of shape {list(labels.shape)}; expected one label each"
        )
    labels = labels.to("cpu")
    means, without = [], []
    for label in sorted(set(labels.tolist())):
        own = x[labels == label]
        m = len(own)
        if m < 3:
            raise UsageError(f"diversity: label {label} has {m} samples, expected at least 3 of every label; draw more")
        rows = torch.cat([_distances(part, own).sum(dim=1) for part in torch.split(own, chunk)])
        total = rows.sum() / 2
        means.append(float(total / (m * (m - 1) / 2)))
        without.append((total - rows) / ((m - 1) * (m - 2) / 2))
    return means, without


def _jackknife_error(without: Sequence[Tensor]) -> float:
    """Of a mean over independent conditions."""
    variances = [float((w - w.mean()).square().sum()) * (len(w) - 1) / len(w) for w in without]
    return math.sqrt(sum(variances)) / len(variances)


def covariance_of_means(each: Tensor, labels: Tensor | None) -> Tensor:
    """Of the column means of ``each`` [n, k], float64 [k, k]; with labels [n] that of stratified samples, sum_s n_s C_s
    / n^2: as many samples of each label were asked for, so that what differs between labels is no noise.

    Raises:
        UsageError: if there is only 1 sample.
    """
    n, k = each.shape
    strata = torch.zeros(n) if labels is None else _strata(labels)
    total = torch.zeros(k, k, dtype=torch.float64)
    for stratum in sorted(set(strata.tolist())):
        part = each[strata == stratum]
        if len(part) < 2:
            raise UsageError("measure: there is only 1 sample; expected at least 2, draw more")
        centred = part - part.mean(dim=0)
        total += centred.T @ centred * (len(part) / (len(part) - 1))
    return total / n**2


def _strata(labels: Tensor) -> Tensor:
    """The stratum of each sample, [n]: its label. Labels of one sample have no spread of their own and share a stratum,
    a lone one that of the rarest other; the variance within is then too large rather than too small."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    rare = counts == 1
    if int(rare.sum()) == 1:
        rare[counts.argsort(stable=True)[:2]] = True
    return torch.where(rare[index], -1, index)


def inception_score(logits: Tensor, chunk: int = 1024) -> Estimate:
    """exp(mean over i of KL_i), KL_i = KL(p(y | x_i) || p(y)), in 1..k: sure of each sample, and of many kinds in all.

    Salimans et al. 2016, 1606.03498, over all samples at once (no splits), with any classifier; "Inception score" only
    with Inception's 1000 classes. p(y) is the mean of the p(y | x_i). float64 throughout; no logits overflow.

    The error is the first-order influence, sd(phi) / sqrt(n) with phi_i = score (KL_i - mean KL). That the marginal
    moves with sample i adds nothing to it: p(y) is the distribution for which the mean KL is least. What is left is a
    bias of the order k / n upwards in the logarithm: compare equal n only.

    About 40 chunk k bytes beside the logits: 41 MB for k = 1000.

    Args:
        logits: [n, k], any float dtype, n >= 2.
        chunk: rows taken to float64 at a time.

    Raises:
        UsageError: if n < 2, the shape is not [n, k], or a logit is not finite.
    """
    x = checked_features(logits, "inception score, logits", 2, chunk=chunk)
    parts = torch.split(x, chunk)
    marginal = torch.stack([_log_softmax(part).logsumexp(dim=0) for part in parts]).logsumexp(dim=0) - math.log(len(x))
    divergences = []
    for part in parts:
        log_p = _log_softmax(part)
        divergences.append((log_p.exp() * (log_p - marginal)).sum(dim=1))
    mean = mean_estimate(torch.cat(divergences))
    score = math.exp(mean.value)
    return Estimate(score, score * mean.error, mean.n)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.float64).log_softmax(dim=1)


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
