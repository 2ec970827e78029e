"""A classifier of noisy images, p(y | x_t, t): the downward half of the U-Net with a linear head (2105.05233, 4).

Guidance multiplies the gradient of its log-probability, and with it every error, by sigma^2 / alpha: up to 1,100 on the
cosine schedule. The exact gradient falls with alpha, for noise hides the class; a network has no way to know. One that
is ``anchored`` adds what it learns to a classifier that is exact in this limit,

    logits = log p(y) + log N(x_t; alpha mean_y, alpha^2 covariance_y + sigma^2) + gate^2 f(x_t, t)

with gate = alpha / hypot(alpha, sigma) and the first two moments of each class in the training data. By the cumulants
of log p(x_t | y), what is left for f is of third order in alpha / sigma. An error in the gradient of f enters the
guided x0 multiplied by alpha sigma^2 (on a variance-preserving schedule): at most 0.39, next to nothing at high noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.denoiser import autocast
from fairlead.core.errors import UsageError
from fairlead.core.typed import Count, Depth, Size
from fairlead.nets.blocks import GroupNorm, ResidualBlock, SelfAttention, zeroed
from fairlead.nets.embeddings import TimeEmbedding
from fairlead.nets.sizes import Sides, shown_sides, sides_of

FLOOR = 0.05
"""Variance added in every direction of images in [-1, 1], so that no Gaussian is surer than their pixels are."""


class ClassMoments(NamedTuple):
    """Of c classes in d values, the covariance by its k largest directions and one variance in all others.

    Attributes:
        share: [c], positive, sums to 1.
        mean: [c, d].
        axes: [c, k, d], orthonormal; those that a class has no images for are 0.
        variance: [c, k], along the axes.
        rest: [c], in any other direction.
    """

    share: Tensor
    mean: Tensor
    axes: Tensor
    variance: Tensor
    rest: Tensor


class GaussianClasses(nn.Module):
    """log p(y) + log N(x_t; alpha mean_y, alpha^2 covariance_y + sigma^2) of given :class:`ClassMoments`, up to what
    all classes share. Nothing in it is trained."""

    share: Tensor
    mean: Tensor
    axes: Tensor
    variance: Tensor
    rest: Tensor

    def __init__(self, classes: int, values: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.full((classes,), 1 / classes))
        self.register_buffer("mean", torch.zeros(classes, values))
        self.register_buffer("axes", torch.zeros(classes, rank, values))
        self.register_buffer("variance", torch.ones(classes, rank))
        self.register_buffer("rest", torch.ones(classes))

    def set_moments(self, moments: ClassMoments) -> None:
        for name, value in moments._asdict().items():
            getattr(self, name).copy_(value)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Logits [n, classes] of x [n, d] with level [n, 2]: alpha and sigma."""
        rank, values = self.axes.shape[1:]
        alpha, sigma = level[:, :1], level[:, 1:]
        wide = alpha**2 * self.rest + sigma**2
        along = alpha[..., None] ** 2 * self.variance + sigma[..., None] ** 2
        centred = x[:, None] - alpha[..., None] * self.mean
        inside = torch.einsum("ncd,ckd->nck", centred, self.axes)
        squares = centred.square().sum(2) / wide + (inside.square() * (1 / along - 1 / wide[..., None])).sum(2)
        return self.share.log() - 0.5 * (squares + along.log().sum(2) + (values - rank) * wide.log())


class NoisyClassifier(nn.Module):
    """``(x_t [n, c, s, s], time [n], level [n, 2]) -> logits [n, classes]``, at every noise level. No batch statistics,
    so the gradient of the summed log-probabilities is per sample.

    Args: as for the U-Net, and
        anchor: 0 is the network of fairlead 0.1: logits f alone, and its head sees the mean over positions. Otherwise
            the logits have the form above, with so many directions of variance a class, and the head sees every
            position.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Sides,
        classes: Size,
        channels: Size = 32,
        multipliers: Sequence[Size] = (1, 2),
        blocks: Depth = 1,
        patch: Size = 1,
        embed: int = 128,
        anchor: Count = 0,
    ) -> None:
        super().__init__()
        smallest = patch * 2 ** (len(multipliers) - 1)
        height, across = sides_of(size)
        if height % smallest or across % smallest:
            raise UsageError(
                f"noisy classifier: expected an image size divisible by {smallest}, got {shown_sides(size)}"
            )
        if anchor < 0:
            raise UsageError(f"noisy classifier: expected anchor >= 0, got {anchor}")
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
        self.norm = GroupNorm(width)
        values = channels_in * height * across
        self.gaussians = GaussianClasses(classes, values, min(anchor, values)) if anchor else None
        positions = (height // smallest) * (across // smallest)
        head = nn.Linear(width * positions if anchor else width, classes)
        self.head = zeroed(head) if anchor else head

    def forward(self, x: Tensor, time: Tensor, level: Tensor | None = None) -> Tensor:
        """Logits [n, classes].

        Args:
            level: alpha and sigma of x [n, 2]; only an anchored network reads it. None is a clean image: 1 and 0.
        """
        embedding = F.silu(self.time(time))
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        for blocks, shrink in zip(self.blocks, self.shrink, strict=True):
            for block in blocks.children():
                h = block(h, embedding)
            h = shrink(h)
        h = F.silu(self.norm(self.attention(h)))
        if self.gaussians is None:
            out: Tensor = self.head(h.mean(dim=(2, 3)))
            return out
        f = self.head(h.flatten(1))
        with autocast(x.device, None):  # where noise is high, what matters is far behind the comma
            exact = torch.promote_types(x.dtype, torch.float32)
            if level is None:
                level = x.new_tensor([1.0, 0.0]).expand(len(x), 2)
            level = level.to(exact)
            gate = level[:, :1] / torch.hypot(level[:, :1], level[:, 1:])
            logits: Tensor = self.gaussians(x.flatten(1).to(exact), level) + gate**2 * f.to(exact)
        return logits
