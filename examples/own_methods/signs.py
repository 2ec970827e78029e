"""Two methods that fairlead does not have, as a package of their own: ``pip install examples/own_methods``.

``pyproject.toml`` names them as entry points, so that expressions, sweeps, reports and the command line know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, Branch, Weight
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Pair, Wrapper
from fairlead.guide.per_sample import length, per_sample, ratio
from fairlead.guide.scales import Scale


@dataclass(frozen=True)
class Signs(Pair):
    """``signs(2)``: D_c + (scale - 1) clip(d / rms(d), -cap, cap) for d = D_c - D_u: a step of the same size at every
    noise level, and of at most ``cap`` in a pixel.

    Attributes:
        cap: largest change of a pixel at weight 1, in units of the mean change, > 0.
    """

    scale: Scale | Sequence[float] | Tensor
    cap: float = field(default=1.0, kw_only=True)
    name: ClassVar[str] = "signs"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.cap) or not 0 < self.cap < float("inf"):
            raise UsageError(f"signs: expected cap to be a positive number, got {self.cap!r}")

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, NULL

    def unit(self, seen: Seen) -> Tensor:
        move = super().unit(seen)
        rms = length(move) / (move[0].numel() ** 0.5)
        return ratio(move, rms).clamp(-self.cap, self.cap).to(move)

    def needs_condition(self) -> bool:
        return True


@dataclass(frozen=True)
class Calm(Wrapper):
    """``calm(cfg(4))``, ``calm(cfg(4), 0.2)``: the weight of another method times min(1, most / rms(d)), where d is its
    direction in the step before; the first step has the whole weight.

    Attributes:
        most: root mean square of d, in x0, up to which the weight is whole, > 0.
    """

    most: float = 0.1
    name: ClassVar[str] = "calm"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.most) or not 0 < self.most < float("inf"):
            raise UsageError(f"calm: expected most to be a positive number, got {self.most!r}")

    def omega(self, at: Moment) -> Weight:
        omega, factor = self.inner.omega(at), at.recall(self)
        if factor is None:
            return omega
        return omega * (per_sample(factor, omega) if isinstance(omega, Tensor) and omega.ndim > 1 else factor)

    def unit(self, seen: Seen) -> Tensor:
        move = super().unit(seen)
        rms = (length(move) / (move[0].numel() ** 0.5)).flatten().cpu()
        seen.remember(self, (self.most / rms.clamp(min=self.most)))
        return move
