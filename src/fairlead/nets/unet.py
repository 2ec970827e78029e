"""One U-Net for every small job (after 2006.11239 and 2105.05233).

x [n, c, h, w] -> patches [n, c p^2, h/p, w/p] -> levels of residual blocks, each half the size of the one before ->
middle with attention -> the same levels back, every block joined with its counterpart on the way down -> [n, c, h, w].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.core.typed import Count, Depth, Share, Size
from fairlead.nets.blocks import (
    INTERNAL,
    GroupNorm,
    Perturb,
    ResidualBlock,
    SelfAttention,
    record_internal,
    where_masked,
    zeroed,
)
from fairlead.nets.inputs import ConditionedNet
from fairlead.nets.sizes import ATTENDED, Sides, shown_sides, sides_of
from fairlead.nets.text_attention import CrossAttention, TokenStates

Conditioning = Literal["adaptive", "add", "concat", "fuse"]


class _Stage(nn.ModuleList):
    """A residual block, then self-attention or nothing, then cross-attention to the text or nothing. ``layer`` is the
    name that perturbations call it by."""

    layer = ""

    def forward(self, h: Tensor, embedding: Tensor, perturb: Perturb, text: TokenStates | None) -> Tensor:
        block, attend, cross = self.children()
        out: Tensor = block(h, embedding)
        if isinstance(attend, SelfAttention):
            out = attend(out, self.layer, perturb)
        if text is not None and isinstance(cross, CrossAttention):
            out = cross(out, text, self.layer, perturb)
        for perturbation, mask in perturb.items():
            if perturbation.kind == "skip" and self.layer in perturbation.layers:
                out = where_masked(mask, cast(ResidualBlock, block).skip(h), out)
        return out


class UNet(ConditionedNet):
    """``(x [n, c, h, w], time [n], condition) -> [n, c, h, w]``.

    Args:
        channels_in: channels of an image.
        size: height and width of an image, or one number for both; divisible by patch * 2^(levels - 1).
        classes: number of class labels; 0 builds an unconditional network.
        channels: width of the first level.
        multipliers: width of each level, in units of ``channels``; their number is the number of levels.
        blocks: residual blocks a level, on the way down and again on the way up.
        attention: longer sides (after patching) at which blocks are followed by self-attention; the middle always has
            it. None is all up to 16.
        patch: edge of the pixel patches folded into channels first; 2 quarters the cost of the widest maps.
        embed: width of the embedding of time and label.
        conditioning: how the label enters. "adaptive": with the time embedding, through adaptive group normalisation;
            "add": with the time embedding, added after the first convolution of a block; "concat": as one-hot planes
            concatenated to the input, time through adaptive group normalisation; "fuse": concatenated to the time
            embedding, both fused by an MLP and then as "adaptive".
        dropout: of the residual branches while training.
        attributes, text, image, scale: further conditions, see :class:`ConditionedNet`. Attributes, the scale and the
            pooled text are added to the embedding; the image and a sketch of the text are joined to the input.
        cross: longer sides (after patching) at which blocks are followed by cross-attention to the text; the middle
            always has it. None is all up to 16.
        internal: whether the middle has a head of its own, one convolution that guesses the whole output from there
            (2512.24176); it is asked by :func:`attention_mass`.
        narrow: the convolution after an upsampling already has the width of its new level, not of the one before;
            a quarter less work where the widths are (32, 128) and the levels 14x14 and 7x7.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Sides,
        classes: Count,
        channels: Size = 64,
        multipliers: Sequence[Size] = (1, 2),
        blocks: Depth = 2,
        attention: Sequence[int] | None = (),
        patch: Size = 1,
        embed: int = 256,
        conditioning: Conditioning = "adaptive",
        dropout: Share = 0.0,
        attributes: Mapping[str, Size] | None = None,
        text: Mapping[str, Any] | None = None,
        image: Count = 0,
        cross: Sequence[int] | None = None,
        narrow: bool = False,
        internal: bool = False,
        scale: Sequence[float] | None = None,
    ) -> None:
        if conditioning not in get_args(Conditioning):
            raise unknown("conditioning", conditioning, get_args(Conditioning))
        smallest = patch * 2 ** (len(multipliers) - 1)
        sides = sides_of(size)
        if sides[0] % smallest or sides[1] % smallest:
            raise UsageError(
                f"image size {shown_sides(size)} cannot be halved {len(multipliers) - 1} times after patches of "
                f"{patch}: expected a multiple of {smallest}; pass another size or fewer multipliers"
            )
        one_hot = classes if conditioning == "concat" and classes else None
        fuse = conditioning == "fuse"
        super().__init__(embed, classes, one_hot, attributes, text, image, scale, shape=(channels_in, sides), fuse=fuse)
        self.patch, self.conditioning = patch, conditioning
        inputs = (channels_in + self.joined) * patch**2 + (one_hot or 0)

        def stage(inside: int, outside: int, at: int, middle: bool = False) -> _Stage:
            block = ResidualBlock(inside, outside, embed, adaptive=conditioning != "add", dropout=dropout)
            attend = SelfAttention(outside) if middle or at in attended else nn.Identity()
            crossed = middle or at in cross_at
            read = CrossAttention(outside, self.text.width) if self.text is not None and crossed else nn.Identity()
            return _Stage([block, attend, read])

        widths = [channels * m for m in multipliers]
        sizes = [max(sides) // patch // 2**level for level in range(len(widths))]
        attended, cross_at = (
            [at for at in sizes if at <= ATTENDED] if own is None else own for own in (attention, cross)
        )
        for what, chosen in (("attention", attended), ("cross", cross_at)):
            if not set(chosen) <= set(sizes):
                raise UsageError(
                    f"{what} at {list(chosen)}: the levels of this network have sizes {sizes}; choose among them"
                )
        if cross and not text:
            raise UsageError(f"cross at {list(cross)}: the network has no text to attend to; drop it or add text")
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        width = widths[0]
        for level, (wide, at) in enumerate(zip(widths, sizes, strict=True)):
            self.down.append(nn.ModuleList([stage(width if i == 0 else wide, wide, at) for i in range(blocks)]))
            last = level == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(wide, wide, 3, stride=2, padding=1))
            width = wide
        self.middle = nn.ModuleList([stage(width, width, sizes[-1], middle=True), stage(width, width, sizes[-1])])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            wide, at = widths[level], sizes[level]
            self.up.append(nn.ModuleList([stage((width if i == 0 else wide) + wide, wide, at) for i in range(blocks)]))
            width = widths[level - 1] if narrow and level else wide
            self.grow.append(nn.Conv2d(wide, width, 3, padding=1) if level else nn.Identity())
        self.norm = GroupNorm(width)
        self.out = zeroed(nn.Conv2d(width, channels_in * patch**2, 3, padding=1))
        for name, module in self.named_modules():
            if isinstance(module, _Stage):
                module.layer = name
        self.internal: nn.Module | None = None
        if internal:
            deep = widths[-1]
            guess = zeroed(nn.Conv2d(deep, channels_in * smallest**2, 1))
            self.internal = nn.Sequential(GroupNorm(deep), nn.SiLU(), guess, nn.PixelShuffle(smallest))

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Names of the layers that can be perturbed, by what can be perturbed, from the input to the output."""
        stages = [module for module in self.modules() if isinstance(module, _Stage)]
        attended = [stage.layer for stage in stages if isinstance(stage[1], SelfAttention)]
        reading = tuple(stage.layer for stage in stages if isinstance(stage[2], CrossAttention))
        found = {"attention": tuple(attended), "block": tuple(stage.layer for stage in stages)}
        head = {} if self.internal is None else {INTERNAL: (INTERNAL,)}
        return {**found, **({"text": reading} if reading else {}), **head}

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        embedding = self.time(time)
        x, vectors, text = self.embedded(condition, x)
        h = F.pixel_unshuffle(x, self.patch)
        if self.label is not None:
            label = self.label(condition)
            if self.conditioning == "concat":
                h = torch.cat([h, label.to(h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)
            else:
                embedding = self.joint(embedding, label)
        for vector in vectors:
            embedding = embedding + vector
        embedding = F.silu(embedding)
        h = self.stem(h)
        skips = []
        for stages, shrink in zip(self.down, self.shrink, strict=True):
            for stage in stages.children():
                h = stage(h, embedding, condition.perturb, text)
                skips.append(h)
            h = shrink(h)
        for stage in self.middle:
            h = stage(h, embedding, condition.perturb, text)
        if self.internal is not None:
            record_internal(partial(self.internal, h))
        for stages, grow in zip(self.up, self.grow, strict=True):
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding, condition.perturb, text)
            if not isinstance(grow, nn.Identity):
                h = grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        out: Tensor = F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)
        return out
