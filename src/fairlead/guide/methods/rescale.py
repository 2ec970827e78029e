"""Rescaled guidance (Lin 2023, 2305.08891, eq. 15 and 16): the standard deviation of the unguided prediction.

    g <- phi g std(c) / std(g) + (1 - phi) g

g is the guided and c the conditional prediction, by default as outputs of the network, the space that the paper
rescales; ``space`` names another one. std is over all elements of a sample. No rows, unless the guidance itself does
not evaluate the conditional branch (``cfg(0)``). ``phi=0`` is off, and nothing changes where g = c; the paper uses 0.7.

A guided prediction whose standard deviation is 0 (up to rounding) is not changed; diffusers divides by it without a
check and returns NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND
from fairlead.guide.moment import Context, Moment, Seen, Space
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.per_sample import per_sample
from fairlead.guide.terms import NOTHING, Ask, Finisher

_ROUNDING = 16  # a std of so many units in the last place of the largest value is rounding


@dataclass(frozen=True)
class Rescale(Finisher):
    """``cfg(7) | rescale(0.7)``.

    Attributes:
        phi: share of the rescaled prediction, in [0, 1].
        space: "output" (what the network returns), "x0", "eps", "v" or "flow".
    """

    phi: float
    space: Space = "output"
    name: ClassVar[str] = "rescale"

    def __post_init__(self) -> None:
        plain_fields(self)
        if not is_number(self.phi) or not 0 <= self.phi <= 1:
            raise UsageError(f"rescale: expected phi in [0, 1], such as 0.7, got {self.phi!r}")
        chosen("space", self.space, get_args(Space))

    def check(self, on: Context) -> None:
        if self.space == "eps" and on.model.schedule.zero_terminal_snr:
            raise UsageError(f"{self}: alpha is 0 at t = 1, where eps does not say what x0 is; use another space")

    def ask(self, at: Moment) -> Ask:
        return Ask(looks={COND: None}) if self.phi else NOTHING

    def finish(self, x0: Tensor, seen: Seen) -> Tensor:
        if not self.phi:
            return x0
        zero = seen.zero(self.space)
        guided, plain = x0 - zero, seen.x0(COND) - zero  # multiples of what the network returns
        rounding = _ROUNDING * torch.finfo(x0.dtype).eps * torch.linalg.vector_norm(guided.flatten(1), torch.inf, 1)
        spread, wanted = torch.stack((guided, plain)).flatten(2).double().std(2, correction=0)
        gain = (wanted / spread).masked_fill_(spread <= rounding, 1.0)
        factor = gain.mul_(self.phi).add_(1 - self.phi)
        return zero + guided * per_sample(factor, guided)
