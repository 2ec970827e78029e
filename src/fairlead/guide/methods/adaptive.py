"""Adaptive guidance: stop guiding a sample once its two predictions agree (Castillo et al. 2023, 2312.12487).

    D = D_a + omega (D_a - D_b)  until cos(y_a, y_b) > threshold at some step, and D_a in all later steps

y is what the network returns for each of the two branches, so for a network that predicts noise this is the cosine of
the paper (section 5, 0.991 there). Each sample is decided separately and for good, and its row of D_b then leaves the
batch: a sample costs two rows per step up to and including the step in which it passes the threshold, and one row
afterwards. In a step of several evaluations (``heun``) the first one decides for the later steps.

It wraps any method of two branches: ``adaptive(cfg(4))``, ``adaptive(pag(3))``, ``adaptive(apg(cfg(8)))``. It cannot
be combined with ``cached``, which does not evaluate both branches at every step.

Two common faults are avoided. If all samples of a batch share one decision, the result depends on the batch; here it
does not. And the cosine of the *noise* is meaningless near pure noise, where both predictions are x_t itself: it is 1
at alpha = 0 whatever the condition, and would end guidance in the first step. The output of the network ("output": v,
flow or x0, if it does not predict noise) does not have this problem; ``space`` selects another space.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from torch import Tensor

from fairlead.core.arguments import chosen
from fairlead.core.errors import UsageError
from fairlead.guide.branch import Weight, is_zero, nonzero_rows
from fairlead.guide.moment import Moment, Seen, Space
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import dot, length, ratio


@dataclass(frozen=True, eq=False)
class _Still:
    """The samples that are still guided: bool [n], and whether these are all, or any."""

    rows: Tensor
    all: bool
    any: bool

    @classmethod
    def of(cls, rows: Tensor) -> _Still:
        return cls(rows, bool(rows.all()), bool(rows.any()))

    def kept(self, weight: Weight) -> Weight:
        """The weight of those samples, 0 for the others."""
        if self.all:
            return weight
        if not self.any:
            return 0.0
        if not isinstance(weight, Tensor):
            return self.rows.double() * weight
        return weight * self.rows.to(weight).reshape(-1, *([1] * (weight.ndim - 1)))


@dataclass(frozen=True)
class Adaptive(Wrapper):
    """``adaptive(cfg(4))``, ``adaptive(cfg(4), 0.98)``, ``adaptive(cfg(4), space="eps")``.

    Attributes:
        threshold: in [-1, 1]; 1 never stops guiding, -1 stops after one step.
        space: in which the predictions are compared: "output", "eps", "x0", "v" or "flow".
    """

    threshold: float = 0.991
    space: Space = field(default="output", kw_only=True)
    name: ClassVar[str] = "adaptive"
    outermost: ClassVar[str] = "needs the two predictions inside it at every step"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.threshold) or not -1 <= self.threshold <= 1:
            raise UsageError(f"adaptive: expected threshold to be a cosine in [-1, 1], got {self.threshold!r}")
        chosen("adaptive space", self.space, get_args(Space))

    def omega(self, at: Moment) -> Weight:
        still: _Still | None = at.recall(self)
        if still is not None and not still.any:
            return 0.0
        omega = self.inner.omega(at)
        return omega if still is None else still.kept(omega)

    def add(self, seen: Seen) -> Tensor | None:
        if not is_zero(self.omega(seen)):
            seen.remember(self, self._still(seen))
        return super().add(seen)

    def _still(self, seen: Seen) -> _Still:
        """The samples to be guided in the next step, on the CPU like every mask of rows."""
        if seen.objective(self.space) == "eps":  # its zero is infinite where alpha is 0
            a, b = (seen.eps(branch) for branch in self.pair(seen))
        else:
            zero = seen.zero(self.space)  # the cosine does not see what the difference is multiplied by
            a, b = (seen.x0(branch) - zero for branch in self.pair(seen))
        cosine = ratio(dot(a, b), length(a) * length(b), otherwise=1.0).flatten()
        on, before = (cosine <= self.threshold).cpu() | (self.threshold == 1), seen.recall(self)
        looked = nonzero_rows(self.omega(seen))
        if isinstance(looked, Tensor):
            on = on | ~looked.cpu()
        return _Still.of(on if before is None else on & before.rows)
