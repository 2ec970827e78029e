"""What images of a caption look like on average, drawn from its pooled vector alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.nets.blocks import ResidualBlock, groups_of


class Sketch(nn.Module):
    """Pooled vectors [n, width] -> [n, channels, size, size].

    The first layer may give each of its places other weights, so that "a seven" and "at the top left" meet in some of
    them; blocks that are the same everywhere, told the vector once more, draw what stands there: ``layers`` maps,
    each of one colour, which the vector decides by itself. Shapes are then learnt once for all colours.
    """

    def __init__(self, width: int, channels: int, size: int, wide: int = 64, embed: int = 256, layers: int = 8) -> None:
        super().__init__()
        self.size, self.edge = size, -(-size // 4)
        self.embed = nn.Linear(width, embed)
        self.places = nn.Linear(width, wide * self.edge**2)
        self.coarse = ResidualBlock(wide, wide, embed)
        self.fine = ResidualBlock(wide, wide, embed)
        self.norm = nn.GroupNorm(groups_of(wide), wide)
        self.maps = nn.Conv2d(wide, 4 * layers, 3, padding=1)
        self.colours = nn.Linear(embed, layers * channels)

    def forward(self, pooled: Tensor) -> Tensor:
        embedding = F.silu(self.embed(pooled))
        h = F.silu(self.places(pooled)).reshape(len(pooled), self.edge, self.edge, -1).permute(0, 3, 1, 2)
        h = self.coarse(h, embedding)
        h = self.fine(F.interpolate(h, scale_factor=2.0), embedding)
        maps = F.pixel_shuffle(self.maps(F.silu(self.norm(h))), 2)[..., : self.size, : self.size]
        colours = self.colours(embedding).reshape(len(pooled), maps.shape[1], -1)
        return torch.einsum("nlhw,nlc->nchw", maps, colours)
