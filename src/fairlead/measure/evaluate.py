"""A score and the protocol it was measured under; two scores of different protocols cannot be compared."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

import fairlead
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, stratified_order, to_float
from fairlead.measure.estimate import Estimate, mean_estimate
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife, paired_difference
from fairlead.measure.judge import Classifier
from fairlead.measure.scores import certainties, hits, pairwise_diversity, shares_at_limits

METRICS: Mapping[str, str] = {
    "distance": "Fréchet distance of the features to the reference, at block images (biased upwards by about 1/block)",
    "distance_debiased": "the same without the bias of a finite n (delete-block jackknife)",
    "accuracy": "share that the judge recognises as what was asked for",
    "confidence": "mean probability the judge gives to what was asked for",
    "diversity": "mean L2 distance of the features of two samples of one condition",
    "saturation": "share of pixel values at or beyond the data range",
}
"""Every metric of a :class:`Score`, in the order of tables, and what it means."""


@dataclass(frozen=True)
class Protocol:
    """How a score was measured; scores compare only if all of it is equal.

    Attributes:
        features: name and weight hash of the network whose features give distance and diversity.
        judge: name and weight hash of the network behind accuracy and confidence.
        reference: name, split and fingerprint of the real images.
        reference_n: number of them.
        n: number of images scored.
        block: number of images at which the raw distance is taken, averaged over the disjoint blocks of so many.
        labels: what was asked for, with a hash of the order.
        seeds: the seeds of the samples.
        quantised: what images are rounded to before they are measured.
        dtype: of the networks; moments and metrics are float64.
        version: of fairlead.
    """

    features: str
    judge: str
    reference: str
    reference_n: int
    n: int
    block: int
    labels: str
    seeds: str
    quantised: str = "uint8"
    dtype: str = "float32"
    version: str = fairlead.__version__

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, other: Protocol) -> dict[str, tuple[object, object]]:
        """The fields in which the two differ: name -> (here, there)."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True)
class Difference(Estimate):
    """Of two scores. ``paired`` says whether the error uses that sample i of both has the same seed and label; where it
    is False, the two errors are added in squares, which is too large rather than too small for common seeds."""

    paired: bool


@dataclass(frozen=True, eq=False)
class Samples:
    """What a score keeps of its samples, so that differences have paired errors; lost when a score is written.

    Attributes:
        reference: moments of the real images.
        features: [n, d].
        labels: int64 [n].
        values: metric -> float64 [n], for the metrics that are plain means.
    """

    reference: Moments
    features: Tensor
    labels: Tensor
    values: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Score:
    """``metrics`` by name (see ``METRICS``; "saturation" only if x0 was given) and their ``protocol``."""

    metrics: Mapping[str, Estimate]
    protocol: Protocol
    samples: Samples | None = field(default=None, repr=False)

    def compare(self, other: Score) -> dict[str, Difference]:
        """This minus ``other``, for every metric that both have.

        Raises:
            UsageError: if the protocols differ; the message says in what.
        """
        unlike = self.protocol.differences(other.protocol)
        if unlike:
            what = "; ".join(f"{name}: {here!r} and {there!r}" for name, (here, there) in unlike.items())
            raise UsageError(
                f"scores of different protocols cannot be compared ({what}); measure both under one protocol"
            )
        return {name: self._difference(other, name) for name in self.metrics if name in other.metrics}

    def _difference(self, other: Score, name: str) -> Difference:
        mine, theirs = self.metrics[name], other.metrics[name]
        if self.samples is not None and other.samples is not None:
            if name in self.samples.values:
                pair = mean_estimate(self.samples.values[name] - other.samples.values[name])
                return Difference(pair.value, pair.error, pair.n, True)
            if name in ("distance", "distance_debiased"):
                try:
                    a, b = self.samples.features, other.samples.features
                    pair = paired_difference(real=self.samples.reference, a=a, b=b, labels=self.samples.labels)
                    return Difference(mine.value - theirs.value, pair.error, pair.n, True)
                except UsageError:  # too few samples, or too near 0, for influence values
                    pass
        return Difference(mine.value - theirs.value, math.hypot(mine.error, theirs.error), mine.n, False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``samples`` are not in it."""
        return {
            "metrics": {name: asdict(value) for name, value in self.metrics.items()},
            "protocol": {**asdict(self.protocol), "hash": self.protocol.hash},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Score:
        """The inverse of :meth:`as_dict`.

        Raises:
            UsageError: if the protocol was changed after it was written.
        """
        protocol = Protocol(**{name: value for name, value in stored["protocol"].items() if name != "hash"})
        if protocol.hash != stored["protocol"]["hash"]:
            raise UsageError(f"score: its protocol hashes to {protocol.hash}, not to the stored hash; measure it again")
        return cls({name: Estimate(**value) for name, value in stored["metrics"].items()}, protocol)


@dataclass(frozen=True)
class Floor:
    """Where the scale of each metric ends: held-out real images, measured like generated ones.

    Attributes:
        metrics: as in :class:`Score`; accuracy and confidence on all held-out images, the rest on blocks of ``n``.
        n: images per block.
        blocks: number of disjoint blocks averaged; with 1, errors are those of the one block.
        protocol: of one block.
        note: one sentence for the reader, for instance that fewer than the wanted n were available.
    """

    metrics: Mapping[str, Estimate]
    n: int
    blocks: int
    protocol: Protocol
    note: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Floor:
        """The inverse of :meth:`as_dict`."""
        metrics = {name: Estimate(**value) for name, value in stored["metrics"].items()}
        return cls(metrics, stored["n"], stored["blocks"], Protocol(**stored["protocol"]), stored["note"])


class Evaluator:
    """Scores images against a reference, under one pair of classifiers.

    Args:
        reference: real images; their moments are computed once, here.
        held_out: real images that are not in ``reference``, for :meth:`floor`.
        judge: for accuracy and confidence.
        features: for distance and diversity.

    Raises:
        UsageError: if judge and features are the same network, or shapes or classes differ.
    """

    def __init__(self, reference: ImageData, held_out: ImageData, judge: Classifier, features: Classifier) -> None:
        if judge.weight_hash == features.weight_hash:
            raise UsageError(
                f"evaluator: judge and features are the same network {judge.name!r}; expected two of their own, see "
                "cached_classifier(data, 'judge') and cached_classifier(data, 'features')"
            )
        kinds = {what.shape: None for what in (reference, held_out, judge.data, features.data)}
        vocabularies = {what.classes: None for what in (reference, held_out, judge.data, features.data)}
        if len(kinds) > 1 or len(vocabularies) > 1:
            raise UsageError(
                f"evaluator: reference, held-out images and both classifiers must share image shape and classes; "
                f"got shapes {list(kinds)} and {len(vocabularies)} lists of classes"
            )
        if reference.fingerprint == held_out.fingerprint:
            raise UsageError(
                f"evaluator: held-out images and reference are both {_described(reference)}; pass two splits"
            )
        self.reference, self.held_out, self.judge, self.extractor = reference, held_out, judge, features
        self._judge_name, self._extractor_name = judge.name, features.name
        self.moments = Moments.of(features.features(reference.images))

    def score(
        self, images: Tensor, labels: Tensor, x0: Tensor | None, seeds: Sequence[int], block: int | None = None
    ) -> Score:
        """Measure generated images.

        Args:
            images: uint8 [n, c, h, w], at least 3 of every label that occurs.
            labels: int64 [n], what was asked for.
            x0: float [n, ...] in the data range [-1, 1], before clipping and rounding; None leaves saturation out.
            seeds: one per sample.
            block: take the raw distance at so many images, so that it compares with a floor of as many; default n.

        Raises:
            UsageError: if lengths, dtypes or counts do not fit.
        """
        n = len(images)
        if labels.shape != (n,) or len(seeds) != n or (x0 is not None and len(x0) != n):
            raise UsageError(
                f"score: {n} images, labels {list(labels.shape)}, {len(seeds)} seeds, x0 "
                f"{None if x0 is None else len(x0)}; expected one of each per image"
            )
        if block is not None and not 1 < block <= n:
            raise UsageError(f"score: expected a block of 2 to {n} images, got {block}")
        return self._score(images, labels, x0, _seeds(seeds), block or n)

    def floor(self, n: int) -> Floor:
        """Held-out real images scored as if they had been generated, ``n`` at a time.

        As many disjoint blocks of n as there are, spread evenly over the classes; if n is more than there are, all of
        them as one block, and the note says so.

        Raises:
            UsageError: if n is not positive, or blocks are too small to score.
        """
        if n < 1:
            raise UsageError(f"floor: expected n >= 1, got {n}")
        data, available = self.held_out, len(self.held_out)
        size, blocks = (n, available // n) if n <= available else (available, 1)
        scores = []
        for index in stratified_order(data.labels, seed=0)[: size * blocks].chunk(blocks):
            x0 = to_float(data.images[index])
            scores.append(self._score(data.images[index], data.labels[index], x0, "real images", size))
        metrics = dict(scores[0].metrics)
        if blocks > 1:
            for name in metrics:
                metrics[name] = mean_estimate(torch.tensor([score.metrics[name].value for score in scores]))
                metrics[name] = Estimate(metrics[name].value, metrics[name].error, size * blocks)
        logits = self.judge.logits(data.images)
        metrics["accuracy"] = mean_estimate(hits(logits, data.labels))
        metrics["confidence"] = mean_estimate(certainties(logits, data.labels))
        note = f"{blocks} disjoint block{'s' * (blocks > 1)} of {size} held-out images of {data.name} {data.split}"
        if size < n:
            note = (
                f"only {size} held-out images of {data.name} {data.split} for n = {n}: all of them were used; "
                f"the raw distance of a score compares with it only when taken at block={size} too"
            )
        return Floor(metrics, size, blocks, scores[0].protocol, note)

    def _score(self, images: Tensor, labels: Tensor, x0: Tensor | None, seeds: str, block: int) -> Score:
        features = self.extractor.features(images)
        logits = self.judge.logits(images)
        labels = labels.to("cpu")
        values = {"accuracy": hits(logits, labels), "confidence": certainties(logits, labels)}
        if x0 is not None:
            values["saturation"] = shares_at_limits(x0.detach().to("cpu", torch.float32))
        debiased = frechet_jackknife(real=self.moments, fake_features=features, labels=labels)
        blocks = torch.split(features[: len(features) // block * block], block)
        each = [frechet_distance(real=self.moments, fake=Moments.of(part)) for part in blocks]
        found = {name: mean_estimate(value) for name, value in values.items()}
        found["distance"] = Estimate(sum(each) / len(each), debiased.error, len(images))
        found["distance_debiased"] = debiased
        found["diversity"] = pairwise_diversity(features, labels)
        protocol = Protocol(
            features=self._extractor_name,
            judge=self._judge_name,
            reference=_described(self.reference),
            reference_n=len(self.reference),
            n=len(images),
            block=block,
            labels=_labels(labels),
            seeds=seeds,
        )
        metrics = {name: found[name] for name in METRICS if name in found}
        return Score(metrics, protocol, Samples(self.moments, features, labels, values))


def _described(data: ImageData) -> str:
    return f"{data.name}/{data.split}#{data.fingerprint}"


def _labels(labels: Tensor) -> str:
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
