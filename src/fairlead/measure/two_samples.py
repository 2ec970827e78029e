"""Two sets of features: KID and CMMD, and precision, recall, density and coverage. All take pairs in blocks.

KID and CMMD are squared maximum mean discrepancies, unbiased and over all pairs:

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   x, x' real, y, y' fake       Gretton et al. 2012, JMLR 13

as a U-statistic: a sample is never paired with itself, every other pair counts, nothing is drawn at random. The value
may be below 0 when the truth is near 0. All sums are float64; the order of samples and the chunk change rounding only.

Precision, recall (Kynkaanniemi et al. 2019, 1904.06991), density and coverage (Naeem et al. 2020, 2002.09797) say how
the fakes lie among the nearest neighbours of the real samples. Conventions, those of Naeem et al.: a sample's radius is
the distance to its k-th nearest neighbour in its own set, and a sample is not its own neighbour (a copy of it is). A
ball is open, d < radius: a point at exactly the radius is outside. Distances are Euclidean, float64; two squares that
differ by less than 1e-12 of |x|^2 + |y|^2 (of the centred features), which is more than rounding, count as equal. So
neither the order of samples nor the chunk changes a count.

Over 300 lines, as kernels and neighbours share what they ask of features and how they take them in blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate, checked_features, mean_estimate, proportion_estimate


class Kernel(Protocol):
    """A kernel on features, evaluated in blocks."""

    def prepare(self, rows: Tensor) -> Tensor:
        """Float64 [m, d] of ``rows`` [m, d], as :meth:`gram` wants them."""

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """A fresh k(a_i, b_j) [m, l] of prepared rows ``a`` [m, d] and ``b`` [l, d]."""


@dataclass(frozen=True)
class Polynomial:
    """k(x, y) = (x.y / d + 1)^degree."""

    degree: int = 3

    def prepare(self, rows: Tensor) -> Tensor:
        return rows.to(torch.float64)

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        base = (a @ b.T / a.shape[1]).add_(1)
        powers = base.clone()
        for _ in range(self.degree - 1):
            powers.mul_(base)
        return powers


@dataclass(frozen=True)
class FittedGaussian:
    """k(x, y) = factor exp(-|x - y|^2 / (2 sigma^2)), of rows brought to length 1 first if ``unit``."""

    sigma: float
    unit: bool = False
    factor: float = 1.0

    def prepare(self, rows: Tensor) -> Tensor:
        rows = rows.to(torch.float64)
        if not self.unit:
            return rows
        lengths = rows.norm(dim=1, keepdim=True)
        if not bool((lengths > 0).all()):
            raise UsageError("cmmd: an embedding is 0 throughout and has no direction; check the images")
        unit: Tensor = rows / lengths
        return unit

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        squares: Tensor = a.norm(dim=1).square()[:, None] + b.norm(dim=1).square()
        distances = squares.addmm_(a, b.T, alpha=-2).clamp_(min=0)
        return distances.mul_(-0.5 / self.sigma**2).exp_().mul_(self.factor)


KID = Polynomial()
"""Binkowski et al. 2018, 1801.01401."""

CMMD = FittedGaussian(sigma=10.0, unit=True, factor=1000.0)
"""Jayasumana et al. 2024, 2401.09603."""


@dataclass(frozen=True, eq=False)
class KernelReference:
    """Real features with what needs to be computed only once of them.

    Attributes:
        features: [n, d], n >= 2, in their own dtype.
        kernel: compares two samples.
        pairs: the mean of k(x, x') over all pairs of different samples.
    """

    features: Tensor
    kernel: Kernel
    pairs: float

    @classmethod
    def of(cls, real: Tensor, kernel: Kernel, chunk: int = 1024) -> KernelReference:
        """Of ``real`` [n, d]; n^2 / 2 kernel values, for memory see :func:`mmd_influence`.

        Raises:
            UsageError: as :func:`checked_features`, with n >= 2.
        """
        x = checked_features(real, "mmd, real", 2, chunk=chunk)
        return cls(x, kernel, float(_means_within(x, kernel, None, chunk).mean()))

    def against(self, fake: Tensor, labels: Tensor | None = None, chunk: int = 1024) -> Estimate:
        """The squared MMD to ``fake`` [n, d] and its standard error sd(h) / sqrt(n), see :func:`mmd_influence`.

        With labels the sd is that within a label, as in stratified sampling.
        """
        value, influence = mmd_influence(self, fake, labels, chunk)
        return Estimate(value, _standard_error(influence, labels), len(fake))


def mmd_influence(
    reference: KernelReference, fake: Tensor, labels: Tensor | None = None, chunk: int = 1024
) -> tuple[float, Tensor]:
    """The squared MMD and the first-order influence of each fake sample on it, the reference held fixed,

        h_i = 2 (mean over j != i of k(y_i, y_j) - mean over r of k(x_r, y_i)),   centred.

    The paired difference of two settings on the same seeds has the standard error sd(h_a - h_b) / sqrt(n). Where the
    distributions coincide the influence of the truth is 0 and h is noise of the right order, so that the error is then
    too large rather than too small.

    Pass ``labels`` whenever so many samples of each were asked for. Pairs of one label then count with the share that
    label has among independent pairs, (n_l / n)^2; among all pairs of different samples they are fewer, which a
    stratified sample would show as a distance of the order 1 / n.

    At most about 32 chunk (d + chunk) bytes beside the features, and the matrix library's own: 110 MB for d = 2048.

    Args:
        reference: the real side.
        fake: [n, d], any float dtype.
        labels: int64 [n], what was asked for; None if the samples were drawn independently.
        chunk: samples of one side of a block of kernel values.

    Returns:
        The value, and h, float64 [n].

    Raises:
        UsageError: if n < 2, d differs, a feature is not finite, or a label has only 1 sample.
    """
    y = checked_features(fake, "mmd, fakes", 2, d=reference.features.shape[1], chunk=chunk)
    within = _means_within(y, reference.kernel, labels, chunk)
    across = torch.zeros(len(y), dtype=torch.float64)
    for sums, part in zip(torch.split(across, chunk), torch.split(y, chunk), strict=True):
        rows = reference.kernel.prepare(part)
        for real in torch.split(reference.features, chunk):
            sums += reference.kernel.gram(rows, reference.kernel.prepare(real)).sum(dim=1)
    across /= len(reference.features)
    value = reference.pairs + float(within.mean()) - 2 * float(across.mean())
    influence = 2 * (within - across)
    return value, influence - influence.mean()


def kid(real: Tensor, fake: Tensor, labels: Tensor | None = None) -> Estimate:
    """Kernel distance with k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, 1801.01401), not multiplied by anything.

    It is called KID with the features of the Inception network. To compare many settings with one reference, keep a
    ``KernelReference.of(real, KID)``. Shapes, memory, error and labels: :func:`mmd_influence`.
    """
    return KernelReference.of(real, KID).against(fake, labels)


def cmmd(real: Tensor, fake: Tensor, labels: Tensor | None = None) -> Estimate:
    """1000 times the squared MMD with a Gaussian kernel of sigma 10 on embeddings of length 1 (Jayasumana et al. 2024).

    2401.09603, where the embeddings are CLIP's. Rows are brought to length 1 here. The public ports compute the biased
    V-statistic, which pairs every sample with itself and is larger by 1000 (1 - mean k) / n from each side.
    ``KernelReference.of(real, CMMD)`` and everything else: as :func:`kid`.
    """
    return KernelReference.of(real, CMMD).against(fake, labels)


def _means_within(x: Tensor, kernel: Kernel, labels: Tensor | None, chunk: int) -> Tensor:
    """For each sample the mean of k over the others, float64 [n]; each block of pairs is evaluated once."""
    n = len(x)
    labels, counts = _counted(labels, n)
    # 1 for a pair of different labels, n_l / (n_l - 1) for two of one label; all over n
    extra = 1 / (counts - 1)
    sums = torch.zeros(n, dtype=torch.float64)
    for start in range(0, n, chunk):
        first = slice(start, start + chunk)
        rows = kernel.prepare(x[first])
        for begin in range(start, n, chunk):
            second = slice(begin, begin + chunk)
            gram = kernel.gram(rows, rows if begin == start else kernel.prepare(x[second]))
            if begin == start:
                gram.fill_diagonal_(0)
            gram.addcmul_(gram, (labels[first, None] == labels[second]) * extra[first, None])
            sums[first] += gram.sum(dim=1)
            if begin != start:
                sums[second] += gram.sum(dim=0)
    return sums / n


def _counted(labels: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """The number 0, 1, ... of each sample's label and float64 how many samples have it, both [n]."""
    if labels is None:
        labels = torch.zeros(n, dtype=torch.long)
    if labels.shape != (n,):
        raise UsageError(f"mmd: {n} samples, labels {list(labels.shape)}; expected one label each")
    _, index, counts = torch.unique(labels.to("cpu"), return_inverse=True, return_counts=True)
    if int(counts.min()) < 2:
        raise UsageError("mmd: a label has only 1 sample; expected 2 of every label, draw more")
    return index, counts[index].to(torch.float64)


def _standard_error(influence: Tensor, labels: Tensor | None) -> float:
    n = len(influence)
    index, _ = _counted(labels, n)
    strata = [influence[index == label] for label in range(int(index.max()) + 1)]
    return math.sqrt(sum(len(stratum) * float(stratum.var()) for stratum in strata)) / n


_TIE = 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """The four numbers; what their errors leave out is said in :meth:`Neighbours.against`.

    Attributes:
        precision: share of the fakes that lie in the ball of at least one real sample.
        recall: share of the real samples that lie in the ball of at least one fake.
        density: the number of real balls a fake lies in, over k; 1 on average for equal distributions, may exceed 1.
        coverage: share of the real samples with at least one fake in their ball.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Real features and their radii, computed once.

    Attributes:
        features: [n, d], n > k, in their own dtype.
        k: which neighbour gives the radius.
        centre: float64 [d], the mean, taken away before distances so that they keep their digits.
        radii: float64 [n].
    """

    features: Tensor
    k: int
    centre: Tensor
    radii: Tensor

    @classmethod
    def of(cls, real: Tensor, k: int = 5, chunk: int = 1024) -> Neighbours:
        """Of ``real`` [n, d], any float dtype.

        At most about 32 chunk (d + chunk) + 8 n k bytes beside the features, 100 MB for d = 2048 and n = 10,000, and
        what the C library keeps of it: 200 MB were measured, 1,400 MB for the same by full matrices of distances.

        Raises:
            UsageError: if n <= k, k < 1, a feature is not finite, or the shape is not [n, d].
        """
        if k < 1:
            raise UsageError(f"precision and recall: k = {k}; expected the 1st or a later neighbour")
        x = checked_features(real, "precision and recall, real", k + 1, chunk=chunk)
        sums = [part.sum(dim=0, dtype=torch.float64) for part in torch.split(x, chunk)]
        centre = torch.stack(sums).sum(dim=0) / len(x)
        return cls(x, k, centre, _radii(x, centre, k, chunk))

    def against(self, fake: Tensor, chunk: int = 1024) -> PrecisionRecall:
        """Measure ``fake`` [m, d]; memory as :meth:`of`.

        Each error is that of a mean over independent samples while the other set, with its radii, is held fixed:
        precision (half a Wilson interval) and density (sd / sqrt(m)) over the fakes; recall and coverage (half a
        Wilson interval) over the real samples. So the errors of recall and coverage do *not* say how the value would
        vary with other fakes. All four depend on k, n and m: compare at equal numbers only.

        Raises:
            UsageError: if m <= k, d differs, or a feature is not finite.
        """
        y = checked_features(fake, "precision and recall, fakes", self.k + 1, d=self.features.shape[1], chunk=chunk)
        real_reach = self.radii.square()
        fake_reach = _radii(y, self.centre, self.k, chunk).square()
        balls = torch.zeros(len(y), dtype=torch.float64)
        recalled, covered = (torch.zeros(len(self.features), dtype=torch.bool) for _ in range(2))
        for start in range(0, len(self.features), chunk):
            own = slice(start, start + chunk)
            rows = _centred(self.features[own], self.centre)
            for begin in range(0, len(y), chunk):
                other = slice(begin, begin + chunk)
                squares = _squares(rows, _centred(y[other], self.centre), 1 + _TIE)
                inside = squares < real_reach[own, None]
                balls[other] += torch.count_nonzero(inside, dim=0)
                covered[own] |= inside.any(dim=1)
                recalled[own] |= (squares < fake_reach[other]).any(dim=1)
        return PrecisionRecall(
            precision=proportion_estimate(balls > 0),
            recall=proportion_estimate(recalled),
            density=mean_estimate(balls / self.k),
            coverage=proportion_estimate(covered),
        )


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> PrecisionRecall:
    """Of ``fake`` [m, d] against ``real`` [n, d]; to measure many settings, keep a :class:`Neighbours` of the real."""
    return Neighbours.of(real, k).against(fake)


def _radii(x: Tensor, centre: Tensor, k: int, chunk: int) -> Tensor:
    """float64 [n]: the distance to the k-th nearest other sample; each block of pairs is evaluated once."""
    nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    for start in range(0, len(x), chunk):
        own = slice(start, start + chunk)
        rows = _centred(x[own], centre)
        for begin in range(start, len(x), chunk):
            other = slice(begin, begin + chunk)
            if begin == start:
                squares = _squares(rows, rows).fill_diagonal_(torch.inf)
            else:
                squares = _squares(rows, _centred(x[other], centre))
                nearest[other] = _smallest(nearest[other], squares.T)
            nearest[own] = _smallest(nearest[own], squares)
    return nearest.amax(dim=1).clamp(min=0).sqrt()


def _smallest(found: Tensor, more: Tensor) -> Tensor:
    """The k smallest of each row of ``found`` [m, k] and ``more`` [m, l]."""
    k = found.shape[1]
    more = more.topk(min(k, more.shape[1]), dim=1, largest=False, sorted=False).values
    return torch.cat([found, more], dim=1).topk(k, dim=1, largest=False, sorted=False).values


def _centred(rows: Tensor, centre: Tensor) -> Tensor:
    return rows - centre  # float64, as the centre is


def _squares(a: Tensor, b: Tensor, stretch: float = 1.0) -> Tensor:
    """``stretch`` (|a_i|^2 + |b_j|^2) - 2 a_i.b_j, [m, l]."""
    norms: Tensor = a.norm(dim=1).square()[:, None] + b.norm(dim=1).square()
    return norms.mul_(stretch).addmm_(a, b.T, alpha=-2)
