"""Whether images show what was asked for, attribute by attribute: a judge with one head an attribute, and its score.

The judge is one small network, trained on images whose attributes are known, by the recipe and the cache of
``judge``. It is not the network behind Fréchet distances, and it must not guide. What it makes of held-out real images
stands beside every score: an agreement above that is no evidence of anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fairlead
from fairlead.core.errors import UsageError, unknown
from fairlead.data.images import Attribute, ImageData
from fairlead.measure.estimate import Estimate, proportion_estimate
from fairlead.measure.judge import (
    Recipe,
    TrainedOn,
    channels_last,
    check_images,
    convolutions,
    fit,
    in_chunks,
    stored_network,
    trained_on,
    weight_hash,
)
from fairlead.measure.score import Conditions

ALL = "all"
"""In a score: the share of images that agree in everything they were asked for."""

NOISE = 0.1
"""While training, images get Gaussian noise of a standard deviation up to this, in units of [-1, 1]: generated images
are not as clean as real ones."""


class AttributeJudge(nn.Module):
    """The stages of ``judge.Classifier``, a feature layer, and a linear head for each attribute.

    Attributes:
        values: by attribute, the names of its values; the position is the label.
    """

    def __init__(self, recipe: Recipe, data: TrainedOn, values: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.recipe, self.data, self.values = recipe, data, dict(values)
        stages, out = convolutions(data.shape, recipe.width)
        self.body = nn.Sequential(*stages, nn.Flatten(), nn.Linear(out, recipe.features), nn.ReLU())
        self.heads = nn.Linear(recipe.features, sum(map(len, self.values.values())))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [n, k] by attribute, of float images [n, c, h, w] in [-1, 1]; for training."""
        return self._by_name(self.heads(self.body(x)))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits float32 [n, k] by attribute, of ``images`` uint8 [n, c, h, w]; on the CPU, without gradients.

        Raises:
            UsageError: if the images are not of the shape it was trained on.
        """
        check_images(images, self.data)
        return self._by_name(in_chunks(self, lambda x: self.heads(self.body(x)), images))

    def judge(self, images: Tensor) -> dict[str, Tensor]:
        """What it sees in ``images`` uint8 [n, c, h, w]: labels int64 [n] by attribute.

        The attributes of the second digit are those it would have: look at "count" first.
        """
        return {name: logits.argmax(dim=1) for name, logits in self.logits(images).items()}

    @property
    def name(self) -> str:
        """For protocols: what it was trained on and its weights, ``scenes/train-attributes32-s1@0123456789ab``."""
        return (
            f"{self.data.name}/{self.data.split}-attributes{self.recipe.width}-s{self.recipe.seed}@{weight_hash(self)}"
        )

    def _by_name(self, logits: Tensor) -> dict[str, Tensor]:
        parts = torch.split(logits, [len(values) for values in self.values.values()], dim=1)
        return dict(zip(self.values, parts, strict=True))


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
        _check_asked(held_out.attributes, judge, len(held_out))
        self.judge, self.held_out = judge, held_out
        self.real = agreement(judge.judge(held_out.images), held_out.attributes)

    def score(self, images: Tensor, asked: Mapping[str, Attribute]) -> AttributeScore:
        """Agreement of ``images`` uint8 [n, c, h, w] with ``asked``, e.g. ``held_out_prompts(n).attributes``.

        Raises:
            UsageError: if shapes, lengths or attributes do not fit the judge, or nothing was asked for.
        """
        _check_asked(asked, self.judge, len(images))
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


def attribute_recipe(data: ImageData) -> Recipe:
    """The stated recipe; see docs/scenes.md for its accuracy on held-out images and its time."""
    return Recipe(seed=60_306, steps=2500, width=24, features=128, shift=0)


def train_attribute_judge(
    data: ImageData, recipe: Recipe | None = None, progress: Callable[[int, float], None] | None = None
) -> AttributeJudge:
    """Train on all of ``data`` by the sum of the cross-entropies of its attributes, each over the images it applies to.

    Float32 on the CPU; the global random state is left as it was. ``progress`` is called with (step, loss).

    Raises:
        UsageError: if the data has no attributes, or the recipe shifts images (it would move them from their place).
    """
    recipe = recipe or attribute_recipe(data)
    if not data.attributes:
        raise UsageError(f"attributes: data {data.name!r} has none to learn; use a set with attributes, e.g. scenes")
    if recipe.shift:
        raise UsageError(f"attributes: expected a recipe with shift 0, got {recipe.shift}: position is an attribute")
    noise = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        judge = AttributeJudge(recipe, trained_on(data), _values(data))

    def loss(x: Tensor, index: Tensor) -> Tensor:
        amount = NOISE * torch.rand(len(x), 1, 1, 1, generator=noise)
        logits = judge(channels_last(x + amount * torch.randn(x.shape, generator=noise)))
        losses = []
        for name, attribute in data.attributes.items():
            labels = attribute.labels[index]
            applies = labels >= 0
            if bool(applies.any()):
                losses.append(F.cross_entropy(logits[name][applies], labels[applies]))
        return torch.stack(losses).sum()

    fit(judge, loss, data, recipe, progress)
    return judge


def cached_attribute_judge(
    data: ImageData, folder: Path | None = None, progress: Callable[[int, float], None] | None = None
) -> AttributeJudge:
    """The judge for ``data``: read from ``folder`` if it is there, else trained and stored, as ``cached_classifier``.

    Raises:
        UsageError: if the data has no attributes.
    """
    recipe, seen, values = attribute_recipe(data), trained_on(data), _values(data)
    return stored_network(
        "attributes",
        {"recipe": asdict(recipe), "data": asdict(seen), "values": list(values.items()), "noise": NOISE},
        data.name,
        folder,
        lambda: AttributeJudge(recipe, seen, values),
        lambda: train_attribute_judge(data, recipe, progress),
    )


def _values(data: ImageData) -> dict[str, tuple[str, ...]]:
    return {name: attribute.values for name, attribute in data.attributes.items()}


def _check_asked(asked: Mapping[str, Attribute], judge: AttributeJudge, n: int) -> None:
    for name, attribute in asked.items():
        if name not in judge.values:
            raise unknown("attribute", name, judge.values)
        if attribute.values != judge.values[name]:
            raise UsageError(
                f"attribute {name!r}: values are {', '.join(attribute.values)}; "
                f"the judge's are {', '.join(judge.values[name])}"
            )
        if attribute.labels.shape != (n,):
            raise UsageError(
                f"attribute {name!r}: expected labels int64 [{n}], one an image, got {list(attribute.labels.shape)}"
            )


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.2f} ± {100 * value.error:.2f} %"
