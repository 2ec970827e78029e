"""The network of the thorough judge: residual stages, for photographs, which a few plain convolutions do not know."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 5e-4
"""Added to the variance of a direction before it is divided by: of one that images do not use, it leaves nothing."""


class Stage(nn.Module):
    """[n, a, h, w] -> [n, b, h // 2, w // 2]: conv - 2x2 max-pooling - batch norm - GELU, then the same without
    pooling, added to it."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(b), nn.GELU()
        )
        self.more = nn.Sequential(nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.shrink(x)
        out: Tensor = h + self.more(h)
        return out


class LargestOfEach(nn.Module):
    """[n, c, h, w] -> [n, c], the largest over places, halved: about the size that the layers before it have."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, 1).flatten(1) / 2


class Whitening(nn.Module):
    """[n, c, h, w] -> [n, 8 c, h - 1, w - 1]: 2 x 2 patches along the principal directions of the training images'
    patches, each of variance 1, and their negatives; only the bias is learnt. Training begins where colours and edges
    are already apart (Jordan 2024, 2404.00498)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 8 * channels, 2)
        self.patches.weight.requires_grad_(False)
        nn.init.zeros_(self.bias)

    @property
    def bias(self) -> Tensor:
        assert self.patches.bias is not None
        return self.patches.bias

    def look_at(self, x: Tensor) -> None:
        """Take the directions from images [n, c, h, w] in [-1, 1]."""
        patches = F.unfold(x, 2).transpose(1, 2).flatten(0, 1)  # [n places, 4 c]
        values, directions = torch.linalg.eigh(torch.cov(patches.T.double()))
        rows = (directions / (values + SMALL).sqrt()).T.reshape(-1, x.shape[1], 2, 2).float()
        with torch.no_grad():
            self.patches.weight.copy_(torch.cat([rows, -rows]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.patches(x)
        return out


def residual_stages(shape: tuple[int, int, int], width: int) -> tuple[list[nn.Module], int]:
    """Stages for images of ``shape`` down to at most 4 x 4, the first ``width`` channels wide, and how many numbers
    come out of them. The first is a :class:`Whitening`."""
    channels, height, across = shape
    stages: list[nn.Module] = [Whitening(channels), nn.GELU()]
    before, wide = 8 * channels, width
    height, across = height - 1, across - 1
    while min(height, across) > 4:
        stages.append(Stage(before, wide))
        before, wide = wide, min(wide * 8 // 3, 4 * width)
        height, across = height // 2, across // 2
    return [*stages, LargestOfEach()], before
