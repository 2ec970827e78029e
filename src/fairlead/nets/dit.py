"""A small diffusion transformer with adaLN-Zero blocks (Peebles & Xie 2022, 2212.09748, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.core.typed import Count, Depth, Size
from fairlead.nets.blocks import INTERNAL, Perturb, perturbed_attention, record_internal, where_masked, zeroed
from fairlead.nets.embeddings import sinusoidal
from fairlead.nets.inputs import ConditionedNet
from fairlead.nets.sizes import Sides, shown_sides, sides_of
from fairlead.nets.text_attention import TokenStates, read_tokens

Joined = Literal["adaptive", "fuse"]


class DiTBlock(nn.Module):
    """tokens [n, l, d] -> [n, l, d]; six modulations (shift, scale, gate of attention and MLP) from the embedding.
    Between the two, cross-attention to text states of width ``text`` (0: none), unmodulated, as in PixArt
    (2310.00426, 2.3)."""

    def __init__(self, dim: int, heads: int, embed: int, layer: str, text: int = 0) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.modulate = zeroed(nn.Linear(embed, 6 * dim))
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        if text:
            self.q, self.kv, self.read = nn.Linear(dim, dim), nn.Linear(text, 2 * dim), zeroed(nn.Linear(dim, dim))
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        perturb: Perturb,
        grid: tuple[int, int],
        text: TokenStates | None = None,
    ) -> Tensor:
        """``grid``: rows and columns of the l tokens."""
        before = x
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(embedding)[:, None].chunk(6, dim=-1)
        n, length, dim = x.shape
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = perturbed_attention(q, k, v, grid, self.layer, perturb).transpose(1, 2).reshape(n, length, dim)
        x = x + gate1 * self.out(h)
        if text is not None:
            q = self.q(x).reshape(n, length, self.heads, -1).transpose(1, 2)
            read = read_tokens(q, self.kv, text, self.layer, perturb)
            x = x + self.read(read.transpose(1, 2).reshape(n, length, dim))
        out: Tensor = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        for perturbation, mask in perturb.items():
            if perturbation.kind == "skip" and self.layer in perturbation.layers:
                out = where_masked(mask, before, out)
        return out


class _Head(nn.Module):
    """tokens [n, l, d] -> [n, l, out], modulated by the embedding as the last layer is."""

    def __init__(self, dim: int, embed: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = zeroed(nn.Linear(embed, 2 * dim))
        self.out = zeroed(nn.Linear(dim, out))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.modulate(embedding)[:, None].chunk(2, dim=-1)
        guess: Tensor = self.out(self.norm(tokens) * (1 + scale) + shift)
        return guess


class DiT(ConditionedNet):
    """``(x [n, c, h, w], time [n], condition) -> [n, c, h, w]``; label, attributes and pooled text join the time
    embedding, the tokens of a text are read by cross-attention in every block.

    Args:
        channels_in, size, classes: as for the U-Net; ``size`` divisible by ``patch``.
        dim: token width, divisible by ``heads``.
        depth: number of blocks.
        patch: edge of the pixel patches that become tokens.
        conditioning: how the label joins the time embedding. "adaptive": added; "fuse": concatenated, both fused by an
            MLP. It reaches the blocks through adaptive layer normalisation.
        attributes, text, image, scale: further conditions, see :class:`ConditionedNet`.
        internal: whether the first half of the blocks is followed by a head of its own that guesses the whole output
            from there (2512.24176); it is asked by :func:`attention_mass`.
    """

    positions: Tensor

    def __init__(
        self,
        channels_in: Size,
        size: Sides,
        classes: Count,
        dim: Size = 128,
        depth: Depth = 6,
        heads: Size = 4,
        patch: Size = 2,
        embed: int = 256,
        conditioning: Joined = "adaptive",
        attributes: Mapping[str, Size] | None = None,
        text: Mapping[str, Any] | None = None,
        image: Count = 0,
        internal: bool = False,
        scale: Sequence[float] | None = None,
    ) -> None:
        if conditioning not in get_args(Joined):
            raise unknown("conditioning", conditioning, get_args(Joined))
        shape, fuse = (channels_in, sides_of(size)), conditioning == "fuse"
        super().__init__(embed, classes, None, attributes, text, image, scale, shape=shape, fuse=fuse)
        height, width = sides_of(size)
        if height % patch or width % patch or dim % heads or dim % 4:
            raise UsageError(
                f"DiT: expected a size divisible by the patch and a width divisible by 4 and the heads, got size "
                f"{shown_sides(size)}, patch {patch}, dim {dim}, heads {heads}"
            )
        self.patch = patch
        self.tokens = nn.Linear((channels_in + self.joined) * patch**2, dim)
        self.grid = height // patch, width // patch
        down, across = (sinusoidal(torch.arange(edge), dim // 2) for edge in self.grid)
        grid = torch.cat(
            [down[:, None].expand(-1, self.grid[1], -1), across[None].expand(self.grid[0], -1, -1)], dim=-1
        )
        self.register_buffer("positions", grid.reshape(1, -1, dim), persistent=False)
        read = self.text.width if self.text is not None else 0
        self.blocks = nn.ModuleList([DiTBlock(dim, heads, embed, f"blocks.{i}", read) for i in range(depth)])
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = zeroed(nn.Linear(embed, 2 * dim))
        self.out = zeroed(nn.Linear(dim, channels_in * patch**2))
        self.internal = _Head(dim, embed, channels_in * patch**2) if internal else None

    def layers(self) -> dict[str, tuple[str, ...]]:
        """As for the U-Net."""
        names = tuple(f"blocks.{i}" for i in range(len(self.blocks)))
        head = {} if self.internal is None else {INTERNAL: (INTERNAL,)}
        return {"attention": names, "block": names, **({} if self.text is None else {"text": names}), **head}

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        embedding = self.time(time)
        if self.label is not None:
            embedding = self.joint(embedding, self.label(condition))
        noisy, vectors, text = self.embedded(condition, x)
        for vector in vectors:
            embedding = embedding + vector
        embedding = F.silu(embedding)
        patches = F.pixel_unshuffle(noisy, self.patch)
        h = self.tokens(patches.flatten(2).transpose(1, 2)) + self.positions
        for i, block in enumerate(self.blocks, start=1):
            h = block(h, embedding, condition.perturb, self.grid, text)
            if self.internal is not None and i == (len(self.blocks) + 1) // 2:
                record_internal(partial(self._guess, self.internal, h, embedding))
        shift, scale = self.modulate(embedding)[:, None].chunk(2, dim=-1)
        return self._image(self.out(self.norm(h) * (1 + scale) + shift))

    def _guess(self, head: _Head, tokens: Tensor, embedding: Tensor) -> Tensor:
        return self._image(head(tokens, embedding))

    def _image(self, tokens: Tensor) -> Tensor:
        """[n, l, c p^2] -> [n, c, h, w]"""
        return F.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid), self.patch)
