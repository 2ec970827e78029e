"""The network of the thorough judge, for photographs, which a few plain convolutions do not know."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 5e-4
"""Added to the variance of a direction before it is divided by: of one that images do not use, it leaves nothing."""


class Stage(nn.Module):
    """[n, a, h, w] -> [n, b, h // 2, w // 2]: conv - 2x2 max-pooling - batch norm - GELU, then the same without
    pooling.

    A kernel begins by passing on as many channels as it can, and its size is left to the batch norm, which has a bias
    only (both of Jordan 2024, 2404.00498).
    """

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            _passing_on(a, b), nn.MaxPool2d(2), _bias_only(b), nn.GELU(), _passing_on(b, b), _bias_only(b), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.parts(x)
        return out


def _passing_on(a: int, b: int) -> nn.Conv2d:
    conv = nn.Conv2d(a, b, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[: min(a, b)].detach())
    return conv


def _bias_only(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class LargestOfEach(nn.Module):
    """[n, c, h, w] -> [n, c], the largest over places, by nine: small, so that the first guesses are unsure."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, 1).flatten(1) / 9


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


def deep_stages(shape: tuple[int, int, int], width: int) -> tuple[list[nn.Module], int]:
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


@torch.no_grad()
def keep_sizes(network: nn.Module) -> None:
    """Each kernel that is trained and has a batch norm behind it, to which its size means nothing, at the same size:
    else kernels grow, and steps of one length turn them less and less."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.weight.requires_grad:
            part.weight.mul_(len(part.weight) ** 0.5 / part.weight.norm())
