"""Blocks shared by the U-Net and the noisy-image classifier. All take and return [n, c, h, w]."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)


def groups_of(channels: int) -> int:
    """8 groups, or fewer when the channels cannot be divided by 8."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)


def zeroed(module: M) -> M:
    """The module with all parameters 0, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift come from an embedding: norm(x) (1 + scale) + shift (2105.05233, 3)."""

    def __init__(self, channels: int, embed: int) -> None:
        super().__init__()
        self.groups = groups_of(channels)
        self.project = zeroed(nn.Linear(embed, 2 * channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.project(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.group_norm(x, self.groups), 1 + scale)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input.

    The embedding [n, embed] enters either through the scale and shift of the second norm (``adaptive``) or by addition
    after the first convolution, as in DDPM.
    """

    def __init__(self, inputs: int, outputs: int, embed: int, adaptive: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups_of(inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.adaptive = adaptive
        if adaptive:
            self.norm2: nn.Module = AdaptiveGroupNorm(outputs, embed)
        else:
            self.norm2 = nn.GroupNorm(groups_of(outputs), outputs)
            self.add = nn.Linear(embed, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h, embedding) if self.adaptive else self.norm2(h + self.add(embedding)[:, :, None, None])
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return out


class SelfAttention(nn.Module):
    """Every position attends to every other; residual. As many heads of at least ``head`` channels as divide them."""

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        self.heads = next(h for h in range(max(1, channels // head), 0, -1) if channels % h == 0)
        self.norm = nn.GroupNorm(groups_of(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w)
        out: Tensor = x + self.out(mixed)
        return out
