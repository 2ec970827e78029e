"""What images of a caption look like on average, drawn from its pooled vector alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sketch(nn.Module):
    """Pooled vectors [n, width] -> [n, channels, size, size]: a ground of one colour, and ``shapes`` drawn on it.

    The vector decides every part by itself: a glyph, a map of the places where it is drawn (the two are convolved), and
    its colour. So each glyph is learnt once for all places and colours, and a place once for all glyphs.

    Args:
        width: of the vectors.
        says: numbers of values of what readers tell of a text, e.g. (10, 7) for a digit and an ink. The sketch is then
            made of their probabilities: that "a seven" and "an eight" are small steps apart in
            the vector does not matter any more. (): of the vector as it is.
        shapes: how many, of one colour each.
        hidden: width of the layers in between.
    """

    def __init__(
        self, width: int, channels: int, size: int, says: Sequence[int] = (), shapes: int = 2, hidden: int = 128
    ) -> None:
        super().__init__()
        self.channels, self.size, self.says, self.shapes = channels, size, tuple(says), shapes
        self.glyph = size // 2 + 1 | 1
        self.read = nn.Linear(width, sum(says)) if says else None
        self.embed = nn.Linear(sum(says) or width, hidden)
        self.what, self.where = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, shapes * edge**2))
            for edge in (self.glyph, size)
        )
        self.colours = nn.Linear(hidden, (1 + shapes) * channels)

    def logits(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """Of the values of each of ``says``, [n, k] each."""
        found: tuple[Tensor, ...] = () if self.read is None else self.read(pooled).split(self.says, dim=1)
        return found

    def forward(self, pooled: Tensor) -> Tensor:
        n, edge = len(pooled), self.size + self.glyph - 1
        if self.says:
            pooled = torch.cat([_evened(logits) for logits in self.logits(pooled)], dim=1)
        told = F.silu(self.embed(pooled))
        what, where = (
            torch.fft.rfft2(part(told).float().reshape(n, self.shapes, side, side), s=(edge, edge))
            for part, side in ((self.what, self.glyph), (self.where, self.size))
        )
        half, size = self.glyph // 2, self.size
        maps = torch.fft.irfft2(what * where, s=(edge, edge))[..., half : half + size, half : half + size]
        ground, colours = self.colours(told).float().split([self.channels, self.shapes * self.channels], dim=1)
        drawn = torch.einsum("nshw,nsc->nchw", maps, colours.reshape(n, self.shapes, self.channels))
        out: Tensor = ground[:, :, None, None] + drawn
        return out


def _evened(logits: Tensor) -> Tensor:
    """Probabilities of k values, moved and scaled to mean 0 and deviation 1 if each is as often the certain one."""
    k = logits.shape[1]
    evened: Tensor = (logits.softmax(dim=1) - 1 / k) * (k / max(k - 1, 1) ** 0.5)
    return evened
