"""One U-Net for every small job (after 2006.11239 and 2105.05233).

x [n, c, s, s] -> patches [n, c p^2, s/p, s/p] -> levels of residual blocks, each half the size of the one before ->
middle with attention -> the same levels back, every block joined with its counterpart on the way down -> [n, c, s, s].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.nets.blocks import Perturb, ResidualBlock, SelfAttention, groups_of, where_masked, zeroed
from fairlead.nets.embeddings import LabelEmbedding, TimeEmbedding

Conditioning = Literal["adaptive", "add", "concat"]


class _Stage(nn.ModuleList):
    """A residual block, then attention or nothing. ``layer`` is the name that perturbations call it by."""

    layer = ""

    def forward(self, h: Tensor, embedding: Tensor, perturb: Perturb) -> Tensor:
        block, attend = self.children()
        out: Tensor = block(h, embedding)
        if isinstance(attend, SelfAttention):
            out = attend(out, self.layer, perturb)
        for perturbation, mask in perturb.items():
            if perturbation.kind == "skip" and self.layer in perturbation.layers:
                out = where_masked(mask, cast(ResidualBlock, block).skip(h), out)
        return out


class UNet(nn.Module):
    """``(x [n, c, s, s], time [n], condition) -> [n, c, s, s]``.

    Args:
        channels_in: channels of an image.
        size: height and width of an image; divisible by patch * 2^(levels - 1).
        classes: number of class labels; 0 builds an unconditional network.
        channels: width of the first level.
        multipliers: width of each level, in units of ``channels``; their number is the number of levels.
        blocks: residual blocks a level, on the way down and again on the way up.
        attention: sizes (after patching) at which blocks are followed by self-attention; the middle always has it.
        patch: edge of the pixel patches folded into channels first; 2 quarters the cost of the widest maps.
        embed: width of the embedding of time and label.
        conditioning: how the label enters. "adaptive": with the time embedding, through adaptive group normalisation;
            "add": with the time embedding, added after the first convolution of a block; "concat": as one-hot planes
            concatenated to the input, time through adaptive group normalisation.
        dropout: of the residual branches while training.
    """

    def __init__(
        self,
        channels_in: int,
        size: int,
        classes: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        patch: int = 1,
        embed: int = 256,
        conditioning: Conditioning = "adaptive",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if conditioning not in get_args(Conditioning):
            raise unknown("conditioning", conditioning, get_args(Conditioning))
        smallest = patch * 2 ** (len(multipliers) - 1)
        if size % smallest:
            raise UsageError(
                f"image size {size} cannot be halved {len(multipliers) - 1} times after patches of {patch}: expected a "
                f"multiple of {smallest}; pass another size or fewer multipliers"
            )
        self.patch, self.conditioning = patch, conditioning
        self.time = TimeEmbedding(embed)
        inputs = channels_in * patch**2
        self.label: LabelEmbedding | None = None
        if classes:
            one_hot = conditioning == "concat"
            self.label = LabelEmbedding(classes, classes if one_hot else embed, one_hot=one_hot)
            inputs += classes if one_hot else 0

        def stage(inside: int, outside: int, attend: bool) -> _Stage:
            block = ResidualBlock(inside, outside, embed, adaptive=conditioning != "add", dropout=dropout)
            return _Stage([block, SelfAttention(outside) if attend else nn.Identity()])

        widths = [channels * m for m in multipliers]
        sizes = [size // patch // 2**level for level in range(len(widths))]
        if not set(attention) <= set(sizes):
            raise UsageError(
                f"attention at {list(attention)}: the levels of this network have sizes {sizes}; choose among them"
            )
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        width = widths[0]
        for level, (wide, at) in enumerate(zip(widths, sizes, strict=True)):
            self.down.append(
                nn.ModuleList([stage(width if i == 0 else wide, wide, at in attention) for i in range(blocks)])
            )
            last = level == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(wide, wide, 3, stride=2, padding=1))
            width = wide
        self.middle = nn.ModuleList([stage(width, width, True), stage(width, width, sizes[-1] in attention)])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            wide, attend = widths[level], sizes[level] in attention
            self.up.append(
                nn.ModuleList([stage((width if i == 0 else wide) + wide, wide, attend) for i in range(blocks)])
            )
            self.grow.append(nn.Conv2d(wide, wide, 3, padding=1) if level else nn.Identity())
            width = wide
        self.norm = nn.GroupNorm(groups_of(width), width)
        self.out = zeroed(nn.Conv2d(width, channels_in * patch**2, 3, padding=1))
        for name, module in self.named_modules():
            if isinstance(module, _Stage):
                module.layer = name

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Names of the layers that can be perturbed, by what can be perturbed, from the input to the output."""
        stages = [module for module in self.modules() if isinstance(module, _Stage)]
        attended = [stage.layer for stage in stages if isinstance(stage[1], SelfAttention)]
        return {"attention": tuple(attended), "block": tuple(stage.layer for stage in stages)}

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        embedding = self.time(time)
        h = F.pixel_unshuffle(x, self.patch)
        if self.label is not None:
            label = self.label(condition)
            if self.conditioning == "concat":
                h = torch.cat([h, label.to(h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)
            else:
                embedding = embedding + label
        embedding = F.silu(embedding)
        h = self.stem(h)
        skips = []
        for stages, shrink in zip(self.down, self.shrink, strict=True):
            for stage in stages.children():
                h = stage(h, embedding, condition.perturb)
                skips.append(h)
            h = shrink(h)
        for stage in self.middle:
            h = stage(h, embedding, condition.perturb)
        for stages, grow in zip(self.up, self.grow, strict=True):
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding, condition.perturb)
            if not isinstance(grow, nn.Identity):
                h = grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        out: Tensor = F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)
        return out
