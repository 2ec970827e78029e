"""Null-text inversion (Mokady et al. 2023, 2211.09794, algorithm 1): tokens that lead guided sampling back to images.

The states x*_0, ..., x*_N of DDIM inversion at scale 1 are the path to follow. Guided sampling leaves it, so in every
step the null tokens are moved, for each image alone, until the guided step from where sampling is ends near the next
state:

    min over the tokens of  mean (x*_(i+1) - F_i(x_i; tokens))^2

by Adam, from the tokens of the step before. The best tokens of a step are kept, those that it began with among them.
The authors' rate, 0.01 for the 77 x 768 numbers of Stable Diffusion, moves them by 2.4 in all; few numbers have to go
further each, so the rate is 2.4 over the root of how many there are, at most 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

NullTokens = Mapping[str, Tensor]
"""Name -> null tokens of every image, [n, ...]."""
GuidedStep = Callable[[int, Tensor, NullTokens], Tensor]
"""(step, x_t, tokens) -> the state after it, differentiable in the tokens."""

LENGTH, RATE, FALL = 2.4, 0.1, 100
"""Adam's rate in step i is (1 - i / FALL) times the smaller of RATE and LENGTH over the root of the numbers."""
CLOSE = 1e-5
"""A step is done once its loss is below this; the authors' bound, which rises by 2e-5 a step, ends at 40 dB."""
_DECAYS = (0.9, 0.999)


def optimised(step: GuidedStep, path: Sequence[Tensor], own: NullTokens, iterations: int) -> list[NullTokens]:
    """The tokens of each step, [n, ...] each.

    Args:
        step: the guided step of the sampler; where its result does not depend on the tokens they stay as they are.
        path: the states to follow, [n, ...] each, from the noisiest on.
        own: the network's own tokens.
        iterations: of Adam in each step, at most.
    """
    x, tokens = path[0], dict(own)
    found: list[NullTokens] = []
    highest = min(RATE, LENGTH / max(1, sum(token[0].numel() for token in own.values())) ** 0.5)
    for i, target in enumerate(path[1:]):
        x, tokens = _one(partial(step, i), x, target, tokens, iterations, highest * max(0.0, 1 - i / FALL))
        found.append(tokens)
    return found


def _one(
    step: Callable[[Tensor, NullTokens], Tensor],
    x: Tensor,
    target: Tensor,
    tokens: NullTokens,
    iterations: int,
    rate: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The state after one step and the tokens that led there."""
    now = {name: token.clone() for name, token in tokens.items()}
    first = {name: torch.zeros_like(token) for name, token in now.items()}
    second = {name: torch.zeros_like(token) for name, token in now.items()}
    best, best_loss, best_x = now, torch.full((len(x),), torch.inf, device=x.device), x
    for k in range(iterations + 1):
        leaves = {name: token.detach().requires_grad_() for name, token in now.items()}
        with torch.enable_grad():
            after = step(x, leaves)
            losses = (after - target).float().square().flatten(1).mean(1)
        better = losses.detach() < best_loss
        best_loss = torch.where(better, losses.detach(), best_loss)
        best_x = torch.where(_like(better, x), after.detach(), best_x)
        best = {name: torch.where(_like(better, token), token, best[name]) for name, token in now.items()}
        if k == iterations or not losses.requires_grad or bool((best_loss < CLOSE).all()):
            break
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        moving = best_loss >= CLOSE
        for (name, token), gradient in zip(now.items(), gradients, strict=True):
            first[name] = _DECAYS[0] * first[name] + (1 - _DECAYS[0]) * gradient
            second[name] = _DECAYS[1] * second[name] + (1 - _DECAYS[1]) * gradient.square()
            mean, spread = first[name] / (1 - _DECAYS[0] ** (k + 1)), second[name] / (1 - _DECAYS[1] ** (k + 1))
            moved = token - rate * mean / (spread.sqrt() + 1e-8)
            now[name] = torch.where(_like(moving, token), moved, token)
    return best_x, best


def _like(where: Tensor, x: Tensor) -> Tensor:
    return where.reshape(-1, *([1] * (x.ndim - 1)))
