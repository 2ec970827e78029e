"""Whether images show what was asked for, attribute by attribute, as a judge sees it.

What the judge makes of held-out real images stands beside every score: an agreement above that is no evidence of
anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import fairlead
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError, unknown
from fairlead.data.images import Attribute, ImageData
from fairlead.data.scenes.captions import VALUES, read_caption
from fairlead.measure.attributes import AttributeJudge
from fairlead.measure.metrics import Estimate, proportion_estimate
from fairlead.measure.score import Conditions

ALL = "all"
"""In a score: the share of images that agree in everything they were asked for."""


def metric_of(attribute: str) -> str:
    """The metric of agreement in one attribute of ``VALUES``, or in ``ALL``: "agreement_ink", "agreement"."""
    return "agreement" if attribute == ALL else f"agreement_{attribute.replace(' ', '_')}"


AGREEMENT: Mapping[str, str] = {
    metric_of(ALL): "share that the judge of attributes sees as asked for in everything that the condition says",
    **{metric_of(name): f"the same of the {name} alone, over the images that were asked for one" for name in VALUES},
}
"""Metrics beside ``METRICS`` and what they mean, of models that are conditioned on more than a label, on data whose
attributes can be judged (scenes). Errors: Wilson score interval."""


def adherence_of(metrics: Collection[str]) -> str:
    """Of what is measured, the metric that says how well samples show what they were asked for: agreement with all of
    it or accuracy in the class, where a judge sees them, else the cosine with the prompt."""
    return next((name for name in ("agreement", "accuracy") if name in metrics), "cosine")


@dataclass(frozen=True)
class AttributeProtocol(Conditions):
    """How agreement was measured; two scores compare only if all of it is equal.

    Attributes:
        judge: what it was trained on and the hash of its weights.
        real: name, split and fingerprint of the real images whose agreement stands beside.
        n: number of images judged.
        asked: hash of what was asked for, of all images in their order.
        quantised: what images are rounded to before they are judged.
        dtype: of the network.
        version: of fairlead.
    """

    judge: str
    real: str
    n: int
    asked: str
    quantised: str = "uint8"
    dtype: str = "float32"
    version: str = fairlead.__version__


@dataclass(frozen=True, eq=False)
class AttributeScore:
    """Shares of agreement with what was asked for.

    Attributes:
        agreement: by attribute, over the images that were asked for one (error: Wilson interval, see
            ``proportion_estimate``); "all" is the share that agree in everything. An attribute nobody asked for is not
            in it.
        real: the same of held-out real images: what this judge reaches at best.
    """

    agreement: Mapping[str, Estimate]
    real: Mapping[str, Estimate]
    protocol: AttributeProtocol

    __repr__ = brief

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "agreement": {name: asdict(value) for name, value in self.agreement.items()},
            "real": {name: asdict(value) for name, value in self.real.items()},
            "protocol": {**self.protocol.as_dict(), "hash": self.protocol.hash},
        }

    def __str__(self) -> str:
        """A table: agreement, n, and that of real images, in percent."""
        lines = [f"{'':>16}  {'agreement':>15} {'n':>7}  {'real images':>15} {'n':>7}"]
        for name, value in self.agreement.items():
            real = self.real[name]
            lines.append(f"{name:>16}  {_percent(value):>15} {value.n:>7,}  {_percent(real):>15} {real.n:>7,}")
        return "\n".join(lines)


class AttributeEvaluator:
    """Scores images by a judge, with the agreement of held-out real images beside.

    Args:
        judge: trained on other images than ``held_out``.
        held_out: real images with attributes, e.g. ``load_data("scenes", "test")``.
        asked: what the held-out images are asked to show; default: everything that is known of them. See
            :func:`asked_for`.

    Raises:
        UsageError: if the judge was trained on ``held_out``, or attributes or shapes differ.
    """

    def __init__(
        self, judge: AttributeJudge, held_out: ImageData, asked: Mapping[str, Attribute] | None = None
    ) -> None:
        if held_out.fingerprint == judge.data.fingerprint:
            raise UsageError(
                f"attributes: the judge was trained on these images of {held_out.name!r}; pass another split, e.g. test"
            )
        self.asked = held_out.attributes if asked is None else asked
        _check_asked(self.asked, len(held_out))
        self.judge, self.held_out = judge, held_out
        self.real = agreement(judge.judge(held_out.images), self.asked)

    def score(self, images: Tensor, asked: Mapping[str, Attribute]) -> AttributeScore:
        """Agreement of ``images`` uint8 [n, c, h, w] with ``asked``, e.g. ``held_out_prompts(n).attributes``.

        Raises:
            UsageError: if shapes, lengths or attributes do not fit the judge, or nothing was asked for.
        """
        _check_asked(asked, len(images))
        real = f"{self.held_out.name}/{self.held_out.split}#{self.held_out.fingerprint}"
        protocol = AttributeProtocol(self.judge.name, real, len(images), hash_of(asked))
        return AttributeScore(agreement(self.judge.judge(images), asked), self.real, protocol)

    def hits(self, images: Tensor, asked: Mapping[str, Attribute]) -> dict[str, Tensor]:
        """Image by image, :func:`hits_of`; arguments as for :meth:`score`."""
        _check_asked(asked, len(images))
        return hits_of(self.judge.judge(images), asked)


def asked_for(conditions: Sequence[str], data: ImageData) -> dict[str, Attribute]:
    """What the samples of scenes ``data`` are asked to show, if they are conditioned on ``conditions`` as ``data`` has
    them.

    A caption asks for what :func:`read_caption` finds in it, the label for the digit, an attribute for itself; -1 where
    no condition says. What nobody is asked for is left out.
    """
    asked = {name: torch.full((len(data),), -1) for name in VALUES}
    for name, attribute in data.attributes.items():
        if name in conditions or (name == "digit" and "label" in conditions):
            asked[name] = attribute.labels.clone()
    if "text" in conditions:
        for i, caption in enumerate(data.captions):
            for name, value in read_caption(caption).items():
                asked[name][i] = VALUES[name].index(value)
    return {name: Attribute(VALUES[name], labels) for name, labels in asked.items() if bool((labels >= 0).any())}


def hash_of(asked: Mapping[str, Attribute]) -> str:
    """12 hex digits, for protocols: equal for the same wishes of the same images in the same order."""
    digest = hashlib.sha256()
    for name, attribute in sorted(asked.items()):
        digest.update(json.dumps([name, attribute.values]).encode() + attribute.labels.numpy().tobytes())
    return digest.hexdigest()[:12]


def hits_of(seen: Mapping[str, Tensor], asked: Mapping[str, Attribute]) -> dict[str, Tensor]:
    """float64 [n] by attribute, and for "all": 1 where ``seen`` (labels int64 [n]) is what was ``asked`` for, 0 where
    it is not, nan where nothing was.

    Raises:
        UsageError: for an attribute that was not looked at.
    """
    found: dict[str, Tensor] = {}
    for name, attribute in asked.items():
        if name not in seen:
            raise unknown("attribute", name, seen)
        right = (seen[name] == attribute.labels).to(torch.float64)
        found[name] = torch.where(attribute.labels >= 0, right, torch.nan)
    if not found:
        return {}
    each = torch.stack(list(found.values()))
    every = (each.nan_to_num(1.0) == 1).all(dim=0).to(torch.float64)
    return {**found, ALL: torch.where(each.isnan().all(dim=0), torch.nan, every)}


def agreement(seen: Mapping[str, Tensor], asked: Mapping[str, Attribute]) -> dict[str, Estimate]:
    """Share of images in which ``seen`` (labels int64 [n]) is what was ``asked`` for, by attribute, and in "all".

    Where ``asked`` is -1 an attribute is left out of its share, and says nothing about "all".

    Raises:
        UsageError: if nothing was asked for, or of an attribute that was not looked at.
    """
    shares = {}
    for name, hits in hits_of(seen, asked).items():
        applies = ~hits.isnan()
        if bool(applies.any()):
            shares[name] = proportion_estimate(hits[applies])
    if not shares:
        raise UsageError("attributes: no attribute was asked for; give a label of at least one attribute to one image")
    return shares


def _check_asked(asked: Mapping[str, Attribute], n: int) -> None:
    for name, attribute in asked.items():
        if name not in VALUES:
            raise unknown("attribute", name, VALUES)
        if attribute.values != VALUES[name]:
            raise UsageError(
                f"attribute {name!r}: values are {', '.join(attribute.values)}; the judge's are "
                f"{', '.join(VALUES[name])}"
            )
        if attribute.labels.shape != (n,):
            raise UsageError(
                f"attribute {name!r}: expected labels int64 [{n}], one per image, got {list(attribute.labels.shape)}"
            )


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.2f} ± {100 * value.error:.2f} %"
