"""Whether images show what was asked for, attribute by attribute, as a judge sees it.

What the judge makes of held-out real images stands beside every score: an agreement above that is no evidence of
anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

import fairlead
from fairlead.core.errors import UsageError, unknown
from fairlead.data.captions import VALUES
from fairlead.data.images import Attribute, ImageData
from fairlead.measure.attributes import AttributeJudge
from fairlead.measure.estimate import Estimate, proportion_estimate
from fairlead.measure.score import Conditions

ALL = "all"
"""In a score: the share of images that agree in everything they were asked for."""


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

    Raises:
        UsageError: if the judge was trained on ``held_out``, or attributes or shapes differ.
    """

    def __init__(self, judge: AttributeJudge, held_out: ImageData) -> None:
        if held_out.fingerprint == judge.data.fingerprint:
            raise UsageError(
                f"attributes: the judge was trained on these images of {held_out.name!r}; pass another split, e.g. test"
            )
        _check_asked(held_out.attributes, len(held_out))
        self.judge, self.held_out = judge, held_out
        self.real = agreement(judge.judge(held_out.images), held_out.attributes)

    def score(self, images: Tensor, asked: Mapping[str, Attribute]) -> AttributeScore:
        """Agreement of ``images`` uint8 [n, c, h, w] with ``asked``, e.g. ``held_out_prompts(n).attributes``.

        Raises:
            UsageError: if shapes, lengths or attributes do not fit the judge, or nothing was asked for.
        """
        _check_asked(asked, len(images))
        digest = hashlib.sha256()
        for name, attribute in sorted(asked.items()):
            digest.update(json.dumps([name, attribute.values]).encode() + attribute.labels.numpy().tobytes())
        real = f"{self.held_out.name}/{self.held_out.split}#{self.held_out.fingerprint}"
        protocol = AttributeProtocol(self.judge.name, real, len(images), digest.hexdigest()[:12])
        return AttributeScore(agreement(self.judge.judge(images), asked), self.real, protocol)


def agreement(seen: Mapping[str, Tensor], asked: Mapping[str, Attribute]) -> dict[str, Estimate]:
    """Share of images in which ``seen`` (labels int64 [n]) is what was ``asked`` for, by attribute, and in "all".

    Where ``asked`` is -1 an attribute is left out of its share, and says nothing about "all".

    Raises:
        UsageError: if nothing was asked for, or of an attribute that was not looked at.
    """
    shares, every, any_asked = {}, None, None
    for name, attribute in asked.items():
        if name not in seen:
            raise unknown("attribute", name, seen)
        applies, right = attribute.labels >= 0, seen[name] == attribute.labels
        if bool(applies.any()):
            shares[name] = proportion_estimate(right[applies])
        every = right | ~applies if every is None else every & (right | ~applies)
        any_asked = applies if any_asked is None else any_asked | applies
    if every is None or any_asked is None or not shares:
        raise UsageError("attributes: nothing was asked for; give a label of at least one attribute to one image")
    return {**shares, ALL: proportion_estimate(every[any_asked])}


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
                f"attribute {name!r}: expected labels int64 [{n}], one an image, got {list(attribute.labels.shape)}"
            )


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.2f} ± {100 * value.error:.2f} %"
