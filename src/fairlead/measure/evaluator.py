"""Scores images against real ones, and real ones against each other, under one protocol."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import Attribute, ImageData, stratified_order, to_float
from fairlead.data.names import composed
from fairlead.measure.agreement import AGREEMENT, AttributeEvaluator, hash_of, metric_of
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife
from fairlead.measure.judge import Classifier
from fairlead.measure.metrics import OF_A_CLASS, Estimate, mean_estimate, proportion_estimate
from fairlead.measure.sample_metrics import (
    accuracy,
    certainties,
    confidence,
    hits,
    pairwise_diversity,
    shares_at_limits,
)
from fairlead.measure.score import METRICS, Floor, Protocol, Samples, Score


class Evaluator:
    """Scores images against a reference, under one pair of classifiers.

    Args:
        reference: real images; their moments are computed once, here.
        held_out: real images that are not in ``reference``, for :meth:`floor`.
        judge: for accuracy and confidence.
        features: for distance and diversity.
        attributes: for agreement with what is asked for, attribute by attribute; None leaves it out.
        moments: of the reference's features, where they are known; else they are computed.

    Raises:
        UsageError: if judge and features are the same network, or shapes or classes differ.
    """

    def __init__(
        self,
        reference: ImageData,
        held_out: ImageData,
        judge: Classifier,
        features: Classifier,
        attributes: AttributeEvaluator | None = None,
        moments: Moments | None = None,
    ) -> None:
        if judge.weight_hash == features.weight_hash:
            raise UsageError(
                f"evaluator: judge and features are the same network {judge.name!r}; expected two of their own, see "
                "cached_classifier(data, 'judge') and cached_classifier(data, 'features')"
            )
        kinds = {what.shape: None for what in (reference, held_out, judge.data, features.data)}
        named = (what.classes for what in (reference, held_out, judge.data, features.data))
        vocabularies = {tuple(map(composed, classes)): None for classes in named}
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
        self.attributes, self._attributes_name = attributes, "" if attributes is None else attributes.judge.name
        self.moments = moments or Moments.of(features.features(reference.images))

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
    ) -> Score:
        """Measure generated images.

        Args:
            images: uint8 [n, c, h, w], n >= 4.
            labels: int64 [n], what was asked for.
            x0: float [n, ...] in the data range [-1, 1], before clipping and rounding; None leaves saturation out.
            seeds: one per sample.
            block: take the raw distance at so many images, so that it compares with a floor of as many; default n.
            saturation: float64 [n], ``shares_at_limits`` of an x0 that is no longer there; instead of ``x0``.
            asked: what the images should show, for agreement; needs ``attributes``.
            left_out: labels that diversity leaves out, beside those with fewer than 3 images; the protocol names all of
                them.

        Raises:
            UsageError: if lengths, dtypes or counts do not fit.
        """
        n = len(images)
        if saturation is not None and (x0 is not None or saturation.shape != (n,)):
            raise UsageError(
                f"score: saturation {list(saturation.shape)} of {n} images"
                f"{'' if x0 is None else ' beside x0'}; expected one share an image, instead of x0"
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
        return self._score(images, labels, saturation, _seeds(seeds), block or n, asked, left_out)

    def described(self) -> dict[str, str]:
        """What of a protocol the evaluator itself decides."""
        more = {"attributes": self._attributes_name} if self.attributes else {}
        own = {"features": self._extractor_name, "judge": self._judge_name, "reference": _described(self.reference)}
        return {**own, **more}

    def floor(self, n: int, left_out: Collection[int] = ()) -> Floor:
        """Held-out real images scored as if they had been generated, ``n`` at a time.

        As many disjoint blocks of n as there are, spread evenly over the classes; if n is more than there are, all of
        them as one block, and the note says so. Diversity, which does not depend on n, is that of all held-out images
        where a block has fewer than 3 of a class.

        Args:
            left_out: labels that diversity leaves out, as for :meth:`score`.

        Raises:
            UsageError: if n is not positive, or blocks are too small to score.
        """
        if n < 1:
            raise UsageError(f"floor: expected n >= 1, got {n}")
        data, available = self.held_out, len(self.held_out)
        size, blocks = (n, available // n) if n <= available else (available, 1)
        scores = []
        for index in stratified_order(data.labels, seed=0)[: size * blocks].chunk(blocks):
            shares = shares_at_limits(to_float(data.images[index]))
            scores.append(
                self._score(data.images[index], data.labels[index], shares, "real images", size, None, left_out)
            )
        metrics = dict(scores[0].metrics)
        if blocks > 1:
            for name in [name for name in metrics if name != "diversity"]:
                metrics[name] = _mean_of([score.metrics[name] for score in scores], size * blocks)
        diverse = sorted({*rare_labels(data.labels), *left_out})
        if all(score.protocol.left_out == _numbers(diverse) for score in scores):
            if blocks > 1 and "diversity" in metrics:
                metrics["diversity"] = _mean_of([score.metrics["diversity"] for score in scores], size * blocks)
        else:
            metrics.pop("diversity", None)
            counted = ~torch.isin(data.labels, torch.tensor(diverse, dtype=torch.int64))
            if bool(counted.any()):
                features = self.extractor.features(data.images[counted])
                metrics["diversity"] = pairwise_diversity(features, data.labels[counted])
        metrics = {name: metrics[name] for name in METRICS if name in metrics}
        logits = self.judge.logits(data.images)
        metrics["accuracy"] = accuracy(logits, data.labels)
        metrics["confidence"] = confidence(logits, data.labels)
        if self.attributes is not None:
            metrics |= {metric_of(name): value for name, value in self.attributes.real.items()}
        note = f"{blocks} disjoint block{'s' * (blocks > 1)} of {size} held-out images of {data.name} {data.split}"
        if size < n:
            note = (
                f"only {size} held-out images of {data.name} {data.split} for n = {n}: all of them were used; "
                f"the raw distance of a score compares with it only when taken at block={size} too"
            )
        return Floor(metrics, size, blocks, scores[0].protocol, note)

    def samples(
        self,
        images: Tensor,
        labels: Tensor,
        x0: Tensor | None = None,
        saturation: Tensor | None = None,
        asked: Mapping[str, Attribute] | None = None,
    ) -> Samples:
        """What is measured of each image by itself; arguments as for :meth:`score`."""
        logits, labels = self.judge.logits(images), labels.to("cpu")
        values = {"accuracy": hits(logits, labels), "confidence": certainties(logits, labels)}
        if x0 is not None:
            saturation = shares_at_limits(x0.detach().to("cpu", torch.float32))
        if saturation is not None:
            values["saturation"] = saturation.to("cpu", torch.float64)
        if asked:
            if self.attributes is None:
                raise UsageError("score: what was asked for is given, and no judge of attributes; pass both or neither")
            values |= {metric_of(name): value for name, value in self.attributes.hits(images, asked).items()}
        return Samples(self.moments, self.extractor.features(images), labels, values)

    def _score(
        self,
        images: Tensor,
        labels: Tensor,
        saturation: Tensor | None,
        seeds: str,
        block: int,
        asked: Mapping[str, Attribute] | None = None,
        left_out: Collection[int] = (),
    ) -> Score:
        samples = self.samples(images, labels, saturation=saturation, asked=asked)
        features, labels, values = samples.features, samples.labels, samples.values
        debiased = frechet_jackknife(real=self.moments, fake_features=features, labels=labels)
        blocks = torch.split(features[: len(features) // block * block], block)
        each = [frechet_distance(real=self.moments, fake=Moments.of(part)) for part in blocks]
        found = {name: mean_estimate(value) for name, value in values.items() if name not in AGREEMENT}
        found["accuracy"] = proportion_estimate(values["accuracy"])
        for name in AGREEMENT:
            hits_there = values[name][~values[name].isnan()] if name in values else labels[:0]
            if len(hits_there):
                found[name] = proportion_estimate(hits_there)
        found["distance"] = Estimate(sum(each) / len(each), debiased.error, len(images))
        found["distance_debiased"] = debiased
        rare = sorted({*rare_labels(labels), *left_out})
        if rare:
            counted = ~torch.isin(labels, torch.tensor(rare, dtype=torch.int64))
            samples = replace(samples, diverse=counted)
            if bool(counted.any()):
                found["diversity"] = pairwise_diversity(features[counted], labels[counted])
        else:
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
            attributes=self._attributes_name if asked else "",
            asked=hash_of(asked) if asked else "",
            left_out=_numbers(rare),
        )
        return Score({name: found[name] for name in (*METRICS, *AGREEMENT) if name in found}, protocol, samples)


def rare_labels(labels: Tensor) -> list[int]:
    """The labels with fewer than 3 samples, which diversity leaves out."""
    which, counts = torch.unique(labels, return_counts=True)
    rare: list[int] = which[counts < OF_A_CLASS].tolist()
    return rare


def _mean_of(values: Sequence[Estimate], n: int) -> Estimate:
    mean = mean_estimate(torch.tensor([value.value for value in values]))
    return Estimate(mean.value, mean.error, n)


def _numbers(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels))


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
