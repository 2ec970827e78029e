"""The network of the thorough judge: residual stages, for photographs, which a few plain convolutions do not know."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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


def residual_stages(shape: tuple[int, int, int], width: int) -> tuple[list[nn.Module], int]:
    """Stages for images of ``shape`` down to at most 4 x 4, the first ``width`` channels wide, and how many numbers
    come out of them."""
    channels, height, across = shape
    first = width // 2
    stages: list[nn.Module] = [nn.Conv2d(channels, first, 2, bias=False), nn.BatchNorm2d(first), nn.GELU()]
    before, wide = first, width
    height, across = height - 1, across - 1
    while min(height, across) > 4:
        stages.append(Stage(before, wide))
        before, wide = wide, min(wide * 8 // 3, 4 * width)
        height, across = height // 2, across // 2
    return [*stages, LargestOfEach()], before
