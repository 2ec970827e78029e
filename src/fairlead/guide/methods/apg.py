"""Adaptive projected guidance (Sadat 2024, 2410.02416, algorithm 1): three changes to the direction of a method.

    m = Delta + momentum m_prev                     momentum: negative, so that a persistent direction is damped
    m = m min(1, norm / |m|)                        norm: a limit on the size of the direction
    D = D_c + omega (m_orthogonal + eta m_parallel)  split along D_c: the parallel part is what saturates

All of this is computed in x0, whatever the network predicts, and per sample: |m| is the norm over all elements of a
sample. APG is off where the method inside is off (``apg(cfg(1))``); some other implementations start from D_u instead
of D_c and are not. ``eta=1, momentum=0`` without a limit is the method itself.

Defaults: ``eta=0``, as the paper advises; ``norm=None`` and ``momentum=0``, because the paper tunes these to each
model. A norm grows with the size of a sample (2.5 limits the latents of one model and does nothing for another), and
the effect of momentum depends on the number of steps (the paper uses about -0.5).

The momentum is updated once per step: the second evaluation of a Heun step uses the same momentum as the first one and
does not change it. Steps at which the method is off do not change it either. Wrappers can be nested, as in
``apg(tcfg(cfg(4)))``, except around ``zero_star``, which changes more than a direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.moment import Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Wrapper
from fairlead.guide.per_sample import length, parallel


@dataclass(frozen=True)
class APG(Wrapper):
    """``apg(cfg(6))``, ``apg(cfg(6), norm=2.5, momentum=-0.5)``.

    Attributes:
        eta: share of the part parallel to D_c that is kept; 0 is none, 1 is all.
        norm: largest norm of the direction at weight 1, in x0 and over a whole sample, > 0; None is no limit.
        momentum: share of the last step's direction, in (-1, 1); 0 is none.
    """

    eta: float = field(default=0.0, kw_only=True)
    norm: float | None = field(default=None, kw_only=True)
    momentum: float = field(default=0.0, kw_only=True)
    name: ClassVar[str] = "apg"

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        if not is_number(self.eta) or not abs(self.eta) < float("inf"):
            raise UsageError(f"apg: expected eta to be a number such as 0 or 1, got {self.eta!r}")
        if self.norm is not None and not (is_number(self.norm) and 0 < self.norm < float("inf")):
            raise UsageError(f"apg: expected norm > 0, or None for no limit, got {self.norm!r}")
        if not is_number(self.momentum) or not -1 < self.momentum < 1:
            raise UsageError(f"apg: expected momentum in (-1, 1), such as -0.5 or 0, got {self.momentum!r}")

    def unit(self, seen: Seen) -> Tensor:
        move = super().unit(seen)
        if self.momentum:
            before = seen.recall(self)
            move = move if before is None else move + self.momentum * before
            seen.remember(self, move)
        if self.norm is not None:
            move = move * (self.norm / length(move).clamp(min=self.norm)).to(move)
        along, _ = self.pair(seen)
        return without_parallel(move, seen.x0(along), self.eta)


def without_parallel(move: Tensor, along: Tensor, eta: float) -> Tensor:
    """``move`` with its part parallel to ``along`` multiplied by ``eta``, per sample."""
    part = parallel(move, along)
    return move - ((1 - eta) * part if eta else part)
