"""CFG++ (Chung 2024, 2406.08070, algorithm 2): guided denoising, unguided re-noising.

    x' = alpha' (D_u + scale (D_c - D_u)) + sigma' eps_u

The scale is the paper's lambda in [0, 1]. Under ``ddim`` a step is a step of CFG with the scale
scale / (1 - rho), rho = (sigma' / alpha') / (sigma / alpha), which is why small scales suffice. A scale of 1 is not
off: x0 is then the conditional prediction, re-noised with the unconditional eps. Two rows per sample; one at scale 0,
which is the unconditional model.

It needs a sampler that re-noises x0 with ``Prediction.eps``: ``ddim``, ``dpmpp_2m``, ``dpmpp_3m`` and
``dpmpp_2m_sde``. ``ddpm`` never reads eps: use ``ddim(eta=1)``. ``euler`` and ``heun`` follow the field eps - x0, where
the method would be plain CFG with the scale lambda tau <= 1, tau = sigma / (alpha + sigma), which is not what the paper
means; ``fl.sample`` refuses them.
Only one method can re-noise in a step, so two ``cfgpp`` need separate intervals. Other terms are added to x0 and
finishers act on it as usual; eps stays that of the unconditional prediction. Wrappers refuse it, because it changes
more than a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, is_zero
from fairlead.guide.moment import Moment
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import Ask, Term


@dataclass(frozen=True)
class CFGpp(Term):
    """``cfgpp(0.6)``.

    Attributes:
        scale: lambda in [0, 1]. A larger one is refused: it is no longer between the two predictions, and most likely
            meant as a scale of ``cfg``.
    """

    scale: Scale | Sequence[float] | Tensor
    name: ClassVar[str] = "cfgpp"
    renoises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        if isinstance(self.scale, float | tuple):
            _check_range(torch.tensor(self.scale))

    def ask(self, at: Moment) -> Ask:
        scale = scale_at(cast(Scale, self.scale), at.step)
        if not isinstance(self.scale, float | tuple):
            _check_range(torch.as_tensor(scale))
        omega = scale - 1
        return Ask({} if is_zero(omega) else {COND: omega, NULL: -omega}, renoise=NULL)

    def needs_condition(self) -> bool:
        return True


def _check_range(scale: Tensor) -> None:
    outside = scale[(scale < 0) | (scale > 1)]
    if len(outside):
        raise UsageError(
            f"cfgpp: expected a scale from 0 to 1, such as 0.6, got {float(outside[0]):g}; scales above 1 are for cfg"
        )
