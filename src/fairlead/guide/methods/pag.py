"""Perturbed-attention guidance (Ahn et al. 2024, 2403.17377, section 4).

    D = D_c + scale (D_c - D_c with identity attention)

In the named layers every position of the perturbed branch attends to itself only: the attention map is the identity,
and the output is the values. Works without a condition. The paper uses the middle of the U-Net and a scale of 2 to 3.

Cost: one row per sample, in the same network call as the other branches; nothing at scale 0. Can be added to any other
term: ``cfg(3) + pag(2)``. Refused for models that name no attention layers.

In diffusers, once classifier-free guidance is off, the "perturbed" branch is the *negative* prompt with nothing
perturbed, and the scale counts from the perturbed prediction rather than from the conditional one. Here the
perturbation belongs to the branch, and scale 0 is off whatever else is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fairlead.core.condition import Perturbation
from fairlead.guide.perturb import Perturbed


@dataclass(frozen=True)
class PAG(Perturbed):
    """``pag(2)``, ``pag(2, layers="middle.0")``.

    Attributes:
        scale: 0 is off.
        layers: attention layers to perturb, one name or several of ``model.layers``; the middle if left out.
    """

    name: ClassVar[str] = "pag"

    def perturbation(self) -> Perturbation:
        return Perturbation("identity_attention", tuple(self.layers or ()))
