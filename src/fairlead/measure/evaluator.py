"""Scores images against real ones, and real ones against each other, under one protocol; or by their prompts.

Over 300 lines, as both kinds of scoring stand side by side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import Attribute, ImageData, to_float
from fairlead.data.names import composed
from fairlead.data.specs import Spec
from fairlead.measure.agreement import AGREEMENT, AttributeEvaluator, hash_of, metric_of
from fairlead.measure.comparison import cosines_of, text_features
from fairlead.measure.extractors import Extractor
from fairlead.measure.frechet import Moments
from fairlead.measure.judge import Classifier
from fairlead.measure.metrics import mean_estimate, proportion_estimate
from fairlead.measure.sample_metrics import (
    accuracy,
    certainties,
    confidence,
    hits,
    pairwise_diversity,
    shares_at_limits,
)
from fairlead.measure.score import METRICS, Floor, Protocol, Samples, Score
from fairlead.measure.scoring import (
    Scoring,
    described_data,
    disjoint_blocks,
    distances,
    diversity,
    labels_said,
    listed_numbers,
    mean_of,
    mean_within,
    rare_labels,
    saturations,
)


class Evaluator(Scoring):
    """Scores images against a reference, under one pair of classifiers.

    Args:
        reference: real images; their moments are computed once, here.
        held_out: real images that are not in ``reference``, for :meth:`floor`.
        judge: for accuracy and confidence.
        features: for distance and diversity: a classifier of these images, or any extractor.
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
        features: Classifier | Extractor,
        attributes: AttributeEvaluator | None = None,
        moments: Moments | None = None,
    ) -> None:
        own = [features] if isinstance(features, Classifier) else []
        if any(judge.weight_hash == other.weight_hash for other in own):
            raise UsageError(
                f"evaluator: judge and features are the same network {judge.name!r}; expected two of their own, see "
                "cached_classifier(data, 'judge') and cached_classifier(data, 'features')"
            )
        seen = [(part.shape, part.classes) for part in (reference, held_out)]
        seen += [(network.data.shape, network.data.classes) for network in (judge, *own)]
        kinds = {shape: None for shape, _ in seen}
        vocabularies = {tuple(map(composed, classes)): None for _, classes in seen}
        if len(kinds) > 1 or len(vocabularies) > 1:
            raise UsageError(
                f"evaluator: reference, held-out images and both classifiers must share image shape and classes; "
                f"got shapes {list(kinds)} and {len(vocabularies)} lists of classes"
            )
        if reference.fingerprint == held_out.fingerprint:
            raise UsageError(
                f"evaluator: held-out images and reference are both {described_data(reference)}; pass two splits"
            )
        self.reference, self.held_out, self.judge, self.extractor = reference, held_out, judge, features
        self._judge_name, self._extractor_name = judge.name, features.name
        self.attributes, self._attributes_name = attributes, "" if attributes is None else attributes.judge.name
        self.moments: Moments = moments or Moments.of(features.features(reference.images))

    def described(self) -> dict[str, str]:
        """What of a protocol the evaluator itself decides."""
        more = {"attributes": self._attributes_name} if self.attributes else {}
        own = {"features": self._extractor_name, "judge": self._judge_name, "reference": described_data(self.reference)}
        return {**own, **more, **self._rewards_by()}

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
        data = self.held_out
        parts, size, note = disjoint_blocks(data, n)
        logits, features = self.judge.logits(data.images), self.extractor.features(data.images)
        blocks, scores = len(parts), []
        conds = [] if self.reward is None else self.reward.conds_of(data)
        for index in parts:
            images, said = data.images[index], [conds[i] for i in index.tolist()] if conds else ()
            shares = shares_at_limits(to_float(images))
            seen = logits[index], features[index]
            labels = data.labels[index]
            scores.append(self._score(images, labels, shares, "real images", size, None, left_out, said, seen))
        metrics = dict(scores[0].metrics)
        if blocks > 1:
            for name in [name for name in metrics if name != "diversity"]:
                metrics[name] = mean_of([score.metrics[name] for score in scores], size * blocks)
        diverse = sorted({*rare_labels(data.labels), *left_out})
        if all(score.protocol.left_out == listed_numbers(diverse) for score in scores):
            if blocks > 1 and "diversity" in metrics:
                metrics["diversity"] = mean_of([score.metrics["diversity"] for score in scores], size * blocks)
        else:
            metrics.pop("diversity", None)
            counted = ~torch.isin(data.labels, torch.tensor(diverse, dtype=torch.int64))
            if bool(counted.any()):
                metrics["diversity"] = pairwise_diversity(features[counted], data.labels[counted])
        metrics = {name: metrics[name] for name in METRICS if name in metrics}
        metrics["accuracy"] = accuracy(logits, data.labels)
        metrics["confidence"] = confidence(logits, data.labels)
        if self.attributes is not None:
            metrics |= {metric_of(name): value for name, value in self.attributes.real.items()}
        return Floor(metrics, size, blocks, scores[0].protocol, note)

    def samples(
        self,
        images: Tensor,
        labels: Tensor,
        x0: Tensor | None = None,
        saturation: Tensor | None = None,
        asked: Mapping[str, Attribute] | None = None,
        conds: Sequence[Spec] = (),
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> Samples:
        """What is measured of each image by itself; arguments as for :meth:`score`. ``seen`` is what judge (logits) and
        extractor (features) answered, where they were asked before."""
        logits, features = seen or (self.judge.logits(images), self.extractor.features(images))
        labels = labels.to("cpu")
        values = {"accuracy": hits(logits, labels), "confidence": certainties(logits, labels)}
        values |= {**saturations(x0, saturation), **self.rewarded(images, conds)}
        if asked:
            if self.attributes is None:
                raise UsageError(
                    "score: the wanted attributes are given, but no judge of attributes; pass both or neither"
                )
            values |= {metric_of(name): value for name, value in self.attributes.hits(images, asked).items()}
        return Samples(self.moments, features, labels, values)

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
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> Score:
        samples = self.samples(images, labels, saturation=saturation, asked=asked, conds=conds, seen=seen)
        labels, values = samples.labels, samples.values
        found = {name: mean_estimate(value) for name, value in values.items() if name not in AGREEMENT}
        found["accuracy"] = proportion_estimate(values["accuracy"])
        for name in AGREEMENT:
            hits_there = values[name][~values[name].isnan()] if name in values else labels[:0]
            if len(hits_there):
                found[name] = proportion_estimate(hits_there)
        found |= distances(self.moments, samples.features, labels, block)
        samples, varied, rare = diversity(samples, left_out)
        found |= varied
        protocol = Protocol(
            features=self._extractor_name,
            judge=self._judge_name,
            reference=described_data(self.reference),
            reference_n=len(self.reference),
            n=len(images),
            block=block,
            labels=labels_said(labels),
            seeds=seeds,
            attributes=self._attributes_name if asked else "",
            asked=hash_of(asked) if asked else "",
            left_out=listed_numbers(rare),
            **self._rewards_by(),
        )
        return Score({name: found[name] for name in (*METRICS, *AGREEMENT) if name in found}, protocol, samples)


class PromptEvaluator(Scoring):
    """Scores images by their prompts: cosine of both, diversity, saturation, and the distance to real images, if any.

    Args:
        asked: the conditions of the samples, in turn.
        texts: what each of ``asked`` says, for the cosine.
        reader: embeds images and texts, for the cosine.
        features: for diversity and distance.
        reference, held_out: real images, and others for :meth:`floor`; of any size, as ``features`` take it.
        moments: of the reference's features, where they are known; else they are computed.

    Raises:
        UsageError: if ``reader`` embeds no text.
    """

    def __init__(
        self,
        asked: Sequence[Spec],
        texts: Sequence[str],
        reader: Extractor,
        features: Extractor,
        reference: ImageData | None = None,
        held_out: ImageData | None = None,
        moments: Moments | None = None,
    ) -> None:
        different = dict(zip(asked, texts, strict=True))
        self.asked, self.names, specs = tuple(asked), tuple(map(str, different)), list(different)
        self.labels = torch.tensor([specs.index(spec) for spec in asked])
        """Of ``asked``, indices into ``names``, the different ones of them."""
        self.reader, self.extractor = reader, features
        self.reference, self.held_out = reference, held_out
        self.read = text_features(reader, list(different.values()))
        self.moments = moments
        if reference is not None:
            self.moments = moments or Moments.of(features.features(reference.images))

    def described(self) -> dict[str, str]:
        real = {} if self.reference is None else {"reference": described_data(self.reference)}
        return {"features": self.extractor.name, **self._text(), **real, **self._rewards_by()}

    def floor(self, n: int, left_out: Collection[int] = ()) -> Floor:
        """The distance of held-out real images, ``n`` at a time; nothing where there are none, at ``n`` all the same.

        Raises:
            UsageError: if n is not positive, or blocks are too small to score.
        """
        if self.held_out is None or self.moments is None:
            return Floor({}, n, 0, self._protocol(n, n, "none", "none", ()), "no real images")
        parts, size, note = disjoint_blocks(self.held_out, n)
        features, blocks = self.extractor.features(self.held_out.images), len(parts)
        each = [distances(self.moments, features[index], None, size) for index in parts]
        found = {name: mean_of([one[name] for one in each], size * blocks) for name in each[0]}
        protocol = self._protocol(size, size, "none", "real images", ())
        return Floor(found if blocks > 1 else each[0], size, blocks, protocol, note)

    def samples(
        self,
        images: Tensor,
        labels: Tensor,
        x0: Tensor | None = None,
        saturation: Tensor | None = None,
        asked: Mapping[str, Attribute] | None = None,
        conds: Sequence[Spec] = (),
    ) -> Samples:
        labels, features = labels.to("cpu"), self.extractor.features(images)
        seen = features if self.reader is self.extractor else self.reader.features(images)
        own = cosines_of(seen, self.read.values).gather(1, labels[:, None])[:, 0]
        values = {"cosine": own, **saturations(x0, saturation), **self.rewarded(images, conds)}
        return Samples(self.moments, features, labels, values)

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
    ) -> Score:
        samples = self.samples(images, labels, saturation=saturation, conds=conds)
        samples, varied, rare = diversity(samples, left_out)
        found = {**varied, **{name: mean_within(value, samples.labels) for name, value in samples.values.items()}}
        if self.moments is not None:
            found |= distances(self.moments, samples.features, samples.labels, block)
        protocol = self._protocol(len(images), block, labels_said(samples.labels), seeds, rare)
        return Score({name: found[name] for name in METRICS if name in found}, protocol, samples)

    def _protocol(self, n: int, block: int, labels: str, seeds: str, rare: Sequence[int]) -> Protocol:
        return Protocol(
            features=self.extractor.name,
            judge="none",
            reference="none" if self.reference is None else described_data(self.reference),
            reference_n=0 if self.reference is None else len(self.reference),
            n=n,
            block=block,
            labels=labels,
            seeds=seeds,
            left_out=listed_numbers(rare),
            **self._text(),
            **self._rewards_by(),
        )

    def _text(self) -> dict[str, str]:
        """The fields of a protocol about the prompts."""
        prompts = hashlib.sha256(json.dumps(list(map(str, self.asked))).encode()).hexdigest()[:12]
        return {"text": f"{self.read.name}, {self.reader.name}", "prompts": f"{len(self.asked)} prompts #{prompts}"}
