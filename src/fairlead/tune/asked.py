"""What the samples of a measurement are asked for, and which class each then should show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.data.images import Attribute, ImageData, stratified_order
from fairlead.data.names import Names
from fairlead.data.specs import data_specs
from fairlead.measure.evaluate import Evaluator
from fairlead.models.model import Model, Spec


@dataclass(frozen=True, eq=False)
class Asked:
    """
    Attributes:
        conds: one spec a sample.
        labels: int64 [n], indices into the classes of the real images.
        attributes: what each sample should show beside, where the evaluator can judge it.
    """

    conds: tuple[Spec, ...]
    labels: Tensor
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    __repr__ = brief

    def part(self, which: slice) -> Asked:
        """Of some of the samples."""
        attributes = {name: replace(a, labels=a.labels[which]) for name, a in self.attributes.items()}
        return Asked(self.conds[which], self.labels[which], attributes)

    @classmethod
    def of(cls, model: Model, evaluator: Evaluator, n: int) -> Asked:
        """Of a model that is told labels only, classes in the proportions of the reference; of any other what the
        held-out images say of themselves, prompts that it was not trained on. Both spread over the classes, as every
        prefix is, so that generated and real images differ in what is in the pictures, not in how many there are of
        each class.

        Raises:
            UsageError: if the held-out images do not say what the model is told.
        """
        if model.told == "label":
            conds = shared_out(model.classes, evaluator.reference.labels, n)
            return cls(tuple(conds), model.encode(conds).values["label"])
        data = evaluator.held_out
        index = spread(data.labels, n)
        known = evaluator.attributes.asked if evaluator.attributes is not None else {}
        attributes = {name: replace(a, labels=a.labels[index]) for name, a in known.items()}
        return cls(tuple(data_specs(model.conditions, data, index)), data.labels[index], attributes)


def labels_in_order(model: Model, reference: ImageData, held_out: ImageData) -> Tensor:
    """The labels in the order in which :meth:`Asked.of` asks for them, int64 [m]; from the beginning again after m."""
    labels = reference.labels if model.told == "label" else held_out.labels
    return labels[stratified_order(labels, seed=0)]


def first_of(order: Tensor, n: int) -> Tensor:
    """The first n of ``order`` [m], from the beginning again where there are fewer."""
    return order.repeat(-(-n // len(order)))[:n]


def by_name(model: Model) -> list[str]:
    """A word for what a sweep or search must share where names of classes are numbers beside other conditions: the
    first version asked such models for other classes than it judged by."""
    several = "label" in model.conditions and model.told != "label"
    return ["classes by name"] if several and Names(model.classes).numbered else []


def shared_out(classes: Sequence[str], labels: Tensor, n: int) -> list[str]:
    """n class names in the proportions of real ``labels`` (int64, indices into ``classes``); so is every prefix."""
    return [classes[label] for label in labels[spread(labels, n)].tolist()]


def spread(labels: Tensor, n: int) -> Tensor:
    """Indices int64 [n] of samples in a stratified order, from the beginning again where there are fewer than n."""
    return first_of(stratified_order(labels, seed=0), n)


def counts(labels: Tensor) -> list[int]:
    """How many samples there are of each label that occurs."""
    found: list[int] = torch.unique(labels, return_counts=True)[1].tolist()
    return found
