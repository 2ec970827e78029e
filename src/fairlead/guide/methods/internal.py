"""Internal guidance: away from the prediction of a head in the middle of the network (Zhou 2025, 2512.24176, eq. 5).

    D = D_i + scale (D_c - D_i)

D_i is the output of a head in the middle of the network, which is trained together with it by its own loss
(``fairlead train --internal 0.5``): a weaker model of the same condition, evaluated in the same row. No rows. A scale
of 1 is off. In the U-Net the head is at the deepest level, whose maps have the lowest resolution; in the DiT it follows
the first half of the blocks (according to the paper, later heads make results worse).

On the 8x8 digits (half the recipe's width, the head's loss at 0.5, 10 steps of ``dpmpp_2m``, N = 300, paired, ``python
-m benchmarks.studies one_row --out runs/studies --n 300 --trainings 0``) it brings images closer to the real ones, but
they follow their class less. From 2.8 at scale 1 the debiased distance falls by 1.40 ± 0.41 at scale 1.5 and by
2.04 ± 0.74 at scale 2, at 10 rows per image. ``cfg(1.25)`` on the same network, at 20 rows, is closer by another
0.88 ± 0.59 and 0.23 ± 0.50. The judge recognises 98.7 ± 0.7, 98.0 ± 0.8 and 97.3 ± 0.9 % of the images at 1, 1.5
and 2, and all of those under ``cfg``. Training with the head made the network without guidance worse by 0.90 ± 0.39.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Weight, is_zero, weighted
from fairlead.guide.moment import Context, Moment, Seen
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term
from fairlead.nets.blocks import INTERNAL


@dataclass(frozen=True)
class Internal(Term):
    """``internal(1.5)``, ``cfg(1.25) + internal(1.5).during(sigma=(0.5, 4))``.

    Attributes:
        scale: 1 is off, 0 is the prediction of the head.
    """

    scale: Scale | Sequence[float] | Tensor
    name: ClassVar[str] = "internal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))

    def check(self, on: Context) -> None:
        if INTERNAL not in on.model.layers:
            raise UsageError(
                f"{self}: this model has no head in its middle; train one with --internal 0.5, or take another method"
            )

    def omega(self, at: Moment) -> Weight:
        return scale_at(self.scale, at.step) - 1

    def ask(self, at: Moment) -> Ask:
        return NOTHING if is_zero(self.omega(at)) else Ask(looks={COND: None}, layers=(INTERNAL,))

    def add(self, seen: Seen) -> Tensor | None:
        omega = self.omega(seen)
        if is_zero(omega):
            return None
        halfway = seen.back(seen.attention[INTERNAL].to(seen.x_t), "output")
        return weighted(omega, seen.x0(COND) - halfway)
