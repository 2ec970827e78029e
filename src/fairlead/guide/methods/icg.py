"""Independent condition guidance (Sadat et al. 2024, 2407.02687).

    D = D_r + scale (D_c - D_r),  r a class drawn anew for every sample and step, independent of everything else

This is classifier-free guidance for models that were trained without dropping their condition: averaged over r, D_r
replaces the unconditional prediction. The class is uniform over all classes, including the sample's own. It is a pure
function of the sample's seed and the step, so an image does not depend on its batch.

Cost: two rows per sample in one network call; one at scale 1. Can be added to any other term; two icg terms share one
draw. Refused for models without classes and for runs without a condition; a sample without one is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.data.names import Index
from fairlead.guide.branch import COND, Branch
from fairlead.guide.moment import Context, Moment
from fairlead.guide.pairs import Pair


@dataclass(frozen=True)
class IndependentClass:
    """Makes conditions: a uniform class for every sample that has a condition, null for the others."""

    def __call__(self, at: Moment, condition: Condition) -> Condition:
        other = at.model.encode([*map(Index, self.labels(at).tolist())]).to(condition.device)
        given = reduce(torch.logical_or, condition.keep.values())
        return Condition(condition.n, other.values, {name: mask & given for name, mask in other.keep.items()})

    def labels(self, at: Moment) -> Tensor:
        """int64 [n], from one normal draw per sample: its place in the normal distribution is uniform."""
        count = len(at.model.classes)
        place: Tensor = torch.special.ndtr(at.draw("icg", (1,))[:, 0].double().cpu())
        return (place * count).long().clamp(max=count - 1)


@dataclass(frozen=True)
class ICG(Pair):
    """``icg(3)``.

    Attributes:
        scale: 1 is off, as for ``cfg``.
    """

    name: ClassVar[str] = "icg"

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, Branch(make=IndependentClass())

    def needs_condition(self) -> bool:
        return True

    def check(self, on: Context) -> None:
        if not on.model.classes:
            raise UsageError(f"{self}: draws random classes, and this model has no classes; use cfg or pag")
