"""What is evaluated, and how much of it: branches of a guidance and their weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fairlead.core.condition import Condition, Perturbation
from fairlead.guide.per_sample import per_sample

if TYPE_CHECKING:
    from fairlead.guide.moment import Moment

Weight = float | Tensor
"""A coefficient: one number, a tensor [n] with one per sample, or a map over pixels that broadcasts against x0."""
Looks = Mapping["Branch", Tensor | None]
"""Branches to look at -> the samples for which (bool [n]), None for all."""


class Maker(Hashable, Protocol):
    """Makes the condition of a branch anew in every step. Branches with equal makers are one branch."""

    def __call__(self, at: Moment, condition: Condition) -> Condition:
        """The condition of all samples, a pure function of the step.

        Args:
            at: the step, with its draws.
            condition: that of the branch without its maker, as the other terms have altered it.
        """


@dataclass(frozen=True)
class Branch:
    """One evaluation a method needs.

    Attributes:
        spec: None is the run's own condition, else it is encoded by the model.
        null: every name is dropped.
        drop: names that are dropped, where not all are.
        perturb: what the network does worse.
        model: name of another model to ask; None is the run's.
        make: makes the condition anew in every step.
    """

    spec: str | int | None = None
    null: bool = False
    drop: tuple[str, ...] = ()
    perturb: Perturbation | None = None
    model: str | None = None
    make: Maker | None = None

    def __post_init__(self) -> None:
        fields = self.spec, self.null, self.drop, self.perturb, self.model, self.make
        object.__setattr__(self, "_hash", hash(fields))  # a step of many terms asks for it dozens of times

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]

    @property
    def away(self) -> Branch | None:
        """The branch of the text that the perturbed network moves away from; None if there is none."""
        if self.perturb is None or self.perturb.kind != "negative_text":
            return None
        return NULL if self.perturb.negative is None else Branch(self.perturb.negative)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its fields: in another process strings hash to another number."""
        return Branch, (self.spec, self.null, self.drop, self.perturb, self.model, self.make)


COND = Branch()
NULL = Branch(null=True)


def is_zero(weight: Weight) -> bool:
    return not bool(weight.any()) if isinstance(weight, Tensor) else weight == 0


def is_one(weight: Weight) -> bool:
    return bool((weight == 1).all()) if isinstance(weight, Tensor) else weight == 1


def nonzero_rows(weight: Weight) -> Tensor | bool:
    """The samples that a weight is not 0 for: bool [n], or True or False for all of them."""
    if not isinstance(weight, Tensor):
        return weight != 0
    rows = weight.reshape(len(weight), -1).any(1)
    return bool(rows.any()) if weight.ndim > 1 and len(weight) == 1 else rows if bool(rows.any()) else False


def add_weights(a: Weight, b: Weight) -> Weight:
    """a + b; one number per sample [n] and a map over pixels [1, 1, h, w] make a map for each sample, [n, 1, h, w]."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim != b.ndim:
        a, b = (w.reshape(-1, *([1] * (max(a.ndim, b.ndim) - 1))) if w.ndim == 1 else w for w in (a, b))
    return a + b


def weighted(weight: Weight, direction: Tensor) -> Tensor:
    """weight * direction [n, ...]."""
    return direction * (per_sample(weight, direction) if isinstance(weight, Tensor) else weight)


def combine(predictions: Mapping[Branch, Tensor], weights: Mapping[Branch, Weight], x_t: Tensor) -> Tensor:
    """sum_b weight_b x0_b."""
    if not weights:
        return torch.zeros_like(x_t)
    (branch, weight), *rest = weights.items()
    total = weighted(weight, predictions[branch])
    for branch, weight in rest:
        if isinstance(weight, Tensor):
            total = total + weighted(weight, predictions[branch])
        else:
            total.add_(predictions[branch], alpha=weight)
    return total
