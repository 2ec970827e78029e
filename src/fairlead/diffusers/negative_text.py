"""A negative text beside the own one in a call of a diffusers network: normalised attention guidance (2505.21179).

The negative's tokens follow the own ones in the network's arguments. All that a network does to its text before
attention it does token by token, so each layer that reads the text finds both, and tells them apart by their number:

    cross-attention    the layer runs once for each text; what it has read, the input of its ``to_out``, is combined
    joint attention    own text and image attend to each other, then negative text and image; the image's part is
                       combined, each text goes on by itself

Rows that no perturbation names read their own text alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.diffusers.network_calls import MASK, STATES
from fairlead.diffusers.positions import TextTokens
from fairlead.diffusers.pretrained import setting
from fairlead.nets.blocks import Perturb, where_masked
from fairlead.nets.text_attention import away_from

NOT_KNOWN = (
    "the negative of nag cannot be used on this network, because it is not known how its text is passed in; use a "
    "pipeline of Stable Diffusion, SDXL, SD3, Flux, Chroma, Qwen-Image, PixArt, Sana or Wan, or cfg"
)


@dataclass(frozen=True)
class Reader:
    """How a class of networks reads its text.

    Attributes:
        joint: whether text and image attend to each other; else the image reads in layers of cross-attention.
        text_first: in joint attention, whether text comes before the image.
        tokens: arguments that hold something of each token -> along which axis.
        mask: of joint attention, the argument that has, [n, tokens] or with the image's positions behind, which are
            real; "" if there is none. It may be None for a text without padding.
        places: the part that makes the positional embeddings of (image, text), the text's by counting its tokens; "" if
            ``tokens`` say where each is.
    """

    joint: bool = False
    text_first: bool = False
    tokens: Mapping[str, int] | None = None
    mask: str = ""
    places: str = ""


_CROSS = Reader(tokens={STATES: 1, MASK: 1})
READERS: dict[str, Reader] = {
    "UNet2DConditionModel": _CROSS,
    "PixArtTransformer2DModel": _CROSS,
    "SanaTransformer2DModel": _CROSS,
    "WanTransformer3DModel": _CROSS,
    "SD3Transformer2DModel": Reader(joint=True, tokens={STATES: 1}),
    "FluxTransformer2DModel": Reader(joint=True, text_first=True, tokens={STATES: 1, "txt_ids": 0}),
    "ChromaTransformer2DModel": Reader(
        joint=True, text_first=True, tokens={STATES: 1, "txt_ids": 0}, mask="attention_mask"
    ),
    "QwenImageTransformer2DModel": Reader(
        joint=True, text_first=True, tokens={STATES: 1}, mask="encoder_hidden_states_mask", places="pos_embed"
    ),
}


def reader_of(network: nn.Module) -> Reader | None:
    """How a network reads its text; None if that is not known, if it reads none, or something else with it."""
    reader = READERS.get(type(network).__name__)
    pooling = setting(network, "addition_embed_type") not in (None, "text_time")
    projected = setting(network, "encoder_hid_dim_type") not in (None, "text_proj")
    image = any(getattr(network, name, None) is not None for name in ("image_proj", "ip_adapter"))
    added = reader == _CROSS and any(
        isinstance(getattr(module, "add_k_proj", None), nn.Module) for module in network.modules()
    )
    return None if pooling or projected or image or added else reader


def reading_layers(network: nn.Module) -> list[str]:
    """Names of the attention layers in which a network reads its text; none where :func:`reader_of` knows none."""
    reader = reader_of(network)
    found = []
    for name, module in network.named_modules() if reader is not None else ():
        if hasattr(module, "to_q") and hasattr(module, "heads"):
            joint = name.rsplit(".", 1)[-1] != "attn2"  # which of SD3.5 sees the image alone
            if joint if reader is not None and reader.joint else getattr(module, "is_cross_attention", False):
                found.append(name)
    return found


def away_rows(perturb: Perturb) -> Perturb:
    """Those of the perturbations "negative_text" that some row is under."""
    return {p: rows for p, rows in perturb.items() if p.kind == "negative_text" and bool(rows.any())}


def with_negative_text(
    network: nn.Module, condition: Condition, arguments: Callable[[Condition], dict[str, Any]]
) -> tuple[dict[str, Any], TextTokens | None]:
    """The arguments of a network for the rows of a condition, with the tokens of its negative behind its own, and the
    numbers of both; None if it has no negative.

    Args:
        arguments: a condition -> the arguments of its rows.

    Raises:
        UsageError: for a network that reads its text in a way that is not known.
    """
    own = arguments(condition)
    if condition.negative is None or not away_rows(condition.perturb):
        return own, None
    reader = reader_of(network)
    if reader is None or reader.tokens is None:
        raise UsageError(NOT_KNOWN)
    other = arguments(condition.negative)
    both: dict[str, Any] = {
        n: torch.cat([own[n], other[n].to(own[n])], axis) for n, axis in reader.tokens.items() if own.get(n) is not None
    }
    text = TextTokens(own[STATES].shape[1], other[STATES].shape[1])
    if reader.mask:
        both[reader.mask] = _mask_of_both(own.get(reader.mask), other.get(reader.mask), text)
    return {**own, **both}, text


def _mask_of_both(own: Tensor | None, other: Tensor | None, text: TextTokens) -> Tensor | None:
    """The mask [n, own + negative, ...] of two texts, from those of each, in which None says that all is real."""
    if own is None and other is None:
        return None
    if own is None:
        assert other is not None
        own = other.new_ones(len(other), text.own + other.shape[1] - text.negative)
    if other is None:
        other = own.new_ones(len(own), text.negative)
    return torch.cat([own[:, : text.own], other[:, : text.negative].to(own), own[:, text.own :]], 1)


def placed_alike(text: TextTokens, _: nn.Module, args: Any, kwargs: Any, output: tuple[Tensor, Tensor]) -> Any:
    """Positional embeddings of (image, text [tokens, c]) in which the negative begins where the own text does; a hook
    on the part that makes them."""
    image, both = output
    return image, torch.cat([both[: text.own], both[: text.negative]])


class TextReading:
    """Hooks of one layer of cross-attention.

    Args:
        layer: its name.
        part: the layer.
        text: how many tokens it is shown.
        perturb: of this layer, perturbations "negative_text" -> rows.
    """

    def __init__(self, layer: str, part: nn.Module, text: TextTokens, perturb: Perturb) -> None:
        self.layer, self.part, self.text, self.perturb = layer, part, text, perturb
        self.calls, self.combined, self._aside = 0, 0, False
        self._read: Tensor | None = None
        """What the rows that are perturbed have read of the negative."""

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The layer is called: reads the negative, then goes on to the own text."""
        if self._aside:
            return None
        self.calls += 1
        names = [*inspect.signature(type(module).forward).parameters][1:]
        given = dict(zip(names, args, strict=False)) | {**kwargs}
        own, negative = self._parted(given)
        if self.perturb:
            rows = self._rows(given["hidden_states"])
            self._aside = True
            try:
                module(**{n: _picked(v, rows) for n, v in negative.items()})
            finally:
                self._aside = False
        return (), own

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What was read is on its way out of the layer."""
        if self._aside:
            self._read = args[0]
            return None
        if not self.perturb or self._read is None:
            return None
        own = read = args[0]
        other = own.clone()
        other[self._rows(own)] = self._read
        for perturbation, mask in self.perturb.items():
            read = where_masked(mask, away_from(other, own, perturbation, (-1,)), read)
        self._read, self.combined = None, self.combined + 1
        return (read, *args[1:]), kwargs

    def check(self) -> None:
        """Raises UsageError unless every call of the layer was perturbed."""
        if self.perturb and not (self.calls and self.combined == self.calls):
            raise UsageError(
                f"layer {self.layer!r} cannot take a negative text: {type(self.part).__name__} was not called, or "
                "does not pass what it reads through to_out; name other layers"
            )

    def _rows(self, like: Tensor) -> Tensor:
        """bool [n], those that are perturbed."""
        return torch.stack([mask.to(like.device) for mask in self.perturb.values()]).any(0)

    def _parted(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments with the own text and those with the negative."""
        own, negative = dict(given), dict(given)
        total = self.text.own + self.text.negative
        for name in ("encoder_hidden_states", "attention_mask"):
            value, axis = given.get(name), 1 if name == "encoder_hidden_states" else -1
            if value is None and name == "attention_mask":
                continue
            if not isinstance(value, Tensor) or value.shape[axis] != total:
                raise UsageError(f"layer {self.layer!r}: {NOT_KNOWN}")
            own[name], negative[name] = torch.split_with_sizes(value, [self.text.own, self.text.negative], axis)
        return own, negative


def _picked(value: Any, rows: Tensor) -> Any:
    """Rows of an argument that has one for each of ``rows``."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == len(rows) else value


@dataclass(frozen=True, eq=False)
class JointReading:
    """One layer of joint attention with a negative text among its positions.

    Attributes:
        text: how many tokens the two texts have.
        first: whether they come before the image.
        perturb: of this layer, perturbations "negative_text" -> rows.
        rows: bool [n], those whose negative counts in some layer.
    """

    text: TextTokens
    first: bool
    perturb: Perturb
    rows: Tensor

    def attend(
        self,
        func: Callable[..., Tensor],
        qkv: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        own: Callable[..., Tensor],
    ) -> Tensor:
        """What all positions [n, heads, length, c] read.

        Args:
            func: attention.
            mask: of it, [..., 1 or length, length]; None: there is none.
            own: attention of the layer without a negative.
        """
        out = own(*self._inputs(qkv, mask, None))
        chosen = self.rows.to(out.device).nonzero()[:, 0]
        aside = func(*self._inputs(qkv, mask, chosen))
        count = out.shape[-2] - self.text.own
        if self.first:
            text, image = torch.split_with_sizes(out, [self.text.own, count], -2)
            other_text, other_image = torch.split_with_sizes(aside, [self.text.negative, count], -2)
        else:
            image, text = torch.split_with_sizes(out, [count, self.text.own], -2)
            other_image, other_text = torch.split_with_sizes(aside, [count, self.text.negative], -2)
        other = image.clone()
        other[chosen] = other_image
        read = image
        for perturbation, mask_of in self.perturb.items():
            read = where_masked(mask_of, away_from(other, image, perturbation, (1, 3)), read)
        beside = out.new_zeros(*out.shape[:2], self.text.negative, out.shape[-1])
        beside[chosen] = other_text
        return torch.cat([text, beside, read] if self.first else [read, text, beside], -2)

    def _inputs(
        self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, chosen: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Queries, keys, values, mask of the image with its own text, or with the negative in the ``chosen`` rows."""
        parts = [self._kept(part if chosen is None else part[chosen], chosen is not None) for part in qkv]
        if mask is not None:
            if chosen is not None and mask.ndim == 4 and len(mask) == len(qkv[0]):
                mask = mask[chosen]
            for axis in (-1, -2) if mask.ndim > 1 and mask.shape[-2] == mask.shape[-1] else (-1,):
                mask = self._kept(mask, chosen is not None, axis)
        return *parts, mask

    def _kept(self, part: Tensor, negative: bool, axis: int = -2) -> Tensor:
        """The positions of the image and of one text, along an axis."""
        sizes = [self.text.own, self.text.negative]
        count = part.shape[axis] - sum(sizes)
        pieces = torch.split_with_sizes(part, [*sizes, count] if self.first else [count, *sizes], axis)
        left_out = (0 if self.first else 1) + (not negative)
        return torch.cat([piece for place, piece in enumerate(pieces) if place != left_out], axis)
