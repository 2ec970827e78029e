"""Skip-layer guidance (Stability AI's SD 3.5; spatio-temporal skip guidance, Hyung et al. 2024, 2411.18664).

    D = D_c + scale (D_c - D_c with blocks skipped)

A skipped block passes its input on; where a block of the U-Net changes the number of channels, through its shortcut
alone. Works without a condition. Usually limited to early steps: ``slg(2.8).during(t=(0.8, 0.99))``.

Cost: one row per sample, in the same network call as the other branches; nothing at scale 0. Can be added to any other
term. Refused for models that name no blocks.

In diffusers, once classifier-free guidance is off, the "skipped" branch is the *negative* prompt with nothing skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fairlead.core.condition import Perturbation
from fairlead.guide.perturb import Perturbed


@dataclass(frozen=True)
class SLG(Perturbed):
    """``slg(2.8)``, ``slg(1, layers=["blocks.2", "blocks.3"])``.

    Attributes:
        scale: 0 is off.
        layers: blocks to skip, one name or several of ``model.layers``; the middle if left out.
    """

    name: ClassVar[str] = "slg"

    def perturbation(self) -> Perturbation:
        return Perturbation("skip", tuple(self.layers or ()))
