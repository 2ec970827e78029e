"""Which positions of an attention layer are of the image, and which of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fairlead.core.errors import UsageError


@dataclass(frozen=True)
class Tokens:
    """Where the positions of an image lie among those that an attention layer sees.

    Attributes:
        size: height and width of the latents.
        patch: edge of a transformer's patches; 0 for a U-Net, whose levels halve the image.
        text_first: in joint attention, whether text comes before the image.
        alone: whether there is nothing but the image: where text may be, a layer with more positions is refused.
    """

    size: tuple[int, int]
    patch: int = 0
    text_first: bool = False
    alone: bool = False

    def image(self, length: int) -> tuple[tuple[int, int], slice]:
        """(height, width) of the map in a layer of ``length`` positions, and which of them it is."""
        size = self.size
        if self.patch:
            size = size[0] // self.patch, size[1] // self.patch
        else:
            while size[0] * size[1] > length:
                size = -(-size[0] // 2), -(-size[1] // 2)
        count = size[0] * size[1]
        if count > length or ((self.alone or not self.patch) and count != length):
            raise UsageError(
                f"attention over {length} positions does not fit latents of {list(self.size)}, so it is not known "
                "which of them belong to the image; slg and s2 skip whole blocks and need not know"
            )
        return size, slice(length - count, length) if self.text_first else slice(0, count)

    def size_of(self, count: int) -> tuple[int, int] | None:
        """(height, width) of a map of ``count`` positions, None if the latents are none."""
        return replace(self, alone=True).image(count)[0] if replace(self, alone=True).fit(count) else None

    def fit(self, length: int) -> bool:
        """Whether a layer of ``length`` positions may be one of these latents."""
        try:
            self.image(length)
        except UsageError:
            return False
        return True


@dataclass(frozen=True)
class Place:
    """Where the image lies among the positions of an attention layer.

    Attributes:
        starts: its first position: one for all rows, or one for each.
        count: how many it has, one after the other; None: all from there on.
        size: height and width of the map that they are; None: not known.
    """

    starts: tuple[int, ...]
    count: int | None = None
    size: tuple[int, int] | None = None

    def among(self, length: int) -> Place | None:
        """The same with the number of its positions, among ``length`` of them; None if it does not fit."""
        count = length - max(self.starts) if self.count is None else self.count
        if count < 1 or min(self.starts) < 0 or max(self.starts) + count > length:
            return None
        starts = self.starts[:1] if len(set(self.starts)) == 1 else self.starts
        return replace(self, starts=starts, count=count)

    def of(self, x: Tensor) -> Tensor:
        """Its positions of x [rows, ..., length, c]."""
        assert self.count is not None
        if len(self.starts) == 1:
            return x.narrow(-2, self.starts[0], self.count)
        rows = zip(x, self.starts, strict=True)
        return torch.stack([row.narrow(-2, start, self.count) for row, start in rows])

    def by_start(self, mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(its positions, the rows that have it there), of the rows of a mask, bool [rows]."""
        assert self.count is not None
        starts = torch.tensor(self.starts, device=mask.device)
        for start in sorted(set(self.starts)):
            yield slice(start, start + self.count), mask & (starts == start)


_TEXT_FIRST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""What :class:`LayerInput` has found out of layers."""


class LayerInput:
    """What one call of an attention layer is given, from which follows where the image lies among its positions.

    Args:
        part: the layer.
        tokens: what is known of the latents; None: nothing.
        alone: whether the layer sees the image alone where it is given nothing else.
        negative: tokens of a negative text behind those of the text, which are not among the positions.
        joined: where the image is in what the layer is given as one sequence with the text; None: it is given none, or
            that is not known.
    """

    def __init__(
        self, part: nn.Module, tokens: Tokens | None, alone: bool, negative: int = 0, joined: Place | None = None
    ) -> None:
        self.part, self.tokens, self.alone, self.negative, self.joined = part, tokens, alone, negative, joined
        self.given: Mapping[str, Any] = {}
        self._values: tuple[Tensor, Tensor] | None = None

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """The layer is called; its rows."""
        self.given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | dict(kwargs)
        self._values = None
        return len(self.given["hidden_states"])

    def projected(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """It has made its values, the last of what ``output`` [n, length, c] holds, of ``args``."""
        self._values = args[0], output

    def image(self, length: int, values: Tensor | None) -> Place:
        """Where the image is among ``length`` positions.

        Args:
            values: of all positions, [n, heads, length, c]; None: not known.

        Raises:
            UsageError: if it is not known.
        """
        text, tokens = self.given.get("encoder_hidden_states"), self.tokens
        if tokens is not None and not tokens.alone:
            return _place(*tokens.image(length))
        if not isinstance(text, Tensor) or text.shape[1] == 0 or text is self.given["hidden_states"]:
            if self.joined is not None:
                place = self._joined(self.joined, length)
                if place is not None:
                    return place
            elif tokens is not None and tokens.fit(length):
                return _place(*tokens.image(length))
            if self.alone:
                return Place((0,), length)
            raise UsageError(f"over {length} positions, {_UNKNOWN}")
        count, first = self.given["hidden_states"].shape[1], _TEXT_FIRST.get(self.part)
        whole = count + text.shape[1] - self.negative == length
        if first is None and whole:
            first = self._text_first(count, values)
        if first is None or not whole:
            raise UsageError(f"over {length} positions, {_UNKNOWN}")
        _TEXT_FIRST[self.part] = first
        return Place((length - count if first else 0,), count, tokens.size_of(count) if tokens is not None else None)

    def _joined(self, joined: Place, length: int) -> Place | None:
        """Where the image is in one sequence with the text; None if what is known of it and of the latents disagree."""
        place, rows = joined.among(length), len(self.given["hidden_states"])
        if place is None or place.count is None or len(place.starts) not in (1, rows):
            return None
        if place.size is None and self.tokens is not None:
            place = replace(place, size=self.tokens.size_of(place.count))
            return None if place.size is None else place
        return place

    def fit(self, length: int) -> bool:
        """Whether attention over so many positions may be that of the layer."""
        return self.tokens is None or self.joined is not None or self.tokens.alone or self.tokens.fit(length)

    def _text_first(self, count: int, values: Tensor | None) -> bool | None:
        """Found out by where the values of the image have got to, or what they are made of; None if nowhere."""
        if self._values is None or values is None:
            return None
        source, made = self._values
        if source.shape[1] == count:  # image and text have values of their own
            width = values.shape[1] * values.shape[-1]
            mine = made[..., -width:].reshape(len(made), count, values.shape[1], -1).transpose(1, 2)
            ends = values[..., :count, :], values[..., -count:, :]
        else:
            mine = self.given["hidden_states"]
            ends = source[:, :count], source[:, -count:]
        found = [end.shape == mine.shape and torch.equal(end, mine) for end in ends]
        return None if found[0] == found[1] else found[1]


def _place(size: tuple[int, int], image: slice) -> Place:
    return Place((image.start,), image.stop - image.start, size)


_UNKNOWN = "it is not known which of them belong to the image; slg and s2 skip whole blocks and need not know"


@dataclass(frozen=True)
class TextTokens:
    """How many tokens the arguments of a network hold of a text, and behind them of its negative."""

    own: int
    negative: int


def of_rows(mask: Tensor, rows: int) -> Tensor:
    """A mask of samples, bool [n], for the rows of a layer: several of each sample, such as its frames, one after the
    other.

    Raises:
        UsageError: if they are not as many for every sample.
    """
    if rows == len(mask):
        return mask
    if not len(mask) or rows % len(mask):
        raise UsageError(
            f"a layer has {rows} rows for {len(mask)} samples, so which belong to which is not known; name other layers"
        )
    return mask.repeat_interleave(rows // len(mask))
