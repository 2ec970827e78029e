"""A classifier of noisy images, p(y | x_t, t): the downward half of the U-Net with a linear head (2105.05233, 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.core.typed import Depth, Size
from fairlead.nets.blocks import ResidualBlock, SelfAttention, groups_of
from fairlead.nets.embeddings import TimeEmbedding


class NoisyClassifier(nn.Module):
    """``(x_t [n, c, s, s], time [n]) -> logits [n, classes]``, at every noise level. No batch statistics, so the
    gradient of the summed log-probabilities is per sample.

    Args: as for the U-Net.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Size,
        classes: Size,
        channels: Size = 32,
        multipliers: Sequence[Size] = (1, 2),
        blocks: Depth = 1,
        patch: Size = 1,
        embed: int = 128,
    ) -> None:
        super().__init__()
        smallest = patch * 2 ** (len(multipliers) - 1)
        if size % smallest:
            raise UsageError(f"noisy classifier: expected an image size divisible by {smallest}, got {size}")
        self.patch = patch
        self.time = TimeEmbedding(embed)
        widths = [channels * m for m in multipliers]
        self.stem = nn.Conv2d(channels_in * patch**2, widths[0], 3, padding=1)
        self.blocks, self.shrink = nn.ModuleList(), nn.ModuleList()
        width = widths[0]
        for level, wide in enumerate(widths):
            self.blocks.append(
                nn.ModuleList([ResidualBlock(width if i == 0 else wide, wide, embed) for i in range(blocks)])
            )
            last = level == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(wide, wide, 3, stride=2, padding=1))
            width = wide
        self.attention = SelfAttention(width)
        self.norm = nn.GroupNorm(groups_of(width), width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        embedding = F.silu(self.time(time))
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        for blocks, shrink in zip(self.blocks, self.shrink, strict=True):
            for block in blocks.children():
                h = block(h, embedding)
            h = shrink(h)
        h = F.silu(self.norm(self.attention(h)))
        out: Tensor = self.head(h.mean(dim=(2, 3)))
        return out
