"""Independent condition guidance (Sadat et al. 2024, 2407.02687).

    D = D_r + scale (D_c - D_r),  r a class drawn anew for every sample and step, independent of everything else

Classifier-free guidance for models that were trained without dropping their condition: in the mean over r, D_r stands
for the unconditional prediction. The class is uniform over all classes, the sample's own among them, and a pure
function of the sample's seed and the step, so an image does not depend on the batch it was made in.

Cost: two rows a sample in one network call, nothing extra at scale 1. Adds to any other term; two icg terms share one
draw. Refused for models without classes and for runs without a condition; a sample without one is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.data.names import Index
from fairlead.guide.algebra import COND, Branch, Pair
from fairlead.guide.seen import Surroundings, drawn
from fairlead.guide.step import Step

_DRAW = 610


@dataclass(frozen=True)
class IndependentClass:
    """A source of conditions: a uniform class for every sample that has a condition, null for the others."""

    def over(self, steps: Sequence[Step], around: Surroundings, condition: Condition) -> Callable[[int], Condition]:
        assert around.encode is not None
        labels = self.labels(steps, around).to(condition.device)
        every, own = (  # of what is no class the latter knows the place in the batch
            around.encode([*map(Index, places)]).to(condition.device)
            for places in (range(len(around.classes)), labels[0].tolist())
        )
        given = reduce(torch.logical_or, condition.keep.values())
        keep = [(name, (mask[labels] & given).unbind()) for name, mask in every.keep.items()]
        told = {name: bool(mask.any()) for name, mask in every.keep.items()}
        rows = labels.unbind()

        def at(place: int) -> Condition:
            values = {
                name: value[rows[place]] if told[name] else own.values[name] for name, value in every.values.items()
            }
            return Condition(condition.n, values, {name: masks[place] for name, masks in keep})

        return at

    def labels(self, steps: Sequence[Step], around: Surroundings) -> Tensor:
        """int64 [steps, n], from one normal draw a sample: its place in the normal distribution is uniform."""
        count = len(around.classes)
        draws = torch.stack([drawn(step, around, _DRAW, (1,))[:, 0] for step in steps])
        place: Tensor = torch.special.ndtr(draws.double().cpu())
        return (place * count).long().clamp(max=count - 1)


@dataclass(frozen=True)
class ICG(Pair):
    """``icg(3)``.

    Attributes:
        scale: 1 is off, as for ``cfg``.
    """

    name: ClassVar[str] = "icg"

    def pair(self, step: Step) -> tuple[Branch, Branch]:
        return COND, Branch(source=IndependentClass())

    def needs_condition(self) -> bool:
        return True

    def check(self, around: Surroundings) -> None:
        if not around.classes or around.encode is None:
            raise UsageError(f"{self}: draws classes, and this model names none; use cfg or pag")
