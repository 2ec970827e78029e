"""Smoothed energy guidance (Hong 2024, 2408.00760, section 4).

    D = D_c + scale (D_c - D_c with blurred queries)

In the named layers the queries of the perturbed branch are blurred over space by a Gaussian of ``blur`` positions,
which flattens the energy of self-attention; blur = inf replaces every query by their mean. Works without a condition.
The paper keeps the scale at 3 and varies the blur.

The weights of the blur sum to 1 at the border too, so that a growing blur converges to the mean (the paper pads by
reflection).

Cost: one row per sample, in the same network call as the other branches; nothing at scale 0 or blur 0. Can be added to
any other term. Refused for models that name no attention layers.

In diffusers the blur is never switched on, or a finite blur computes the mean and an infinite one a window of the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.guide.branch import Weight
from fairlead.guide.moment import Moment
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.perturb import Perturbed


@dataclass(frozen=True)
class SEG(Perturbed):
    """``seg(3)``, ``seg(3, blur=2)``, ``seg(3, layers=["middle.0"])``.

    Attributes:
        scale: 0 is off.
        layers: attention layers to perturb, one name or several of ``model.layers``; the middle if left out.
        blur: standard deviation in positions of the attention map, >= 0; inf is the mean, 0 changes nothing.
    """

    blur: float = field(default=math.inf, kw_only=True)
    name: ClassVar[str] = "seg"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.blur) or not self.blur >= 0:
            raise UsageError(f"seg: expected blur to be a number of positions from 0 to inf, got {self.blur!r}")
        object.__setattr__(self, "blur", float(self.blur))

    def omega(self, at: Moment) -> Weight:
        return super().omega(at) if self.blur else 0.0

    def perturbation(self) -> Perturbation:
        return Perturbation("blur_queries", tuple(self.layers or ()), self.blur)
