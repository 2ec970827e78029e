"""Rewards as a measure: what images that are there already are worth, each under the condition that it was made for.

It is the reward that particles and ``energy`` take, evaluated on images of 256 levels, at t = 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import autocast
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VPCosine
from fairlead.data.images import ImageData, to_float
from fairlead.data.specs import data_specs
from fairlead.guide.moment import Context
from fairlead.guide.rewards.reward import Fn, FunctionReward, Reward, as_reward, weighted_parts
from fairlead.measure.image_sets import ImageSet
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.models.model import LabelEncoder, Model, Spec, identity
from fairlead.models.resources import identities, load_resources

_CHUNK = 128


@dataclass(frozen=True, eq=False)
class ImageReward:
    """A reward of the images of a model, or of a folder.

    Attributes:
        reward: that is measured.
        model: whose images they are; what is looked at is its conditions, classes and the shape of its images.
        resources: what the reward names, loaded.
    """

    reward: Reward
    model: Model
    resources: Mapping[str, Any]

    @classmethod
    def of(cls, reward: Reward | Fn | str, model: Model, *, kept: bool = False) -> ImageReward:
        """Checked on ``model``: a reward, a function (x0, t, condition) -> [n], or an expression.

        Args:
            kept: what it gives is kept and gone on with, by the name of the reward: it needs one.

        Raises:
            UsageError: for what is no reward, or does not suit the model's images.
        """
        made = as_reward("reward", reward)
        if kept and (unnamed := [part for _, part in weighted_parts(made) if str(part).startswith("<")]):
            raise UsageError(
                f"reward {unnamed[0]}: results are kept under its name, and this function has none; "
                'fl.register(NAME, function, kind="reward") gives it one'
            )
        images = replace(model, shape=model.image_shape, decode=identity)
        for _, part in weighted_parts(made):
            if isinstance(part, FunctionReward) and not part.pixels and model.image_shape != model.shape:
                raise UsageError(
                    f"reward {part}: it sees samples {list(model.shape)} of the model, and what is measured are images "
                    f"{list(model.image_shape)}; give the function an attribute pixels = True"
                )
        found = cls(made, images, load_resources(made.resources(), model))
        if made.needs_condition() and not model.conditional:
            raise UsageError(f"reward {made} is of the condition of each image, and there is none; say what is wanted")
        made.check(found._on([next(iter((*model.classes, *model.examples)), None)]))
        return found

    @cached_property
    def name(self) -> str:
        """The expression, with a hash of what it names, for protocols."""
        named = identities(self.resources)
        digest = hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return f"{self.reward} #{digest}" if named else str(self.reward)

    def values(self, images: Tensor, conds: Sequence[Spec]) -> Tensor:
        """float64 [n] of ``images`` uint8 [n, c, h, w] and the condition of each.

        Raises:
            UsageError: if lengths differ, a condition is missing that the reward reads, or a value is not finite.
        """
        if len(conds) != len(images):
            raise UsageError(f"reward {self.reward}: {len(images)} images, {len(conds)} conditions; expected one each")
        if self.reward.needs_condition() and any(cond is None for cond in conds):
            raise UsageError(f"reward {self.reward} is of the condition of each image, and some have none")
        return torch.cat(
            [self._part(images[i : i + _CHUNK], conds[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
        )

    def conds_of(self, data: ImageData) -> list[Spec]:
        """What real images say of themselves, as the model's conditions."""
        return data_specs(self.model.conditions or ("label",), data, torch.arange(len(data)))

    def _part(self, images: Tensor, conds: Sequence[Spec]) -> Tensor:
        on, t = self._on(conds), torch.zeros((), dtype=torch.float64)
        with torch.no_grad(), autocast(self.model.device, None):
            found = self.reward.of_samples(on)(to_float(images).to(self.model.device), t, on.condition)
        if not isinstance(found, Tensor) or found.shape != (len(images),):
            given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"reward {self.reward}: expected one number per image, [{len(images)}], got {given}")
        if not bool(found.isfinite().all()):
            raise UsageError(f"reward {self.reward}: {int((~found.isfinite()).sum())} values are not finite")
        return found.to("cpu", torch.float64)

    def _on(self, conds: Sequence[Spec]) -> Context:
        condition = self.model.encode(conds).to(self.model.device)
        return Context(model=self.model, condition=condition, resources=self.resources, specs=tuple(conds))


@dataclass(frozen=True, eq=False)
class RewardedImages:
    """What a reward gives a set of images.

    Attributes:
        mean: over the images, with sd / sqrt(n) as its error.
        values: float64 [n], one per image.
        files: of the images; empty for a data set.
        reward: the reward and what it names.
        images: name and fingerprint of the images.
    """

    mean: Estimate
    values: Tensor
    files: tuple[str, ...]
    reward: str
    images: str

    def __str__(self) -> str:
        return f"{self.reward}: {self.mean} over {self.mean.n:,} images of {self.images}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``values`` by file, where there are files."""
        each = self.values.tolist()
        return {
            "reward": {"value": self.mean.value, "error": self.mean.error, "n": self.mean.n},
            "values": dict(zip(self.files, each, strict=True)) if self.files else each,
            "protocol": {"reward": self.reward, "images": self.images, "quantised": "uint8"},
        }


def images_rewarded(
    images: ImageSet, reward: Reward | Fn | str, device: torch.device, conds: Sequence[str] = ()
) -> RewardedImages:
    """What ``reward`` gives images of a folder or a data set.

    Args:
        conds: what each image was made for, e.g. its prompt; default its class, where ``images`` have classes.

    Raises:
        UsageError: for what is no reward or does not suit the images, or reads conditions where there are none.
    """
    data = images.data
    given: list[Spec] = list(conds)
    known = tuple(dict.fromkeys(given))
    if not given:
        known = data.classes if images.labelled else ()
        given = [known[i] for i in data.labels.tolist()] if known else [None] * len(data)
    made = as_reward("reward", reward)
    model = _images_only(data, known, device)
    classifiers = [part.name for part in made.resources() if part.kind == "clean-classifier"]
    if classifiers and model.conditional:
        known = load_resources(made.resources(), model)[classifiers[0]]
        model = replace(model, encode=LabelEncoder(tuple(known.classes)))
    found = ImageReward.of(made, model)
    values = found.values(data.images, given)
    return RewardedImages(mean_estimate(values), values, images.files, found.name, images.described)


def _images_only(data: ImageData, conds: tuple[Spec, ...], device: torch.device) -> Model:
    """A model that stands for finished images: it has their shape and conditions, and cannot sample."""

    def encode(specs: Sequence[Spec]) -> Condition:
        label = torch.tensor([conds.index(spec) if spec in conds else 0 for spec in specs])
        return Condition(len(specs), {"label": label}, {"label": torch.tensor([spec is not None for spec in specs])})

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        raise UsageError("these are finished images; load a model to sample from")

    conditions = ("label",) if conds else ()
    return Model(
        denoise, VPCosine(), data.shape, encode, identity, conditions=conditions, examples=conds, device=device
    )
