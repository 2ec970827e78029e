"""A score and the protocol it was measured under; two scores of different protocols cannot be compared."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from torch import Tensor

import fairlead
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments, paired_difference, paired_jackknife
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.measure.sample_metrics import covariance_of_means, paired_diversity

METRICS: Mapping[str, str] = {
    "distance": "Fréchet distance of the features to the reference, at block images, biased upwards by about 1/block",
    "distance_debiased": "Fréchet distance without the bias of a finite n (delete-block jackknife)",
    "accuracy": "share that the judge recognises as what was asked for (error: Wilson score interval)",
    "confidence": "mean probability the judge gives to what was asked for",
    "cosine": "cosine of the features of an image and of its own prompt, under the network that reads the prompts",
    "diversity": "mean L2 distance of the features of two samples of one condition, over the conditions with 3 or more",
    "saturation": "share of pixel values at or beyond the data range",
    "reward": "mean over images of the reward that was asked for",
}
"""Metrics of a :class:`Score`, in the order of tables, and what they mean."""


class Conditions:
    """A frozen dataclass of everything that numbers were measured under."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def differences(self, other: Self) -> dict[str, tuple[object, object]]:
        """The fields in which the two differ: name -> (here, there)."""
        here, there = self.as_dict(), other.as_dict()
        both = {name: (here.get(name, ""), there.get(name, "")) for name in {**here, **there}}
        return {name: (mine, theirs) for name, (mine, theirs) in both.items() if mine != theirs}


@dataclass(frozen=True)
class Protocol(Conditions):
    """How a score was measured; scores compare only if all of it is equal.

    Attributes:
        features: name and weight hash of the network whose features give distance and diversity.
        judge: name and weight hash of the network behind accuracy and confidence.
        reference: name, split and fingerprint of the real images; "none" where there are none, and so of the judge.
        reference_n: number of them.
        n: number of images scored.
        block: number of images at which the raw distance is taken, averaged over the disjoint blocks of so many.
        labels: what was asked for, with a hash of the order.
        seeds: the seeds of the samples.
        attributes: name and weight hash of the judge behind agreement, and ``asked`` a hash of what it should see; both
            empty, and not in the hash, where agreement is not measured.
        text: name and weight hash of the network behind the cosine with prompts, and ``prompts`` a hash of them; both
            empty, and not in the hash, where it is not measured.
        reward: the reward and what it names; empty, and not in the hash, where none is measured.
        left_out: the labels that diversity leaves out, "2, 5"; empty, and not in the hash, where there are none.
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
    attributes: str = ""
    asked: str = ""
    left_out: str = ""
    text: str = ""
    prompts: str = ""
    reward: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if value != ""}


@dataclass(frozen=True)
class Difference(Estimate):
    """Of two scores. ``paired`` says whether the error uses that sample i of both has the same seed and label; where it
    is False, the two errors are added in squares, which is too large rather than too small for common seeds."""

    paired: bool


@dataclass(frozen=True, eq=False)
class Samples:
    """What a score keeps of its samples, so that differences have paired errors. Not part of ``Score.as_dict``:
    :meth:`tensors` is for a file beside it.

    Attributes:
        reference: moments of the real images; None where there are none.
        features: [n, d].
        labels: int64 [n].
        values: metric -> float64 [n], for the metrics that are plain means; nan where a sample is not asked for what is
            measured.
        diverse: bool [n], the samples whose class diversity counts; None for all.
    """

    reference: Moments | None
    features: Tensor
    labels: Tensor
    values: Mapping[str, Tensor]
    diverse: Tensor | None = None

    __repr__ = brief

    def tensors(self) -> dict[str, Tensor]:
        """All but the reference, by name, for a file."""
        return {
            "features": self.features.contiguous(),
            "labels": self.labels.contiguous(),
            **{f"value {name}": value.contiguous() for name, value in self.values.items()},
            **({} if self.diverse is None else {"diverse": self.diverse.contiguous()}),
        }

    @classmethod
    def from_tensors(cls, reference: Moments | None, stored: Mapping[str, Tensor]) -> Samples:
        """The inverse of :meth:`tensors`; other names are left alone."""
        values = {name.removeprefix("value "): part for name, part in stored.items() if name.startswith("value ")}
        return cls(reference, stored["features"], stored["labels"], values, stored.get("diverse"))


@dataclass(frozen=True, eq=False)
class Score:
    """``metrics`` by name (see ``METRICS``; "saturation" only if x0 was given) and their ``protocol``."""

    metrics: Mapping[str, Estimate]
    protocol: Protocol
    samples: Samples | None = field(default=None, repr=False)

    __repr__ = brief

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
                each = self.samples.values[name] - other.samples.values[name]
                if self.protocol.prompts:  # which are the same in both, and no noise
                    error = math.sqrt(float(covariance_of_means(each[:, None], self.samples.labels)))
                    return Difference(float(each.mean()), error, len(each), True)
                pair = mean_estimate(each[~each.isnan()])
                return Difference(pair.value, pair.error, pair.n, True)
            a, b = self.samples.features, other.samples.features
            if name == "diversity":
                labels, counted = self.samples.labels, self.samples.diverse
                if counted is not None:
                    a, b, labels = a[counted], b[counted], labels[counted]
                pair = paired_diversity(a, b, labels)
                return Difference(pair.value, pair.error, pair.n, True)
            real = self.samples.reference
            few, prompted = len(a) <= a.shape[1], bool(self.protocol.prompts)
            if name in ("distance", "distance_debiased") and real is not None and (prompted or not few):
                if few:  # as is usual for features of pretrained networks, whose distances take long
                    pair = paired_jackknife(real=real, a=a, b=b, labels=self.samples.labels, blocks=20)
                    return Difference(mine.value - theirs.value, pair.error, pair.n, True)
                try:
                    pair = paired_difference(real=real, a=a, b=b, labels=self.samples.labels)
                except UsageError:  # too near 0 for influence values
                    pair = paired_jackknife(real=real, a=a, b=b, labels=self.samples.labels)
                return Difference(mine.value - theirs.value, pair.error, pair.n, True)
        return Difference(mine.value - theirs.value, math.hypot(mine.error, theirs.error), mine.n, False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``samples`` are not in it."""
        return {
            "metrics": {name: asdict(value) for name, value in self.metrics.items()},
            "protocol": {**self.protocol.as_dict(), "hash": self.protocol.hash},
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
    """What held-out real images reach, measured like generated ones.

    Attributes:
        metrics: as in :class:`Score`; accuracy and confidence on all held-out images, the rest on blocks of ``n``.
            Empty where there are no real images.
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
