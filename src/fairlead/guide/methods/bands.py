"""A scale for each band of frequencies (FDG, Sadat 2025, 2506.19713).

    D = D_c + sum_l (w_l - 1) L_l(D_c - D_u)

L_l are the bands of a Laplacian pyramid, coarsest first, each enlarged to full size. They sum to D_c - D_u, so
equal weights are ``cfg`` to the bit. The paper advises low weights for coarse bands (variety, colour) and high ones for
fine bands (detail). Two rows per sample; one if every weight is 1 or every weight is 0. Images may have any height and
width, also odd ones; K bands need a shorter side that can be halved K - 1 times while it is at least 3.

Differences to diffusers: it lists the weights finest first. For images whose sides are not powers of two its result has
another size, because its pyramid pads them. A band of weight 1 does not work there, because it then uses the band
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.arguments import plain_list
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Weight, is_zero, nonzero_rows, weighted
from fairlead.guide.methods.cfg import base_branch, check_negative
from fairlead.guide.moment import Context, Moment, Seen
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term
from fairlead.nets.blocks import along_axes

_SMALLEST = 3  # a side that a 5-tap blur can reflect


@dataclass(frozen=True)
class Bands(Term):
    """``bands([2, 6])``, ``bands([1.5, 3, ramp(3, 8)], negative="one")``.

    Attributes:
        weights: one scale per band, coarsest first; 1 is off.
        negative: a condition to move away from, in place of null.
    """

    weights: Sequence[Any]
    negative: str | int | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "bands"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", plain_list(self.weights))
        if isinstance(self.weights, str) or not isinstance(self.weights, Sequence) or not self.weights:
            raise UsageError(
                f"bands: expected one scale per band, coarsest first, such as [2, 6], got {self.weights!r}"
            )
        scales = tuple(as_scale(f"bands[{i}]", weight) for i, weight in enumerate(self.weights))
        counts = {len(scale) for scale in scales if isinstance(scale, tuple)}
        if len(counts) > 1:
            raise UsageError(f"bands: per-sample weights must be of one length, got {sorted(counts)}")
        object.__setattr__(self, "weights", scales)
        object.__setattr__(self, "negative", check_negative(self.name, self.negative))
        if self.negative is not None and all(scale == 1.0 for scale in scales):
            raise UsageError(
                f"{self}: with weights of 1 the negative is never evaluated; use other weights or drop the negative"
            )

    def check(self, on: Context) -> None:
        if on.model.shape:
            self._check(on.model.shape)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise UsageError(f"{self}: bands are of images [c, h, w], got samples of shape {list(shape)}; use cfg")
        most, side = 1, min(shape[1:])
        while side >= _SMALLEST:
            most, side = most + 1, (side + 1) // 2
        if len(self.weights) > most:
            raise UsageError(
                f"{self}: {len(self.weights)} bands, but images of {shape[1]} x {shape[2]} have at most {most}; "
                "give fewer weights"
            )

    def _omegas(self, at: Moment) -> list[Weight]:
        return [scale_at(scale, at.step) - 1 for scale in self._scales]

    def ask(self, at: Moment) -> Ask:
        first, *rest = self._omegas(at)
        if all(_same(first, omega) for omega in rest):
            return NOTHING if is_zero(first) else Ask({COND: first, base_branch(self.negative): -first})
        rows: Tensor | bool = False
        for omega in (first, *rest):
            own = nonzero_rows(omega)
            rows = own if rows is False else rows if own is False else rows | own
        return Ask(looks=dict.fromkeys((COND, base_branch(self.negative)), rows if isinstance(rows, Tensor) else None))

    def add(self, seen: Seen) -> Tensor | None:
        omegas = self._omegas(seen)
        if all(_same(omegas[0], omega) for omega in omegas[1:]):
            return None
        if not seen.model.shape:
            self._check(tuple(seen.x_t.shape[1:]))
        parts = split(seen.x0(COND) - seen.x0(base_branch(self.negative)), len(self.weights))
        directions = [weighted(omega, part) for omega, part in zip(omegas, parts, strict=True)]
        return reduce(torch.add, directions)

    def specs(self) -> tuple[str | int, ...]:
        return () if self.negative is None else (self.negative,)

    def needs_condition(self) -> bool:
        return self.negative is None

    def samples(self) -> int | None:
        return next((len(scale) for scale in self._scales if isinstance(scale, tuple)), None)

    def of_sample(self, index: int) -> Bands:
        return replace(self, weights=tuple(s[index : index + 1] if isinstance(s, tuple) else s for s in self._scales))

    @property
    def _scales(self) -> tuple[Scale, ...]:
        return tuple(self.weights)


def split(x: Tensor, bands: int) -> list[Tensor]:
    """x [n, c, h, w] -> its ``bands`` frequency bands [n, c, h, w], coarsest first, which sum to x."""
    smooth = [x]
    for level in range(1, bands):
        smooth.append(along_axes(x, *(_low_pass(side, level, x.dtype, x.device) for side in x.shape[-2:])))
    return [smooth[-1], *(fine - coarse for coarse, fine in zip(smooth[:0:-1], smooth[-2::-1], strict=True))]


@lru_cache(maxsize=64)
def _low_pass(side: int, level: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What remains along one axis after ``level`` levels of the pyramid, as a matrix [side, side], made in float64.

    Halving and enlarging are linear and separable with weights that sum to 1, so its columns are what they
    make of unit vectors that are constant along the other axis.
    """
    with torch.inference_mode(False):  # it outlives the block
        basis = torch.eye(side, dtype=torch.float64).reshape(side, 1, side, 1).expand(-1, -1, -1, side)
        sizes, low = [], basis
        for _ in range(level):
            sizes.append((low.shape[-2], low.shape[-1]))
            low = _halve(low)
        for size in reversed(sizes):
            low = _enlarge(low, size)
        return low[:, 0, :, 0].T.contiguous().to(device, dtype)


def _halve(x: Tensor) -> Tensor:
    return _resize(_blur(x), ((x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2))


def _enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    return _blur(_resize(x, size))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _blur(x: Tensor) -> Tensor:
    """With the binomial kernel [1, 4, 6, 4, 1] / 16 along both axes, mirrored at the borders."""
    taps = torch.tensor([1, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16
    kernel = torch.outer(taps, taps)[None, None]
    single = F.pad(x, (2, 2, 2, 2), mode="reflect").reshape(-1, 1, x.shape[-2] + 4, x.shape[-1] + 4)
    return F.conv2d(single, kernel).reshape(x.shape)


def _same(a: Weight, b: Weight) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
    return a == b
