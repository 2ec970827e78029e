"""What images of a caption look like on average, drawn from its pooled vector alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairlead.nets.sizes import sides_of


class Sketch(nn.Module):
    """Pooled vectors [n, width] -> images [n, channels, height, width]: a ground of one colour, and shapes drawn on it.

    A shape is a glyph drawn wherever a map of places says so (the two are convolved), in one colour. Where, and in
    which colours, is the sum of what each thing said adds to it; what the glyph is may hang on all things together.

    Args:
        width: of the vectors.
        channels, size: of the images; one number for squares, or (height, width).
        says: numbers of values of what readers tell of a text, e.g. (10, 7) for a digit and an ink. The sketch is then
            made of their probabilities: that "a seven" and "an eight" are small steps apart in the vector does not
            matter any more. (): of the vector as it is.
        shapes: how many.
        hidden: width of the layers before the glyphs.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        size: int | tuple[int, int],
        says: Sequence[int] = (),
        shapes: int = 2,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.says, self.shapes = channels, sides_of(size), tuple(says), shapes
        self.glyph = min(self.size) // 2 + 1 | 1
        self.read = nn.Linear(width, sum(says)) if says else None
        inputs = sum(says) or width
        self.what = nn.Sequential(
            nn.Linear(inputs, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, shapes * self.glyph**2),
        )  # fmt: skip
        self.where = nn.Linear(inputs, shapes * self.size[0] * self.size[1])
        self.colours = nn.Linear(inputs, (1 + shapes) * channels)

    def logits(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """Of the values of each of ``says``, [n, k] each."""
        found: tuple[Tensor, ...] = () if self.read is None else self.read(pooled).split(self.says, dim=1)
        return found

    def forward(self, pooled: Tensor) -> Tensor:
        """Vectors [n, width] -> images [n, channels, height, width], float32."""
        n, (height, across) = len(pooled), self.size
        edges = height + self.glyph - 1, across + self.glyph - 1
        inputs = torch.cat([_evened(logits) for logits in self.logits(pooled)], dim=1) if self.says else pooled
        what, where = (
            torch.fft.rfft2(part(inputs).float().reshape(n, self.shapes, *sides), s=edges)
            for part, sides in ((self.what, (self.glyph, self.glyph)), (self.where, self.size))
        )
        half = self.glyph // 2
        maps = torch.fft.irfft2(what * where, s=edges)[..., half : half + height, half : half + across]
        ground, colours = self.colours(inputs).float().split([self.channels, self.shapes * self.channels], dim=1)
        drawn = torch.einsum("nshw,nsc->nchw", maps, colours.reshape(n, self.shapes, self.channels))
        out: Tensor = ground[:, :, None, None] + drawn
        return out


def _evened(logits: Tensor) -> Tensor:
    """Probabilities of k values, moved and scaled to mean 0 and deviation 1 if each is as often the certain one."""
    k = logits.shape[1]
    evened: Tensor = (logits.softmax(dim=1) - 1 / k) * (k / max(k - 1, 1) ** 0.5)
    return evened
