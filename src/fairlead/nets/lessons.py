"""The two networks of the lessons, layer for layer, so that their recipes can be run beside ours.

``lesson-mnist``: 2,358,849 parameters; ``lesson-cifar10``: 13,395,331. One difference in form: their null class is the
last row of the class table, ours a parameter of its own, so the numbers of parameters agree.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.typed import Size
from fairlead.nets.blocks import AdaptiveGroupNorm, GroupNorm
from fairlead.nets.embeddings import LabelEmbedding, sinusoidal
from fairlead.nets.sizes import Sides, shown_sides, sides_of


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, transpose: bool = False) -> nn.Sequential:
    make = nn.ConvTranspose2d if transpose else nn.Conv2d
    layer = make(inputs, outputs, kernel, stride=stride, padding=1)
    return nn.Sequential(layer, GroupNorm(outputs, 8), nn.SiLU())


class LessonMNIST(nn.Module):
    """Three convolutions down, three up; time and label are added at the bottleneck only."""

    def __init__(self, channels_in: Size, size: Sides, classes: Size, channels: Size = 64) -> None:
        super().__init__()
        _require_halvings(size, 4)
        c = channels
        self.time = nn.Sequential(nn.Linear(64, 4 * c), nn.SiLU(), nn.Linear(4 * c, 4 * c))
        self.label = LabelEmbedding(classes, 4 * c)
        self.enc1 = _conv(channels_in, c)
        self.enc2 = _conv(c, 2 * c, stride=2)
        self.enc3 = _conv(2 * c, 4 * c, stride=2)
        self.bottleneck = _conv(4 * c, 4 * c)
        self.dec3 = _conv(8 * c, 2 * c, kernel=4, stride=2, transpose=True)
        self.dec2 = _conv(4 * c, c, kernel=4, stride=2, transpose=True)
        self.dec1 = nn.Conv2d(2 * c, channels_in, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        embedding = self.time(sinusoidal(time, 64).to(x.dtype)) + self.label(condition)
        e1 = self.enc1(x)
        e2 = self.enc2(e1)
        e3 = self.enc3(e2)
        h = self.bottleneck(e3) + embedding[:, :, None, None]
        h = self.dec3(torch.cat([h, e3], dim=1))
        h = self.dec2(torch.cat([h, e2], dim=1))
        out: Tensor = self.dec1(torch.cat([h, e1], dim=1))
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, embed: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = AdaptiveGroupNorm(inputs, embed), AdaptiveGroupNorm(outputs, embed)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for norm in (self.norm1, self.norm2):  # theirs start at torch's default, not at zero
            norm.project.reset_parameters()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, embedding)))
        h = self.conv2(F.silu(self.norm2(h, embedding)))
        out: Tensor = h + self.skip(x)
        return out


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(channels, 8)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (
            part.reshape(n, self.heads, c // self.heads, h * w).transpose(2, 3)
            for part in self.qkv(self.norm(x).flatten(2)).chunk(3, dim=1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h * w)
        out: Tensor = x + self.out(mixed).view(n, c, h, w)
        return out


class LessonCIFAR10(nn.Module):
    """Two residual blocks a level at 32, 16, 8 with adaptive normalisation and attention at 8x8."""

    def __init__(self, channels_in: Size, size: Sides, classes: Size, channels: Size = 128, embed: int = 256) -> None:
        super().__init__()
        _require_halvings(size, 4)
        c, e = channels, embed
        self.embed = embed
        self.time = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.label = LabelEmbedding(classes, e)
        self.stem = nn.Conv2d(channels_in, c, 3, padding=1)
        self.enc1a, self.enc1b = _Block(c, c, e), _Block(c, c, e)
        self.down1 = nn.Conv2d(c, c, 4, stride=2, padding=1)
        self.enc2a, self.enc2b = _Block(c, 2 * c, e), _Block(2 * c, 2 * c, e)
        self.down2 = nn.Conv2d(2 * c, 2 * c, 4, stride=2, padding=1)
        self.mid1, self.attention, self.mid2 = _Block(2 * c, 2 * c, e), _Attention(2 * c), _Block(2 * c, 2 * c, e)
        self.up2 = nn.ConvTranspose2d(2 * c, 2 * c, 4, stride=2, padding=1)
        self.dec2a, self.dec2b = _Block(4 * c, 2 * c, e), _Block(2 * c, c, e)
        self.up1 = nn.ConvTranspose2d(c, c, 4, stride=2, padding=1)
        self.dec1a, self.dec1b = _Block(2 * c, c, e), _Block(c, c, e)
        self.norm = GroupNorm(c, 8)
        self.out = nn.Conv2d(c, channels_in, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        e = self.time(sinusoidal(time, self.embed).to(x.dtype)) + self.label(condition)
        h1 = self.enc1b(self.enc1a(self.stem(x), e), e)
        h2 = self.enc2b(self.enc2a(self.down1(h1), e), e)
        h = self.mid2(self.attention(self.mid1(self.down2(h2), e)), e)
        h = self.dec2b(self.dec2a(torch.cat([self.up2(h), h2], dim=1), e), e)
        h = self.dec1b(self.dec1a(torch.cat([self.up1(h), h1], dim=1), e), e)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


def _require_halvings(size: int | tuple[int, int], divisor: int) -> None:
    if any(side % divisor for side in sides_of(size)):
        raise UsageError(
            f"the lesson's network halves the image twice: expected multiples of {divisor}, got {shown_sides(size)}"
        )
