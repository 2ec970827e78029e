"""Normalised attention guidance (Chen et al. 2025, 2505.21179): away from a negative prompt, inside attention.

    Z+ = the output of attention to the sample's own text, Z- = that of the same queries to the negative text
    Z~ = Z+ + (scale - 1) (Z+ - Z-)
    Z^ = Z~, shortened to ``limit`` times the L1 norm of Z+ where it is longer, position by position
    Z  = blend Z^ + (1 - blend) Z+
    D  = the prediction of the network with Z in the named layers

It is made for networks that sample in a few steps or have guidance distilled into them (LCM, Turbo, Lightning, Flux),
where the two predictions of ``cfg`` are too far apart or the null one is missing. The paper's phi is
scale - 1, its tau ``limit`` and its alpha ``blend``; ``nag_scale`` of the authors' code is our scale, and they take 5,
2.5 and 0.25 for Flux. It is affine, {COND: -1, COND through these layers: +1}, so it can be added to any other
term: ``nag(5, negative="blurry") + pag(2)``.

In cross-attention the negative text has its own keys and values. Where text and image attend to each other (SD3, Flux,
Chroma, Qwen-Image) the negative text passes through all blocks in parallel with the sample's own text: it attends to
itself and the image, and the image attends to the two texts separately. Inputs by other ways, such as a pooled text
vector, are those of the sample's own text.

Cost: no row; the named layers compute attention twice, and the keys, values and streams of the negative text. Nothing
at scale 1 or blend 0. Refused for models without attention to text or with an unknown form of it (known in diffusers:
U-Nets, PixArt, Sana, Wan, SD3, Flux, Chroma, Qwen-Image), and for a scale that differs between pixels.
With ``cfg(w)`` the sum is D_nag + (w - 1) (D_c - D_u): the direction of ``cfg`` is that of the plain network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Branch, Weight
from fairlead.guide.methods.cfg import check_negative
from fairlead.guide.moment import Context, Moment
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.perturb import as_layers, located
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term


@dataclass(frozen=True)
class NAG(Term):
    """``nag(5, negative="blurry")``, ``nag([3, 5], limit=2)``, ``nag(ramp(8, 2), blend=0.5)``.

    Attributes:
        scale: a number, one per sample or a schedule; 1 is off.
        negative: a prompt to move away from, in place of the null one.
        limit: the largest L1 norm of Z~, as a multiple of that of Z+; > 0, inf is no limit.
        blend: share of Z^ in the output of the layer, 0 to 1; 0 is off.
        layers: one name or several of ``model.layers["text"]``; all if left out.
    """

    scale: Scale | Sequence[float] | Tensor
    negative: str | int | None = field(default=None, kw_only=True)
    limit: float = field(default=2.5, kw_only=True)
    blend: float = field(default=0.25, kw_only=True)
    layers: str | Sequence[str] | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "nag"

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        object.__setattr__(self, "negative", check_negative(self.name, self.negative))
        object.__setattr__(self, "layers", as_layers(self.name, self.layers))
        if not is_number(self.limit) or not self.limit > 0:
            raise UsageError(f"nag: expected limit to be a number above 0 such as 2.5, or inf, got {self.limit!r}")
        if not is_number(self.blend) or not 0 <= self.blend <= 1:
            raise UsageError(f"nag: expected blend from 0 to 1 such as 0.25, got {self.blend!r}")
        object.__setattr__(self, "limit", float(self.limit))
        object.__setattr__(self, "blend", float(self.blend))

    def ask(self, at: Moment) -> Ask:
        scale = scale_at(self.scale, at.step)
        if isinstance(scale, float | int):
            return Ask({self.branch(scale): 1.0, COND: -1.0}) if scale != 1 and self.blend else NOTHING
        if scale.ndim > 1:
            raise UsageError(
                f"{self}: attention has no scale for each pixel; give a number, one number per sample or a ramp"
            )
        weights: dict[Branch, Weight] = {}
        for value in sorted(set(scale.tolist())) if self.blend else ():
            if value != 1:
                weights[self.branch(value)] = (scale == value).to(scale)
        return Ask({**weights, COND: -(scale != 1).to(scale)}) if weights else NOTHING

    def branch(self, scale: float) -> Branch:
        """The network that reads its text at this scale."""
        layers = tuple(self.layers or ())
        return Branch(perturb=Perturbation("negative_text", layers, scale, self.limit, self.blend, self.negative))

    def check(self, on: Context) -> None:
        located(self.branch(math.inf).perturb, on.model, self.name)  # type: ignore[arg-type]

    def specs(self) -> tuple[str | int, ...]:
        return () if self.negative is None else (self.negative,)

    def needs_condition(self) -> bool:
        return self.negative is None
