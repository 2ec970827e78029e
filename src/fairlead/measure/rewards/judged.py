"""The log-probability of a class by a classifier of the model's own training data, without a gradient.

    judged()                             the run's condition
    judged("seven")                      of data with classes
    judged("digit=seven; ink=red")       of scenes, any of their attributes; judged("a red seven") reads the same
    20 * judged("seven", hard=True)      only whether the class is recognised

The classifier is trained on the data once, like the judge of ``fairlead sweep``, and cached. It shares no weights with
that judge or with the features of distances, so a sweep or ``fairlead measure`` does not score samples with the
classifier that steered them. Images are rounded to 256 levels before they are classified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import plain, shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, to_uint8
from fairlead.data.scenes.captions import VALUES, read_caption
from fairlead.guide.moment import Context
from fairlead.guide.rewards.reward import Fn, Reward
from fairlead.measure.attributes import REWARD_RECIPE, cached_attribute_judge, is_scenes
from fairlead.measure.judge import cached_classifier
from fairlead.models.model import LabelEncoder, Spec

Wish = Mapping[str, int]
"""Attribute -> index of its value; of data with classes the only attribute is "class"."""
_TRAINED: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {}
"""By the fingerprint of the images that they were trained on."""


@dataclass(frozen=True)
class Judged(Reward):
    """``judged("seven")``, ``judged()``, ``judged("ink=red", hard=True)``: log-probability of what is wanted by a
    classifier of the training data, added over attributes.

    Attributes:
        wanted: a class by name or index, or attributes of scenes; None for the condition of each sample.
        data: what the classifier is trained on; None for what the model was trained on.
        hard: return the share of wanted attributes that it recognises (1 or 0 for a class), not the log-probability.
    """

    wanted: str | int | None = None
    data: str | None = None
    hard: bool = field(default=False, kw_only=True)
    name: ClassVar[str] = "judged"

    def __post_init__(self) -> None:
        object.__setattr__(self, "wanted", plain(self.wanted))
        if isinstance(self.wanted, bool) or not isinstance(self.wanted, str | int | None):
            raise UsageError(f'judged: expected a class such as "seven", or "digit=seven", got {shown(self.wanted)}')
        if not isinstance(self.data, str | None):
            raise UsageError(f'judged: expected data to be a name such as "digits", got {shown(self.data)}')
        if not isinstance(self.hard, bool):
            raise UsageError(f"judged: expected hard to be True or False, got {shown(self.hard)}")

    @property
    def differentiable(self) -> bool:
        return False

    def of(self, on: Context) -> Fn:
        judge, wishes = _judge_of(self._data(on)), self._wishes(on)

        def seen(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            found = judge(to_uint8(x0))
            total = torch.zeros(len(x0), dtype=torch.float64)
            for name, logits in found.items():
                index = torch.tensor([wish.get(name, -1) for wish in wishes])
                right = (logits.argmax(1) == index) if self.hard else _log_p(logits, index)
                total += torch.where(index >= 0, right.to(torch.float64), 0.0)
            return total / torch.tensor([max(1, len(wish)) for wish in wishes]) if self.hard else total

        return seen

    def check(self, on: Context) -> None:
        super().check(on)
        data = self._data(on)
        if tuple(on.model.image_shape) != data.shape:
            raise UsageError(
                f"{self}: data {data.name!r} has images {list(data.shape)}, the model's are "
                f"{list(on.model.image_shape)}; give data of that shape"
            )
        self._wishes(on)
        _judge_of(data)

    def needs_condition(self) -> bool:
        return self.wanted is None

    def _data(self, on: Context) -> ImageData:
        name = self.data or on.model.metadata.get("data")
        if not isinstance(name, str):
            raise UsageError(f'{self}: nothing says what the model was trained on; write judged(..., data="digits")')
        return _loaded(name)

    def _wishes(self, on: Context) -> list[Wish]:
        """What is wanted of each sample."""
        data = self._data(on)
        if self.wanted is not None:
            return [self._read(self.wanted, data)] * on.condition.n
        if len(on.specs) != on.condition.n:
            raise UsageError(f"{self} reads the conditions of a run: sample with fl.sample, or say what is wanted")
        return [{} if spec is None else self._read(spec, data) for spec in on.specs]

    def _read(self, spec: Spec, data: ImageData) -> Wish:
        if not is_scenes(data):
            label = spec.get("label") if isinstance(spec, Mapping) else spec
            return {} if label is None else {"class": LabelEncoder(data.classes, f"{self}: class").index(label)}
        parts = dict(spec) if isinstance(spec, Mapping) else _pairs(spec) if isinstance(spec, str) else {"digit": spec}
        wish: dict[str, int] = {}
        for name, value in parts.items():
            attributes_of = (
                read_caption(str(value)) if name == "text" else {"digit" if name == "label" else name: value}
            )
            for attribute, known in attributes_of.items():
                if attribute not in VALUES:
                    raise unknown(f"attribute of {self}", attribute, VALUES)
                wish[attribute] = LabelEncoder(VALUES[attribute], f"{self}: {attribute}").index(known)
        if not wish and self.wanted is not None:
            raise UsageError(f'{self}: {shown(spec)} says nothing of {", ".join(VALUES)}; write e.g. "digit=seven"')
        return wish


def _pairs(text: str) -> dict[str, str]:
    """``digit=seven; ink=red`` by name, anything else as a caption."""
    if "=" not in text:
        return {"text": text}
    pairs = [part.split("=", 1) for part in text.split(";") if part.strip()]
    if any(len(pair) < 2 for pair in pairs):
        raise UsageError(f'judged: expected "attribute=value; attribute=value", got {shown(text)}')
    return {name.strip(): value.strip() for name, value in pairs}


def _log_p(logits: Tensor, index: Tensor) -> Tensor:
    return logits.to(torch.float64).log_softmax(1).gather(1, index.clamp(min=0)[:, None])[:, 0]


@lru_cache(maxsize=4)
def _loaded(name: str) -> ImageData:
    return load_data(name, split="train")


def _judge_of(data: ImageData) -> Callable[[Tensor], dict[str, Tensor]]:
    """uint8 images -> logits [n, k] by attribute."""
    found = _TRAINED.get(data.fingerprint)
    if found is None and is_scenes(data):
        found = cached_attribute_judge(data, recipe=REWARD_RECIPE).logits
    elif found is None:
        network = cached_classifier(data, "reward")

        def found(images: Tensor) -> dict[str, Tensor]:
            return {"class": network.logits(images)}

    return _TRAINED.setdefault(data.fingerprint, found)
