"""Fréchet distance between two Gaussians fitted to features, its bias and its error bars.

    d^2 = |mu_r - mu_g|^2 + Tr(S_r + S_g - 2 (S_r^1/2 S_g S_r^1/2)^1/2)       Heusel et al. 2017, 1706.08500, eq. 6

Covariances are unbiased (divided by n - 1). Everything is float64. The distance is called FID only with the features
of the Inception network; with other features it is comparable with nothing but itself under the same protocol.

Over 300 lines: two errors, near 0 and away from it, and what both share.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.data.images import stratified_order
from fairlead.measure.metrics import Estimate

_CHUNK = 8192
"""Samples whose float64 copy is in memory at once."""


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of n samples of d features; ``a + b`` and ``a - b`` join and remove samples.

    Attributes:
        n: number of samples.
        mean: float64 [d].
        scatter: float64 [d, d], the sum of (x - mean)(x - mean)^T.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    __repr__ = brief

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of ``features`` [n, d], any float dtype, all finite.

        Raises:
            UsageError: if the shape is not [n, d] with n >= 1, or a feature is not finite.
        """
        if features.ndim != 2 or len(features) == 0:
            raise UsageError(f"moments: expected features of shape [n, d] with n >= 1, got {list(features.shape)}")
        if not bool(features.isfinite().all()):
            bad = int((~features.isfinite().all(dim=1)).sum())
            raise UsageError(
                f"moments: {bad} of {len(features)} samples have features that are not finite; check the images"
            )
        parts = (cls._of(part.detach().to("cpu", torch.float64)) for part in torch.split(features, _CHUNK))
        return reduce(operator.add, parts)

    @classmethod
    def _of(cls, x: Tensor) -> Moments:
        mean = x.mean(dim=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @property
    def d(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, [d, d]; singular when n <= d.

        Raises:
            UsageError: if n < 2.
        """
        if self.n < 2:
            raise UsageError(
                f"a covariance needs at least 2 samples, got n = {self.n} (d = {self.d}); draw more images"
            )
        return self.scatter / (self.n - 1)

    @cached_property
    def factor(self) -> Tensor:
        """F [d, d] with F F^T the covariance."""
        with one_thread():
            return _factor(self.covariance)

    def __add__(self, other: Moments) -> Moments:
        """Of the union of two disjoint sets of samples (Chan et al. 1979)."""
        _same_width(self, other)
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    def __sub__(self, other: Moments) -> Moments:
        """Of the samples that are left when those of ``other``, a proper subset, are taken away."""
        _same_width(self, other)
        n = self.n - other.n
        if n < 1:
            raise UsageError(f"cannot take {other.n} samples away from {self.n}; expected a proper subset")
        mean = self.mean + (self.mean - other.mean) * (other.n / n)
        step = other.mean - mean
        scatter = self.scatter - other.scatter - torch.outer(step, step) * (n * other.n / self.n)
        return Moments(n, mean, scatter)


def frechet_distance(*, real: Moments, fake: Moments) -> float:
    """The squared Fréchet distance, >= 0 up to rounding; biased upwards by about 1/n (see :func:`frechet_jackknife`).

    Raises:
        UsageError: if a side has fewer than 2 samples, or the sides have different d.
    """
    with one_thread():
        return _distance(real, fake)


def frechet_jackknife(
    *, real: Moments, fake_features: Tensor, labels: Tensor | None = None, blocks: int = 20
) -> Estimate:
    """The distance with its 1/n sampling bias removed, and its standard error: a delete-block jackknife over the fakes.

    Blocks of unequal size are weighted as in Busing et al. 1999 (delete-m_j jackknife, eqs. 3-5). The reference is held
    fixed: its own sampling error is common to all settings measured against it. The value may be below 0 when the
    truth is near 0.

    Pass ``labels`` whenever so many samples of each were asked for. Blocks then hold the same number of every label:
    random blocks would count the varying shares of the labels as sampling noise, which there is none of. (Ten far
    classes, n = 300, truth 0: -1.2 +- 0.2 from random blocks, 0.01 +- 0.07 from these, spread over draws 0.05.)

    Args:
        real: moments of the reference.
        fake_features: [n, d].
        labels: int64 [n], what was asked for; None if the samples were drawn independently.
        blocks: number of blocks, at least 2; never more than n / 2. With labels, the number between half and twice it
            that comes nearest to dividing the count of every label. The order of samples is shuffled first.

    Raises:
        UsageError: if n < 4 or blocks < 2.
    """
    shares, pseudo = pseudovalues(real=real, fake_features=fake_features, labels=labels, blocks=blocks)
    value = float(shares @ pseudo)
    error = float((shares / (1 - shares) * (pseudo - value) ** 2).mean().sqrt())
    return Estimate(value, error, len(fake_features))


def pseudovalues(
    *, real: Moments, fake_features: Tensor, labels: Tensor | None = None, blocks: int = 20
) -> tuple[Tensor, Tensor]:
    """What :func:`frechet_jackknife` averages: float64 (shares [K], values [K]) of its blocks.

    ``shares @ values`` is the distance; (values - distance)^2 shares / (1 - shares), averaged, its squared error.
    Blocks depend on n and the labels only, so values of several settings with the same seeds give the covariance of
    their distances likewise, to every order, but with K - 1 degrees of freedom.

    Raises:
        UsageError: as :func:`frechet_jackknife`.
    """
    n = len(fake_features)
    if n < 4 or blocks < 2:
        raise UsageError(f"jackknife: expected n >= 4 samples and >= 2 blocks, got n = {n} and {blocks} blocks")
    whole, parts = Moments.of(fake_features), _blocks(n, labels, blocks)
    shares = torch.tensor([len(index) for index in parts], dtype=torch.float64) / n
    with one_thread():
        if n > fake_features.shape[1]:
            theta = _distance(real, whole)
            left_out = [_distance(real, whole - Moments.of(fake_features[index])) for index in parts]
        else:
            theta, *left_out = _few_distances(real, fake_features, [torch.tensor([], dtype=torch.int64), *parts])
    return shares, (theta - (1 - shares) * torch.tensor(left_out, dtype=torch.float64)) / shares


def paired_difference(*, real: Moments, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Estimate:
    """How much further setting ``a`` is from the reference than ``b``; sample i of both has the same seed and label.

    The value is the difference of the two jackknifed distances. Its standard error is sd(phi_a - phi_b) / sqrt(n), from
    the :func:`influence` of each sample on its distance. With labels the sd is that within a label, as in stratified
    sampling.

    Args:
        real: moments of the reference.
        a, b: features [n, d].
        labels: int64 [n], as in :func:`frechet_jackknife`.

    Raises:
        UsageError: if the shapes differ; if n <= d, where T does not exist; or if more than half of a distance is
            sampling bias: there the first-order influence vanishes and the error would be far too small.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise UsageError(
            f"paired difference: expected two [n, d] of one shape, got {list(a.shape)} and {list(b.shape)}"
        )
    n, d = a.shape
    if n <= d:
        raise UsageError(f"paired difference: n = {n} samples for d = {d} features; expected n > d, draw more images")
    values, influences = [], []
    for features in (a, b):
        raw = frechet_distance(real=real, fake=Moments.of(features))
        value = frechet_jackknife(real=real, fake_features=features, labels=labels).value
        if value < raw / 2:
            raise UsageError(
                f"paired difference: of the distance {raw:.4g} at n = {n} only {value:.4g} is more than sampling bias, "
                "too near 0 for influence values; draw more images or compare the jackknife errors"
            )
        values.append(value)
        influences.append(influence(real=real, fake_features=features))
    difference = influences[0] - influences[1]
    strata = [difference] if labels is None else [difference[labels == label] for label in set(labels.tolist())]
    if any(len(stratum) < 2 for stratum in strata):
        raise UsageError("paired difference: a label has only 1 sample; expected 2 of every label, draw more")
    error = math.sqrt(sum(len(stratum) * float(stratum.var()) for stratum in strata)) / n
    return Estimate(values[0] - values[1], error, n)


def paired_jackknife(
    *, real: Moments, a: Tensor, b: Tensor, labels: Tensor | None = None, blocks: int = 60
) -> Estimate:
    """:func:`paired_difference` where distances are near 0: the error from the jackknife blocks that both share.

    It holds to every order, where influence values hold to the first only, at ``blocks`` - 1 degrees of freedom.

    Raises:
        UsageError: as :func:`frechet_jackknife`, or if the shapes differ.
    """
    if a.shape != b.shape:
        raise UsageError(f"paired difference: expected features of one shape, got {list(a.shape)} and {list(b.shape)}")
    shares, of_a = pseudovalues(real=real, fake_features=a, labels=labels, blocks=blocks)
    _, of_b = pseudovalues(real=real, fake_features=b, labels=labels, blocks=blocks)
    difference = of_a - of_b
    value = float(shares @ difference)
    error = float((shares / (1 - shares) * (difference - value) ** 2).mean().sqrt())
    return Estimate(value, error, len(a))


def influence(*, real: Moments, fake_features: Tensor) -> Tensor:
    """How much each sample moves the distance, whose variance is var(phi) / n: phi float64 [n], up to a constant.

        phi_i = z_i^T (I - T) z_i + 2 z_i^T (mu_g - mu_r),   z_i = x_i - mu_g,

    with T = S_r^1/2 (S_r^1/2 S_g S_r^1/2)^-1/2 S_r^1/2 the optimal transport map between the Gaussians. It is the first
    order of an expansion, and says nothing where the distance is mostly sampling bias.

    Args:
        real: moments of the reference.
        fake_features: [n, d].

    Raises:
        UsageError: if n <= d, where T does not exist.
    """
    n, d = fake_features.shape
    if n <= d:
        raise UsageError(f"influence: n = {n} samples for d = {d} features; expected n > d, draw more images")
    fake = Moments.of(fake_features)
    z = fake_features.detach().to("cpu", torch.float64) - fake.mean
    with one_thread():
        root = _square_root(real.covariance)
        values, vectors = torch.linalg.eigh(_symmetric(root @ fake.covariance @ root))
    # directions without any variance (dead features) carry no sample: leave them out of the inverse
    inverse = torch.where(values > 1e-12 * values.max(), values.clamp(min=0).rsqrt(), 0.0)
    half = root @ vectors * inverse.sqrt()
    phi: Tensor = z.square().sum(dim=1) - (z @ half).square().sum(dim=1) + 2 * z @ (fake.mean - real.mean)
    return phi


def _blocks(n: int, labels: Tensor | None, blocks: int) -> tuple[Tensor, ...]:
    if labels is None:
        return torch.randperm(n, generator=torch.Generator().manual_seed(0)).chunk(min(blocks, n // 2))
    if labels.shape != (n,):
        raise UsageError(f"jackknife: {n} samples, labels {list(labels.shape)}; expected one label each")
    labels = labels.to("cpu")
    counts = Counter(labels.tolist()).values()

    def unevenness(number: int) -> tuple[float, int]:
        return sum(abs(count / number - round(count / number)) for count in counts), abs(number - blocks)

    number = min(range(min(max(2, blocks // 2), n // 2), min(2 * blocks, n // 2) + 1), key=unevenness)
    # every prefix of the order is spread over the labels in proportion, hence every block
    return torch.tensor_split(stratified_order(labels, seed=0), number)


def _few_distances(real: Moments, features: Tensor, left_out: Sequence[Tensor]) -> list[float]:
    """The distances of ``features`` [n, d] without the samples at each of ``left_out``, for n up to d: with x the
    centred samples, the eigenvalues of F^T x^T x F that are not 0 are those of x F F^T x^T [n, n], a smaller matrix."""
    x = features.detach().to("cpu", torch.float64)
    _same_width(real, Moments.of(features[:1]))
    y, found = x @ real.factor, []
    for index in left_out:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[index] = False
        mean, rows = x[kept].mean(dim=0), y[kept] - y[kept].mean(dim=0)
        others = len(rows) - 1
        overlap = torch.linalg.eigvalsh(_symmetric(rows @ rows.T) / others).clamp(min=0).sqrt().sum()
        spread = real.covariance.trace() + (x[kept] - mean).square().sum() / others - 2 * overlap
        found.append(float((real.mean - mean).square().sum() + spread))
    return found


def _distance(real: Moments, fake: Moments) -> float:
    """With F F^T = S_r the eigenvalues of F^T S_g F are those of S_r^1/2 S_g S_r^1/2."""
    _same_width(real, fake)
    covariance, factor = fake.covariance, real.factor
    overlap = torch.linalg.eigvalsh(_symmetric(factor.T @ covariance @ factor)).clamp(min=0).sqrt().sum()
    spread = real.covariance.trace() + covariance.trace() - 2 * overlap
    return float((real.mean - fake.mean).square().sum() + spread)


def _factor(covariance: Tensor) -> Tensor:
    """F with F F^T = S: that of Cholesky, a third of the time of a square root, which stands in where S is singular."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    return _square_root(covariance) if int(info) else factor


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(_symmetric(covariance))
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _same_width(a: Moments, b: Moments) -> None:
    if a.d != b.d:
        raise UsageError(f"moments of d = {a.d} and d = {b.d} features cannot be joined or compared; use one extractor")


@contextmanager
def one_thread() -> Iterator[None]:
    """Small symmetric eigenproblems crawl with several busy threads (11 s instead of 0.03 s at d = 512)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
