"""Where one tensor lies in another: samples in what a network is given, a prediction in what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_CLOSE = 1e-5


@dataclass(frozen=True, eq=False)
class Segment:
    """Where one tensor lies in another: the first ``size`` along ``dim``, times ``factor``; ``dim`` None: the whole."""

    dim: int | None
    size: int
    factor: float

    def of(self, value: Tensor) -> Tensor:
        found = value if self.dim is None else value.narrow(self.dim, 0, self.size)
        return found if self.factor == 1 else found * self.factor

    def put(self, value: Tensor, into: Tensor) -> Tensor:
        """``value``, what :meth:`of` returns, in its place in ``into``."""
        value = value if self.factor == 1 else value / self.factor
        if self.dim is None:
            return value
        rest = into.narrow(self.dim, self.size, into.shape[self.dim] - self.size)
        return torch.cat([value.to(rest), rest], self.dim)


def segment_of(inner: Any, outer: Any, factors: Sequence[float] | None = (1.0, -1.0)) -> Segment | None:
    """Where ``inner`` lies in ``outer``, up to its form and a factor; None if it is not to be seen there.

    Args:
        factors: that may be; None: any, found by least squares.
    """
    if not isinstance(inner, Tensor) or not isinstance(outer, Tensor):
        return None
    if inner.ndim != outer.ndim and inner.numel() == outer.numel():  # with or without a dimension of one
        inner = inner.reshape(outer.shape)
    place = shaped(inner, outer)
    if place is None:
        return None
    mine, theirs = inner.double(), place.of(outer).double()
    norm = float((theirs**2).sum())
    for factor in factors or ((float((mine * theirs).sum()) / norm,) if norm else ()):
        if float((mine - factor * theirs).abs().amax()) <= _CLOSE * max(1e-12, float(mine.abs().amax())):
            return replace(place, factor=float(factor))
    return None


def shaped(inner: Tensor, outer: Any) -> Segment | None:
    """Where something of the shape of ``inner`` lies in ``outer``, at its beginning; None if it does not fit."""
    if not isinstance(outer, Tensor) or inner.ndim != outer.ndim:
        return None
    unlike = [i for i, (a, b) in enumerate(zip(inner.shape, outer.shape, strict=True)) if a != b]
    if len(unlike) > 1 or any(inner.shape[i] > outer.shape[i] for i in unlike):
        return None
    return Segment(unlike[0] if unlike else None, inner.shape[unlike[0]] if unlike else 0, 1.0)
