"""Self-attention guidance (Hong et al. 2022, 2210.00939, section 4 and algorithm 1).

    x^ = x_t + alpha M (blur(D) - D)          x_t with the attended regions of D blurred, re-noised with its own eps
    eps = eps(x_t) + scale (eps(x_t) - eps(x^))

M is 1 where the positions of a layer receive more attention than the mean (heads averaged, summed over queries: eq. 14,
threshold 1) and 0 elsewhere, scaled up to the image by nearest neighbour. As a direction of x0, for any network,

    D + scale ((D(x_t) - D(x^)) - M (D(x_t) - blur(D(x_t))))

which is the rule above with the division by alpha carried out, so it is finite at pure noise too. The prediction
is that of the run's own condition, or the null one if a sample has none. (With cfg the paper's eq. 25 uses the
unconditional one; here terms do not depend on each other.) The paper blurs by 3 pixels in images of 128 and 256 pixels
and uses scales of about 0.1 to 1; latents of 64 are usually blurred by 1.

Cost: one row per sample, in a separate network call after the others, because its input depends on their output;
nothing at scale 0. The attention is recorded in the prediction that is made anyway. Can be added to any other term. It
compares predictions at two different x_t, so no wrapper except ``during`` applies. Refused for models that name no
attention layers and for samples that are not images.

Common faults are avoided: a well-known pipeline takes the difference of raw outputs, which for a network that predicts
v is another method (the two outputs belong to different x_t), and always blurs by 1. Here the difference is that of the
noise for any network. The weights of the blur sum to 1 at every pixel, so borders are not reflected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, is_zero, weighted
from fairlead.guide.moment import Context, Moment, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.perturb import as_layers, chosen_layers
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term
from fairlead.nets.blocks import blurred_images


@dataclass(frozen=True)
class SAG(Term):
    """``sag(0.75)``, ``sag(0.5, blur=2)``, ``sag(1, layers="middle.0")``.

    Attributes:
        scale: 0 is off.
        blur: standard deviation in pixels, > 0; inf is the mean of the image.
        layers: attention layers whose maps are averaged, one or several; None is the middle.
    """

    scale: Scale | Sequence[float] | Tensor
    blur: float = field(default=1.0, kw_only=True)
    layers: str | Sequence[str] | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "sag"

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        object.__setattr__(self, "layers", as_layers(self.name, self.layers))
        if not is_number(self.blur) or not self.blur > 0:
            raise UsageError(f"sag: expected blur to be a number of pixels > 0, got {self.blur!r}; scale 0 is off")
        object.__setattr__(self, "blur", float(self.blur))

    def check(self, on: Context) -> None:
        self._layers(on)
        if on.model.shape and len(on.model.shape) != 3:
            raise UsageError(f"{self}: blurs images [c, h, w], this model's samples are {list(on.model.shape)}")

    def ask(self, at: Moment) -> Ask:
        off = is_zero(scale_at(self.scale, at.step))
        return NOTHING if off else Ask(looks={COND: None}, layers=self._layers(at), rows=1)

    def add(self, seen: Seen) -> Tensor | None:
        scale = scale_at(self.scale, seen.step)
        if is_zero(scale):
            return None
        x0 = seen.x0(COND)
        received = [seen.attention[layer] for layer in self._layers(seen)]
        lost = x0 - degraded(x0, received, self.blur)
        again = seen.evaluate(COND, seen.x_t - seen.alpha * lost)
        return weighted(scale, (x0 - again) - lost)

    def _layers(self, on: Context) -> tuple[str, ...]:
        assert self.layers is None or isinstance(self.layers, tuple)
        return chosen_layers(self.name, self.layers, "attention", on.model)


def degraded(x0: Tensor, received: Sequence[Tensor], blur: float) -> Tensor:
    """x0 [n, c, h, w], blurred at the pixels that receive more attention than the mean of the image, which is 1.

    Args:
        received: one map [n, ., .] a layer; they are scaled up and averaged.
        blur: standard deviation in pixels.
    """
    size = (x0.shape[-2], x0.shape[-1])
    maps = [F.interpolate(layer[:, None], size, mode="nearest") for layer in received]
    attended = (maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)) > 1
    return torch.where(attended, blurred_images(x0, blur), x0)
