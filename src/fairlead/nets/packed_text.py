"""The value of a text condition: what a network reads of a prompt, as one tensor that conditions can index and join.

float [n, 1 + length, width + 1]: row 0 is the pooled vector of the prompt, the others are the states of its tokens; the
last channel is 1 where a row is real and 0 where it is padding, whose other channels are 0. Mixtures of two such values
are such values again: a row is real where either is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(states: Tensor, real: Tensor, pooled: Tensor) -> Tensor:
    """One value from token states [n, length, width], ``real`` (bool [n, length]) and pooled vectors [n, width]."""
    rows = torch.cat([pooled[:, None], states * real[..., None].to(states.dtype)], dim=1)
    mask = F.pad(real.to(states.dtype), (1, 0), value=1.0)
    return torch.cat([rows, mask[..., None]], dim=-1)


def unpack(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(states [n, length, width], real bool [n, length], pooled [n, width]), the inverse of :func:`pack`."""
    return value[:, 1:, :-1], value[:, 1:, -1] > 0, value[:, 0, :-1]


def pooled_at_end(states: Tensor, ids: Tensor, end: int, start: int | None = None) -> Tensor:
    """The state at the first end token, [n, width].

    Args:
        states: [n, length, width].
        ids: int64 [n, length].
        start: the tokenizer's start token; where it is the end token too, the first position is not an end.

    Raises:
        ValueError: if a row has no end token, naming the row.
    """
    found = ids == end
    found[:, 0] &= start != end
    missing = ~found.any(1)
    if bool(missing.any()):
        raise ValueError(f"row {int(missing.nonzero()[0])} has no end token {end}")
    return states[torch.arange(len(states), device=states.device), found.int().argmax(1)]
