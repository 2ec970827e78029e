"""Text in a network: cross-attention to token states, which come from outside or from a small transformer in here.

Over 300 lines, as all that is read of a text, and what stands for none, share one packed value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition, Perturbation
from fairlead.core.errors import UsageError, unknown
from fairlead.core.typed import Count, Depth, Size
from fairlead.nets.blocks import GroupNorm, Perturb, attention, where_masked, zeroed
from fairlead.nets.embeddings import read
from fairlead.nets.packed_text import pack, unpack
from fairlead.nets.sketch import Sketch

Null = Literal["learned", "empty"]
PAD, END = 0, 1
"""Token ids of a network's own encoder; words follow."""


class TextTransformer(nn.Module):
    """Token ids [n, length] -> states [n, length, width], each position attending to the real tokens (ids other than
    0, at least one per row). Pre-norm, learned positions.

    A convolution over three words comes first: which colour belongs to which word is said by neighbours, and attention
    alone takes thousands of steps to find them (captions of scenes, attributes read off by a linear head: ink right in
    94 % after 200 steps of 64, in 53 % without; benchmarks/text_choices.py)."""

    def __init__(self, vocabulary: int, width: int, length: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        norm = nn.LayerNorm(width)
        self.layers = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        words = self.tokens(ids) * (ids != PAD)[..., None]
        words = words + F.silu(self.neighbours(words.transpose(1, 2))).transpose(1, 2)
        out: Tensor = self.layers(words + self.positions[: ids.shape[1]], src_key_padding_mask=ids == PAD)
        return out


@dataclass(frozen=True, eq=False)
class Told:
    """What a network gets of a text.

    Attributes:
        states: of the tokens, [n, l, width]; ``real``, bool [n, l], tells them from padding.
        vector: what is added to the embedding, [n, embed].
        sketch: what is joined to the noisy image, [n, c, h, w]; None: nothing.
    """

    states: Tensor
    real: Tensor
    vector: Tensor
    sketch: Tensor | None = None


class TextInput(nn.Module):
    """What a network reads of the condition "text": a value of :mod:`fairlead.nets.packed_text` from an encoder
    outside, or, with a ``vocabulary``, token ids int64 [n, length] (0 pads, 1 ends) for an encoder in here.

    Where the encoder stays as it is, :meth:`measure` makes each number of the pooled vector vary by 1 over the training
    captions: what tells one from another may be small beside what all have in common, and is learnt late then.

    Args:
        embed: width of the network's embedding; the pooled vector is added to it.
        width: of the token states.
        length: number of tokens a prompt has, padding included.
        vocabulary: number of token ids of the encoder in here; 0: there is none.
        depth, heads: of that encoder.
        frozen: the encoder in here is not trained along; it has learnt to read before (``train.reading``).
        null: what stands for no text. "learned": one token and a pooled vector of the network's own; "empty": the
            encoder's states of the empty string, kept in the checkpoint (see :meth:`set_empty`).
        sketch: (channels, (height, width)) if a :class:`Sketch` of such images joins the noisy image, as Grad-TTS
            does with the average of a sound (2105.06337). It has learnt to draw before (``train.reading``) and is not
            trained along. A learned null has one value a channel in its place.
        says: of a sketch, see there: numbers of values of what its readers tell.
    """

    empty: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        embed: int,
        width: Size,
        length: Size,
        vocabulary: Count = 0,
        depth: Depth = 2,
        heads: Size = 4,
        frozen: bool = False,
        null: Null = "learned",
        sketch: tuple[int, tuple[int, int]] | None = None,
        says: Sequence[Size] = (),
    ) -> None:
        super().__init__()
        if null not in get_args(Null):
            raise unknown("null of the text", null, get_args(Null))
        if width < 1 or length < 1 or (vocabulary and width % heads):
            raise UsageError(
                f"text: expected a length of at least 1 and a width divisible by {heads} heads, got length {length}, "
                f"width {width}"
            )
        self.width, self.length = width, length
        self.encoder = TextTransformer(vocabulary, width, length, depth, heads) if vocabulary else None
        self.frozen = frozen
        if frozen and self.encoder is not None:
            self.encoder.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.project = nn.Linear(width, embed)
        # of a measured vector, about what the embeddings of seven labels would add
        nn.init.normal_(self.project.weight, std=2.5 * width**-0.5)
        if null == "learned":
            self.null = nn.Parameter(torch.randn(2, width) * 0.02)
        elif self.encoder is None:
            self.register_buffer("empty", torch.zeros(1 + length, width + 1))
        self.null_kind = null
        self.sketch = Sketch(width, *sketch, says=says).requires_grad_(False) if sketch else None
        if sketch and null == "learned":
            self.no_sketch = nn.Parameter(torch.zeros(sketch[0]))

    @property
    def keeps_empty(self) -> bool:
        """Whether it needs the empty string, see :meth:`set_empty`."""
        return self.null_kind == "empty" and self.encoder is None

    def set_empty(self, value: Tensor) -> None:
        """Keep what the encoder outside makes of the empty string, [1 + length, width + 1]."""
        if not self.keeps_empty or value.shape != self.empty.shape:
            raise UsageError(
                f"text: expected a value {[1 + self.length, self.width + 1]} for a network whose null is 'empty' and "
                f"whose encoder is outside, got {list(value.shape)}"
            )
        self.empty.copy_(value)

    @property
    def fixed(self) -> bool:
        """Whether captions keep their states while the network trains."""
        return self.encoder is None or self.frozen

    @torch.no_grad()
    def measure(self, values: Tensor) -> None:
        """Take the mean and the standard deviation of the pooled vectors of ``values``: token ids int64 [n, length], or
        what an encoder outside made, [n, 1 + length, width + 1]."""
        pooled = self._pooled(values)
        self.mean.copy_(pooled.mean(0))
        self.std.copy_(pooled.std(0, correction=0).clamp(min=1e-3))

    @torch.no_grad()
    def pooled(self, values: Tensor) -> Tensor:
        """The pooled vectors of ``values`` (as :meth:`measure` takes them) as the network sees them, [n, width]."""
        return (self._pooled(values) - self.mean) / self.std

    def _pooled(self, values: Tensor) -> Tensor:
        if values.is_floating_point():
            return unpack(values.float())[2]
        found = torch.empty(len(values), self.width, device=values.device)
        for part in torch.split((values != PAD).sum(1).argsort(), 256):  # those of one length together
            found[part] = unpack(self._states(_trimmed(values[part])))[2].float()
        return found

    def embed(self, condition: Condition) -> Condition:
        """The condition with its token ids replaced by states."""
        value, _ = self._value(condition)
        if value.is_floating_point():
            return condition
        with torch.no_grad():
            return replace(condition, values={**condition.values, "text": self._states(value)})

    def forward(self, condition: Condition) -> Told:
        value, keep = self._value(condition)
        if value.is_floating_point():
            packed = value.to(self.project.weight.dtype)
            if self.null_kind == "empty":
                packed = torch.where(keep[:, None, None], packed, condition.null.get("text", self._empty()).to(packed))
        else:  # the row of a sample without text is that of the empty string; a learned null replaces it below
            ids = torch.where(keep[:, None], value, self._empty_ids(value.device))
            other = condition.null.get("text") if self.null_kind == "empty" else None
            packed = self._states(_trimmed(ids) if other is None else ids)
            packed = packed if other is None else torch.where(keep[:, None, None], packed, other.to(packed))
        states, real, pooled = unpack(packed)
        pooled = (pooled - self.mean.to(pooled.dtype)) / self.std.to(pooled.dtype)
        sketch = None if self.sketch is None else self.sketch(pooled)
        if self.null_kind == "learned":
            if sketch is not None:
                of_none = self.no_sketch.to(sketch.dtype)[:, None, None]
                sketch = torch.where(keep[:, None, None, None], sketch, of_none)
            first = torch.arange(states.shape[1], device=real.device) == 0
            null = condition.null.get("text", self.null[None]).to(states.dtype)
            states = torch.where(keep[:, None, None], states, first[:, None] * null[:, :1])
            real = torch.where(keep[:, None], real, first)
            pooled = torch.where(keep[:, None], pooled, null[:, 1])
        return Told(states, real, self.project(pooled), sketch)

    def null_token(self) -> Tensor:
        """What stands for no text: [2, width], a token and a pooled vector; or the empty string [1 + l, width + 1]."""
        with torch.no_grad():
            return self.null.detach() if self.null_kind == "learned" else self._empty()

    def _value(self, condition: Condition) -> tuple[Tensor, Tensor]:
        value, keep = read(condition, "text")
        wanted = (1 + self.length, self.width + 1) if value.is_floating_point() else (self.length,)
        if tuple(value.shape[1:]) != wanted or not (value.is_floating_point() or self.encoder is not None):
            raise UsageError(
                f"text: the network takes {self.length} tokens of width {self.width}"
                f"{'' if self.encoder is not None else ', encoded'}, got {value.dtype} {list(value.shape)}; "
                "encode with the text encoder it was trained with"
            )
        return value, keep

    def _states(self, ids: Tensor) -> Tensor:
        assert self.encoder is not None
        states = self.encoder(ids)
        at = (ids == END).int().argmax(1)
        return pack(states, ids != PAD, states[torch.arange(len(ids), device=ids.device), at])

    def _empty(self) -> Tensor:
        """[1 + length, width + 1]."""
        if self.encoder is None:
            return self.empty
        return self._states(self._empty_ids(self.project.weight.device)[None])[0]

    def _empty_ids(self, device: torch.device) -> Tensor:
        return (torch.arange(self.length, device=device) == 0).long() * END


def _trimmed(ids: Tensor) -> Tensor:
    """Without columns that are padding in every row, half of most; compiled code, which no value splits, has them."""
    return ids if torch.compiler.is_compiling() else ids[:, : int((ids != PAD).sum(1).max())]


@dataclass(frozen=True, eq=False)
class TokenStates:
    """What cross-attention reads: ``states`` [n, l, width] of tokens, of which ``real`` (bool [n, l]) are no padding;
    ``negative`` are those of the texts that a perturbation "negative_text" moves away from."""

    states: Tensor
    real: Tensor
    negative: TokenStates | None = None


class CrossAttention(nn.Module):
    """Every position of an image attends to the tokens of its prompt; residual, starts as the identity."""

    def __init__(self, channels: int, width: int, head: int = 32) -> None:
        super().__init__()
        self.heads = next(h for h in range(max(1, channels // head), 0, -1) if channels % h == 0)
        self.norm = GroupNorm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.kv = nn.Linear(width, 2 * channels)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, text: TokenStates, layer: str = "", perturb: Perturb | None = None) -> Tensor:
        """x [n, c, h, w]."""
        n, c, h, w = x.shape
        q = self.q(self.norm(x)).reshape(n, self.heads, c // self.heads, h * w).transpose(-1, -2)
        mixed = read_tokens(q, self.kv, text, layer, perturb).transpose(-1, -2).reshape(n, c, h, w)
        out: Tensor = x + self.out(mixed)
        return out


def read_tokens(
    q: Tensor, project: nn.Module, text: TokenStates, layer: str = "", perturb: Perturb | None = None
) -> Tensor:
    """What queries [n, heads, length, c] read of a text; in the rows that ``perturb`` names for this layer, away from
    its negative.

    Args:
        project: states -> keys and values, one after the other.
    """
    read = attend(q, project(text.states), text.real)
    for perturbation, mask in (perturb or {}).items():
        if perturbation.kind == "negative_text" and layer in perturbation.layers:
            assert text.negative is not None
            other = attend(q, project(text.negative.states), text.negative.real)
            read = where_masked(mask, away_from(other, read, perturbation, (1, 3)), read)
    return read


def away_from(negative: Tensor, own: Tensor, perturbation: Perturbation, features: tuple[int, ...]) -> Tensor:
    """Normalised attention guidance (Chen 2025, 2505.21179) of what positions have read.

    Args:
        features: the dimensions that hold what one position has read.
    """
    away = own + (perturbation.amount - 1) * (own - negative)
    exact = torch.promote_types(own.dtype, torch.float32)  # a sum of thousands is too large for float16
    norm, longest = (part.to(exact).abs().sum(features, keepdim=True) for part in (away, own))
    longest = perturbation.limit * longest
    away = away * torch.where(norm > longest, longest / norm, 1.0).to(own.dtype)
    return perturbation.blend * away + (1 - perturbation.blend) * own


def attend(q: Tensor, kv: Tensor, real: Tensor) -> Tensor:
    """q [n, heads, length, c] attends to keys and values in ``kv`` [n, l, 2 heads c] where ``real`` (bool [n, l])."""
    n, heads, _, _ = q.shape
    k, v = kv.reshape(n, kv.shape[1], 2, heads, -1).permute(2, 0, 3, 1, 4)
    return attention(q, k, v, real[:, None, None])
