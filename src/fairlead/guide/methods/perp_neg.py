"""Negative conditions without what they share with the condition (Perp-Neg, Armandpour 2023, 2304.04968).

    p = D_c - D_u,  q = D_n - D_u
    D = D_u + scale (p - weight (q - <q, p> / <p, p> p))

What the negative shares with the condition is not removed, so that "a peacock, not a bird" is still a bird. Three
rows per sample; two if ``weight`` is 0, when it is ``cfg(scale)`` without a negative. It is off only at scale 1 *and*
weight 0: at scale 1 alone it still subtracts the perpendicular part of the negative. At scale 0 it is the unconditional
model.

Inner products are per sample; public implementations sum them over the batch, so an image depends on its batch there.
For a sample whose condition is null, p is 0 and the whole negative is subtracted. It is not a plain pair of branches,
so wrappers such as ``apg`` refuse it; other terms can be added, and ``during`` limits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, Branch, Looks, is_zero, nonzero_rows, weighted
from fairlead.guide.methods.cfg import check_negative
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.per_sample import parallel, per_sample
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import Ask, Term


@dataclass(frozen=True)
class PerpNeg(Term):
    """``perp_neg(5, "one")``, ``perp_neg(5, "one", 0.5)``.

    Attributes:
        scale: of the whole, like that of ``cfg``.
        negative: what to move away from.
        weight: of the negative, relative to the condition; at 0 the negative is not evaluated.
    """

    scale: Scale | Sequence[float] | Tensor
    negative: str | int
    weight: Scale | Sequence[float] | Tensor = 1.0
    name: ClassVar[str] = "perp_neg"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        object.__setattr__(self, "weight", as_scale(f"{self.name} weight", self.weight))
        object.__setattr__(self, "negative", check_negative(self.name, self.negative))
        if self.negative is None:
            raise UsageError("perp_neg: expected a negative such as a class name; without one it is cfg")
        counts = {len(scale) for scale in self._scales.values() if isinstance(scale, tuple)}
        if len(counts) > 1:
            raise UsageError(f"perp_neg: scales and weights of one length, one per sample, got {sorted(counts)}")

    @property
    def _scales(self) -> Mapping[str, Scale]:
        return {"scale": cast(Scale, self.scale), "weight": cast(Scale, self.weight)}

    def ask(self, at: Moment) -> Ask:
        omega, looks = scale_at(self._scales["scale"], at.step) - 1, self._looks(at)
        return Ask({} if is_zero(omega) else {COND: omega, NULL: -omega}, looks)

    def _looks(self, at: Moment) -> Looks:
        rows: Tensor | bool = True
        for scale in self._scales.values():
            own = nonzero_rows(scale_at(scale, at.step))
            rows = own if rows is True else rows if own is True else rows & own
        if rows is False or (isinstance(rows, Tensor) and not bool(rows.any())):
            return {}
        return dict.fromkeys((COND, NULL, Branch(self.negative)), rows if isinstance(rows, Tensor) else None)

    def add(self, seen: Seen) -> Tensor | None:
        if not self._looks(seen):
            return None
        null = seen.x0(NULL)
        p, q = seen.x0(COND) - null, seen.x0(Branch(self.negative)) - null
        p = p * per_sample(_conditioned(seen), p)  # else the rounding of a batched network would be a direction
        away = q - parallel(q, p)
        for scale in self._scales.values():
            away = weighted(scale_at(scale, seen.step), away)
        return -away

    def specs(self) -> tuple[str | int, ...]:
        return (self.negative,)

    def needs_condition(self) -> bool:
        return self._scales["weight"] == 0.0

    def samples(self) -> int | None:
        return next((len(scale) for scale in self._scales.values() if isinstance(scale, tuple)), None)

    def of_sample(self, index: int) -> PerpNeg:
        scale, weight = (s[index : index + 1] if isinstance(s, tuple) else s for s in self._scales.values())
        return replace(self, scale=scale, weight=weight)


def _conditioned(seen: Seen) -> Tensor:
    """Which samples have a condition, bool [n]."""
    kept = [mask.to(seen.x_t.device) for mask in seen.condition.keep.values()]
    return torch.stack(kept).any(0) if kept else torch.zeros(len(seen.x_t), dtype=torch.bool, device=seen.x_t.device)
