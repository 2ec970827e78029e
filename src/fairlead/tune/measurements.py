"""What a search sees of a model: batches of measured samples, and what several settings' common seeds say together.

Nothing here knows how samples are made. A search asks for ``measure((1.5,), range(0, 200))`` and gets a :class:`Batch`;
it asks again with the next seeds and joins the two. Settings measured on the same seeds are compared on them: their
values come with one covariance matrix, so that the error of a difference is that of paired samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife, influence, pseudovalues
from fairlead.measure.metrics import DEBIASED, Estimate
from fairlead.measure.sample_metrics import covariance_of_means

DISTANCE = DEBIASED
ROWS = "rows"
BLOCKS = 60
"""Blocks of the jackknife that stands in where influence values say nothing: as many degrees of freedom, less one."""

Values = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one setting, measured.

    Attributes:
        features: [n, d], for the distance.
        values: metric -> [n], one number per sample, for metrics that are plain means (hits of a judge: 0 and 1); nan
            where a sample is not asked for what is measured.
        rows: network rows that the n samples cost together.
        labels: int64 [n], what was asked for, if as many of each were asked for at every setting; else None.
    """

    features: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    rows: float = 0.0
    labels: Tensor | None = None


class Measure(Protocol):
    """Samples ``seeds`` at ``setting``. Sample i must be the same function of (setting, seed i) at every call, so that
    two settings share their noise (and, with labels, the label of every seed)."""

    def __call__(self, setting: Values, seeds: range) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Measurement:
    """All that was measured of one setting: a :class:`Batch` that knows its setting, seeds and reference.

    Attributes:
        setting: the values of the knobs.
        seeds: consecutive.
        batch: of these seeds.
        reference: moments of the real features; None where no distance is measured.

    Raises:
        UsageError: if the lengths do not fit the number of seeds.
    """

    setting: Values
    seeds: range
    batch: Batch
    reference: Moments | None

    def __post_init__(self) -> None:
        n, batch = len(self.seeds), self.batch
        lengths = {"features": len(batch.features), **{name: len(value) for name, value in batch.values.items()}}
        if batch.labels is not None:
            lengths["labels"] = len(batch.labels)
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise UsageError(f"measure: {n} seeds were asked for, got {wrong}; return one of each per seed")

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def rows(self) -> float:
        """Network rows per image."""
        return self.batch.rows / self.n

    def more(self, measure: Measure, n: int) -> Measurement:
        """With the next seeds measured too, so that there are ``n``; as it is if there are that many."""
        if n <= self.n:
            return self
        seeds = range(self.seeds.stop, self.seeds.start + n)
        return self + Measurement(self.setting, seeds, measure(self.setting, seeds), self.reference)

    def __add__(self, other: Measurement) -> Measurement:
        """Of one setting, on this one's seeds and then those of ``other``, which must follow them."""
        a, b = self.batch, other.batch
        if self.setting != other.setting or other.seeds.start != self.seeds.stop:
            raise UsageError(
                f"measured {self.setting} on {self.seeds} and {other.setting} on {other.seeds} cannot be joined; "
                "expected one setting and the seeds that follow"
            )
        if a.values.keys() != b.values.keys() or (a.labels is None) != (b.labels is None):
            raise UsageError("measure: two batches of one setting have different metrics, or only one of them labels")
        joined = Batch(
            torch.cat([a.features, b.features]),
            {name: torch.cat([value, b.values[name]]) for name, value in a.values.items()},
            a.rows + b.rows,
            None if a.labels is None or b.labels is None else torch.cat([a.labels, b.labels]),
        )
        return Measurement(self.setting, range(self.seeds.start, other.seeds.stop), joined, self.reference)

    def first(self, n: int) -> Measurement:
        """On the first n seeds only."""
        if n >= self.n:
            return self
        batch = self.batch
        part = Batch(
            batch.features[:n],
            {name: value[:n] for name, value in batch.values.items()},
            self.rows * n,
            None if batch.labels is None else batch.labels[:n],
        )
        return Measurement(self.setting, self.seeds[:n], part, self.reference)

    def estimate(self, metric: str) -> Estimate:
        """``metric`` alone, with its standard error.

        Raises:
            UsageError: for a metric that was not measured.
        """
        return together([self], metric).estimate(0)

    def interval(self, metric: str, z: float) -> tuple[float, float]:
        """Where the truth of ``metric`` lies, at ``z`` standard errors; for shares of hits the exact interval of the
        binomial (Clopper & Pearson 1934), as a share near 1 of few images is far from normal."""
        found = self.estimate(metric)
        if self.of_hits(metric) and found.n:
            hits = round(found.value * found.n)
            return _least_share(hits, found.n, z), 1 - _least_share(found.n - hits, found.n, z)
        return found.value - z * found.error, found.value + z * found.error

    def of_hits(self, metric: str) -> bool:
        """Whether ``metric`` is a share of hits: every value 0 or 1, where it applies."""
        values = self.batch.values.get(metric)
        return values is not None and bool(((values == 0) | (values == 1) | values.isnan()).all())

    @property
    def _real(self) -> Moments:
        if self.reference is None:
            raise unknown("metric", DISTANCE, (*self.batch.values, ROWS))
        return self.reference

    @cached_property
    def _pseudo(self) -> tuple[Tensor, Tensor]:
        batch = self.batch
        return pseudovalues(real=self._real, fake_features=batch.features, labels=batch.labels, blocks=BLOCKS)

    @cached_property
    def _distance(self) -> float:
        batch = self.batch
        return frechet_jackknife(real=self._real, fake_features=batch.features, labels=batch.labels).value

    @cached_property
    def _near_zero(self) -> bool:
        """More than half of the distance is sampling bias: its first-order influence vanishes."""
        if self.n <= self.batch.features.shape[1]:
            return True
        return self._distance < frechet_distance(real=self._real, fake=Moments.of(self.batch.features)) / 2

    @cached_property
    def _influence(self) -> Tensor:
        return influence(real=self._real, fake_features=self.batch.features)


@lru_cache(maxsize=4096)
def _least_share(hits: int, n: int, z: float) -> float:
    """The share p at which ``hits`` or more of n have the probability 1 - Phi(z); 0 for no hits."""
    if hits == 0:
        return 0.0
    k = torch.arange(hits, n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    low, high, tail = 0.0, 1.0, NormalDist().cdf(-z)
    while high - low > 1e-9:
        p = (low + high) / 2
        chance = float((ways + k * math.log(p) + (n - k) * math.log1p(-p)).exp().sum())
        low, high = (p, high) if chance < tail else (low, p)
    return low


@dataclass(frozen=True, eq=False)
class Together:
    """One metric of k settings on the same n seeds (those it applies to): ``values`` float64 [k] and their
    ``covariance`` [k, k]. Values are nan where n is 0."""

    values: Tensor
    covariance: Tensor
    n: int

    def estimate(self, i: int) -> Estimate:
        return Estimate(float(self.values[i]), math.sqrt(max(0.0, float(self.covariance[i, i]))), self.n)

    def difference(self, i: int, j: int) -> Estimate:
        """Values i minus setting j, with the paired error."""
        c = self.covariance
        variance = float(c[i, i] + c[j, j] - 2 * c[i, j])
        return Estimate(float(self.values[i] - self.values[j]), math.sqrt(max(0.0, variance)), self.n)


def together(settings: Sequence[Measurement], metric: str) -> Together:
    """``metric`` of all ``settings`` on the seeds they have in common, which are the first of each.

    ``distance_debiased`` is the jackknifed Fréchet distance, its covariance that of the influence values; where for a
    setting most of the distance is sampling bias, that of the jackknife of 60 blocks. ``rows`` (network rows per image)
    has no error. Any other metric is the mean of its values, over the seeds it applies to. With labels all variances
    are those within a label, but for metrics that do not apply to every seed: their seeds are too few of some labels.

    Raises:
        UsageError: for a metric that was not measured, or settings that have not the same first seed and labels.
    """
    n = min(one.n for one in settings)
    common = [one.first(n) for one in settings]
    labels = common[0].batch.labels
    for other in common:
        mine = other.batch.labels
        same = mine is None if labels is None else mine is not None and torch.equal(mine, labels)
        if other.seeds != common[0].seeds or not same:
            raise UsageError(
                f"settings {common[0].setting} and {other.setting} were not measured on the same seeds and labels; "
                "measure both from one first seed"
            )
    k = len(common)
    if metric == ROWS:
        rows = torch.tensor([one.rows for one in settings], dtype=torch.float64)
        return Together(rows, torch.zeros(k, k, dtype=torch.float64), n)
    if metric == DISTANCE:
        values = torch.tensor([one._distance for one in common], dtype=torch.float64)
        if any(one._near_zero for one in common):
            shares = common[0]._pseudo[0]
            pseudo = torch.stack([one._pseudo[1] for one in common], dim=1)
            spread = pseudo - shares @ pseudo
            return Together(values, (spread * (shares / (1 - shares))[:, None]).T @ spread / len(shares), n)
        each = torch.stack([one._influence for one in common], dim=1)
        return Together(values, covariance_of_means(each, labels), n)
    if any(metric not in one.batch.values for one in common):
        raise unknown("metric", metric, (DISTANCE, *common[0].batch.values, ROWS))
    each = torch.stack([one.batch.values[metric].to("cpu", torch.float64) for one in common], dim=1)
    applies = ~each.isnan().any(dim=1)
    if bool(applies.all()):
        return Together(each.mean(dim=0), covariance_of_means(each, labels), n)
    count = int(applies.sum())
    if count < 2:
        return Together(torch.full((k,), torch.nan), torch.zeros(k, k), 0)
    return Together(each[applies].mean(dim=0), covariance_of_means(each[applies], None), count)


@dataclass(frozen=True)
class Goal:
    """What is searched for: the lowest ``metric``, or the highest."""

    metric: str = DISTANCE
    maximise: bool = False

    def of(self, settings: Sequence[Measurement]) -> Together:
        """As a loss: the lower the better."""
        found = together(settings, self.metric)
        return Together(-found.values, found.covariance, found.n) if self.maximise else found


def z_of(level: float) -> float:
    """How many standard errors hold ``level`` of a normal distribution: 1.96 for 0.95.

    Raises:
        UsageError: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UsageError(f"level {level!r}: expected a number between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)
