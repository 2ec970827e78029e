"""Stochastic self-guidance (Chen et al. 2025, 2508.12880): away from the network with random blocks skipped.

    D = D_c + scale (D_c - D_c with random blocks skipped)

In every step a share of the blocks, at least one, is drawn for every sample from the sample's own stream. A skipped
block passes its input on; where a block of the U-Net changes the number of channels, through its shortcut alone. Works
without a condition. The paper skips about a tenth of the blocks and uses a scale of 0.25 together with ``cfg``.

Cost: one row per sample, in the same network call as the other branches; nothing at scale 0. Can be added to any other
term. Refused for models that name no blocks. Unlike with ``slg``, you need not know which blocks matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition, Perturbation
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Branch
from fairlead.guide.moment import Context, Moment
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.pairs import Pair
from fairlead.guide.perturb import as_layers, chosen_layers
from fairlead.guide.scales import Scale


@dataclass(frozen=True)
class RandomBlocks:
    """Makes conditions: for every sample a share of the blocks is skipped."""

    share: float
    layers: tuple[str, ...]

    def __call__(self, at: Moment, condition: Condition) -> Condition:
        for layer, rows in zip(self.layers, self.skipped(at).T, strict=True):
            condition = condition.perturbed(Perturbation("skip", (layer,)), rows)
        return condition

    def skipped(self, at: Moment) -> Tensor:
        """bool [n, layers]: the blocks with the largest draws."""
        count = max(1, round(self.share * len(self.layers)))
        places = at.draw("s2", (len(self.layers),)).topk(count, dim=1).indices
        return torch.zeros(len(places), len(self.layers), dtype=torch.bool).scatter(1, places.cpu(), True)


@dataclass(frozen=True)
class S2(Pair):
    """``s2(0.25)``, ``s2(0.25, share=0.2)``, ``s2(0.5, layers=["down.0.0", "up.0.0"])``.

    Attributes:
        scale: 0 is off.
        share: of the blocks that are skipped, in (0, 1]; at least one is.
        layers: blocks to choose among, one name or several of ``model.layers``; all if left out.
    """

    scale: Scale | Sequence[float] | Tensor
    share: float = field(default=0.1, kw_only=True)
    layers: str | Sequence[str] | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "s2"
    off: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        object.__setattr__(self, "layers", as_layers(self.name, self.layers))
        if not is_number(self.share) or not 0 < self.share <= 1:
            raise UsageError(f"s2: expected share in (0, 1], such as 0.1, got {self.share!r}; scale 0 is off")

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, Branch(make=RandomBlocks(self.share, self._blocks(at)))

    def check(self, on: Context) -> None:
        self._blocks(on)

    def _blocks(self, on: Context) -> tuple[str, ...]:
        assert self.layers is None or isinstance(self.layers, tuple)
        return chosen_layers(self.name, self.layers or on.model.layers.get("block") or None, "block", on.model)
