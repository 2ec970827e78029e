"""The inverse of one deterministic step: x with F(x) = x', where F is the sampler's step under any guidance.

DDIM inversion (Song et al. 2021, 2010.02502; Mokady et al. 2023, 2211.09794) asks the network at x' in the place of x:

    x = (alpha / alpha') x' + (sigma - (alpha / alpha') sigma') eps(x', t)  =  x' + p (x' - F(x')),   p = alpha / alpha'

Any p that goes to 1 with the length of the step is of first order. Here it is 1 / F' of data N(0, 1),

    p = (alpha^2 + sigma^2) / (alpha alpha' + sigma sigma'),

finite at both ends of every schedule; with it the way back misses the image by a half to a seventh of what it misses
with alpha / alpha' (tests/sample/edit/test_inversion.py). It is the first iterate of the fixed point
x <- x + p (x' - F(x)), as 2312.12540 and 2309.04907 iterate it for diffusion. Later iterates are put together per
sample by Anderson's method (1965): of the last few, the combination whose residuals nearly cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from fairlead.sample.sampler import GridLevels


def factors(levels: GridLevels) -> list[float]:
    """p of every step."""
    alpha, sigma = levels.alpha, levels.sigma
    found: list[float] = (
        (alpha[:-1] ** 2 + sigma[:-1] ** 2) / (alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:])
    ).tolist()
    return found


DEPTH = 4
"""Iterates that are combined."""
PATIENCE = 4
"""Iterations without a smaller residual after which a sample is left as it is."""


def explicit(step: Callable[[Tensor], Tensor], after: Tensor, factor: float) -> Tensor:
    """The state before a step whose result is ``after`` [n, ...], to first order; the network is asked once."""
    return after + factor * (after - step(after))


def fixed_point(
    step: Callable[[Tensor], Tensor], after: Tensor, factor: float, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The state before a step whose result is ``after`` [n, ...], and how far the step is from giving it.

    A sample stays as it is once it is within the tolerance, whatever the others of its batch do.

    Args:
        step: the step, for all samples.
        factor: p above.
        iterations: how often the step is taken at most, at least 1.
        tolerance: the residual to reach, in root mean squares of ``after``.

    Returns:
        x [n, ...], and the root mean square of ``after - step(x)`` in those of ``after``, [n].
    """
    size = _size(after).clamp(min=torch.finfo(after.dtype).tiny)
    x, best = after, torch.full_like(size, torch.inf)
    closest, residual = after, torch.zeros_like(after)
    stalled = torch.zeros_like(size, dtype=torch.int64)
    points: list[Tensor] = []
    moves: list[Tensor] = []
    for _ in range(iterations):
        missing = after - step(x)
        error = (_size(missing) / size).nan_to_num(nan=torch.inf)
        better, worse = error < best, error > 2 * best
        stalled = torch.where(better, 0, stalled + 1)
        closest, residual = _pick(better, x, closest), _pick(better, missing, residual)
        best = torch.minimum(best, error)
        done = (best <= tolerance) | (stalled >= PATIENCE)
        if bool(done.all()):
            break
        points, moves = [*points, x][-DEPTH:], [*moves, factor * missing][-DEPTH:]
        again = closest + 0.5 * factor * residual
        x = _pick(done, closest, _pick(worse, again, _combined(points, moves)))
    return closest, best


def _combined(points: list[Tensor], moves: list[Tensor]) -> Tensor:
    """Anderson's next iterate of points [n, ...] and their moves g(x) - x; the plain one where there is one point."""
    x, move = points[-1], moves[-1]
    if len(points) == 1:
        return x + move
    n = len(x)
    dx = torch.stack([(b - a).reshape(n, -1) for a, b in pairwise(points)], 1)
    dm = torch.stack([(b - a).reshape(n, -1) for a, b in pairwise(moves)], 1)
    dx, dm = (each.double().nan_to_num(0, 0, 0) for each in (dx, dm))
    gram = dm @ dm.transpose(1, 2)
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-30)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    share = torch.linalg.solve(gram, dm @ move.reshape(n, -1, 1).double().nan_to_num(0, 0, 0))
    change: Tensor = (share.transpose(1, 2) @ (dx + dm)).reshape(x.shape)
    return x + move - change.to(x.dtype)


def _size(x: Tensor) -> Tensor:
    """Root mean square of each sample, float64 [n]."""
    return x.double().square().flatten(1).mean(1).sqrt()


def _pick(where: Tensor, x: Tensor, other: Tensor) -> Tensor:
    return torch.where(where.reshape(-1, *([1] * (x.ndim - 1))), x, other)
