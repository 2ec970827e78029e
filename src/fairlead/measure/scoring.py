"""What all that scores images shares: checks, distances and diversity of features, how a protocol names things."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import Attribute, ImageData, stratified_order
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife
from fairlead.measure.metrics import OF_A_CLASS, Estimate, mean_estimate
from fairlead.measure.rewards.image_reward import ImageReward
from fairlead.measure.sample_metrics import covariance_of_means, pairwise_diversity, shares_at_limits
from fairlead.measure.score import Floor, Samples, Score
from fairlead.models.model import Spec


class Scoring(ABC):
    """Scores images under one protocol.

    Attributes:
        moments: of the features of the real images; None where there are none.
        reward: what else every image is worth; None: nothing.
    """

    moments: Moments | None
    reward: ImageReward | None = None

    def rewarding(self, reward: ImageReward | None) -> Self:
        """The same, which measures ``reward`` of every image too."""
        other = copy(self)
        other.reward = reward
        return other

    def score(
        self,
        images: Tensor,
        labels: Tensor,
        x0: Tensor | None,
        seeds: Sequence[int],
        block: int | None = None,
        *,
        saturation: Tensor | None = None,
        asked: Mapping[str, Attribute] | None = None,
        left_out: Collection[int] = (),
        conds: Sequence[Spec] = (),
    ) -> Score:
        """Measure generated images.

        Args:
            images: uint8 [n, c, h, w], n >= 4.
            labels: int64 [n], what was asked for.
            x0: float [n, ...] in the data range [-1, 1], before clipping and rounding; None leaves saturation out.
            seeds: one per sample.
            block: take the raw distance at so many images, so that it compares with a floor of as many; default n.
            saturation: float64 [n], ``shares_at_limits`` of an x0 that is no longer there; instead of ``x0``.
            asked: what the images should show, for agreement; needs a judge of attributes.
            left_out: labels that diversity leaves out, beside those with fewer than 3 images; the protocol names all of
                them.
            conds: the condition of each image, for the reward.

        Raises:
            UsageError: if lengths, dtypes or counts do not fit.
        """
        n = len(images)
        if saturation is not None and (x0 is not None or saturation.shape != (n,)):
            raise UsageError(
                f"score: saturation {list(saturation.shape)} of {n} images"
                f"{'' if x0 is None else ' beside x0'}; expected one share per image, instead of x0"
            )
        if labels.shape != (n,) or len(seeds) != n or (x0 is not None and len(x0) != n):
            raise UsageError(
                f"score: {n} images, labels {list(labels.shape)}, {len(seeds)} seeds, x0 "
                f"{None if x0 is None else len(x0)}; expected one of each per image"
            )
        if block is not None and not 1 < block <= n:
            raise UsageError(f"score: expected a block of 2 to {n} images, got {block}")
        if x0 is not None:
            saturation = shares_at_limits(x0.detach().to("cpu", torch.float32))
        return self._score(images, labels, saturation, _seeds(seeds), block or n, asked, left_out, conds)

    @abstractmethod
    def described(self) -> dict[str, str]:
        """What of a protocol this decides."""

    @abstractmethod
    def floor(self, n: int, left_out: Collection[int] = ()) -> Floor:
        """Held-out real images scored as if they had been generated, ``n`` at a time."""

    @abstractmethod
    def samples(
        self,
        images: Tensor,
        labels: Tensor,
        x0: Tensor | None = None,
        saturation: Tensor | None = None,
        asked: Mapping[str, Attribute] | None = None,
        conds: Sequence[Spec] = (),
    ) -> Samples:
        """What is measured of each image by itself; arguments as for :meth:`score`."""

    def rewarded(self, images: Tensor, conds: Sequence[Spec]) -> dict[str, Tensor]:
        """float64 [n] as ``reward``, where there is one."""
        return {} if self.reward is None else {"reward": self.reward.values(images, conds)}

    def _rewards_by(self) -> dict[str, str]:
        """The field of a protocol about the reward."""
        return {} if self.reward is None else {"reward": self.reward.name}

    @abstractmethod
    def _score(
        self,
        images: Tensor,
        labels: Tensor,
        saturation: Tensor | None,
        seeds: str,
        block: int,
        asked: Mapping[str, Attribute] | None = None,
        left_out: Collection[int] = (),
        conds: Sequence[Spec] = (),
    ) -> Score: ...


def disjoint_blocks(data: ImageData, n: int) -> tuple[tuple[Tensor, ...], int, str]:
    """(Indices of as many disjoint blocks of ``n`` real images as there are, spread over the classes; the size of
    each; a sentence on that): all of them in one block where there are fewer.

    Raises:
        UsageError: if n is not positive.
    """
    if n < 1:
        raise UsageError(f"floor: expected n >= 1, got {n}")
    available = len(data)
    size, blocks = (n, available // n) if n <= available else (available, 1)
    where = f"{data.name} {data.split}".strip()
    note = f"{blocks} disjoint block{'s' * (blocks > 1)} of {size} held-out images of {where}"
    if size < n:
        note = (
            f"only {size} held-out images of {where} for n = {n}: all of them were used; "
            f"the raw distance of a score compares with it only when taken at block={size} too"
        )
    return stratified_order(data.labels, seed=0)[: size * blocks].chunk(blocks), size, note


def distances(real: Moments, features: Tensor, labels: Tensor | None, block: int) -> dict[str, Estimate]:
    """The raw distance at ``block`` images, and the debiased one, of ``features`` [n, d]."""
    debiased = frechet_jackknife(real=real, fake_features=features, labels=labels)
    blocks = torch.split(features[: len(features) // block * block], block)
    each = [frechet_distance(real=real, fake=Moments.of(part)) for part in blocks]
    return {"distance": Estimate(sum(each) / len(each), debiased.error, len(features)), "distance_debiased": debiased}


def mean_within(values: Tensor, labels: Tensor) -> Estimate:
    """The mean of ``values`` [n], with the error of samples of fixed ``labels`` int64 [n]: within each of them."""
    error = math.sqrt(float(covariance_of_means(values.to(torch.float64)[:, None], labels)))
    return Estimate(float(values.mean()), error, len(values))


def saturations(x0: Tensor | None, shares: Tensor | None) -> dict[str, Tensor]:
    """float64 [n] as ``saturation``: of ``x0``, or the ``shares`` that are known of it; nothing of neither."""
    if x0 is not None:
        shares = shares_at_limits(x0.detach().to("cpu", torch.float32))
    return {} if shares is None else {"saturation": shares.to("cpu", torch.float64)}


def diversity(samples: Samples, left_out: Collection[int] = ()) -> tuple[Samples, dict[str, Estimate], list[int]]:
    """(The samples, which know what diversity counts; diversity, if any condition has enough samples; the labels that
    it leaves out)."""
    features, labels = samples.features, samples.labels
    rare = sorted({*rare_labels(labels), *left_out})
    if not rare:
        return samples, {"diversity": pairwise_diversity(features, labels)}, rare
    counted = ~torch.isin(labels, torch.tensor(rare, dtype=torch.int64))
    samples = replace(samples, diverse=counted)
    if not bool(counted.any()):
        return samples, {}, rare
    return samples, {"diversity": pairwise_diversity(features[counted], labels[counted])}, rare


def rare_labels(labels: Tensor) -> list[int]:
    """The labels with fewer than 3 samples, which diversity leaves out."""
    which, counts = torch.unique(labels, return_counts=True)
    rare: list[int] = which[counts < OF_A_CLASS].tolist()
    return rare


def mean_of(values: Sequence[Estimate], n: int) -> Estimate:
    mean = mean_estimate(torch.tensor([value.value for value in values]))
    return Estimate(mean.value, mean.error, n)


def listed_numbers(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels))


def described_data(data: ImageData) -> str:
    return f"{data.name}/{data.split}#{data.fingerprint}"


def labels_said(labels: Tensor) -> str:
    """``10 labels x 50 #1a2b3c4d``: how many of each, and a hash of the order."""
    counts = list(Counter(labels.tolist()).values())
    each = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{len(counts)} label{'s' * (len(counts) > 1)} x {each} #{_short_hash(labels.tolist())}"


def _seeds(seeds: Sequence[int]) -> str:
    """``0..499``, or for other than consecutive seeds ``500 seeds from 3 to 9999 #1a2b3c4d``."""
    given = [int(seed) for seed in seeds]
    if given == list(range(given[0], given[0] + len(given))):
        return f"{given[0]}..{given[-1]}"
    return f"{len(given)} seeds from {min(given)} to {max(given)} #{_short_hash(given)}"


def _short_hash(numbers: list[int]) -> str:
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:8]
