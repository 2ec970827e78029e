"""Precision, recall, density and coverage: how the fakes lie among the nearest neighbours of the real samples.

Kynkaanniemi et al. 2019, 1904.06991 (precision, recall) and Naeem et al. 2020, 2002.09797 (density, coverage).

Conventions, those of Naeem et al.: a sample's radius is the distance to its k-th nearest neighbour in its own set, and
a sample is not its own neighbour (a copy of it is). A ball is open, d < radius: a point at exactly the radius is
outside. Distances are Euclidean, float64; two squares that differ by less than 1e-12 of |x|^2 + |y|^2 (of the centred
features), which is more than rounding, count as equal. So neither the order of samples nor the chunk changes a count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.measure.estimate import Estimate, mean_estimate, proportion_estimate
from fairlead.measure.metrics import checked_features

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
