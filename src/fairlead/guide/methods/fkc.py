"""Feynman-Kac correctors: guidance that samples the distribution it names (Skreta et al. 2025, 2503.02819).

    fkc(cfg(w))                     samples  p(x | c)^w p(x)^(1 - w)
    fkc(compose({a: 1, b: 1}))      samples  p(x | a) p(x | b) / p(x)
    fkc(auto(w, weak="runs/small")) samples  p(x | c)^w p_weak(x | c)^(1 - w)

The method inside is a sum of predictions sum_i c_i D_i whose coefficients add up to 1. The products prod_i p_i(x_t)^c_i
at different noise levels are not noised versions of one density, so plain ``cfg`` does not sample the product at
sigma = 0. The correctors keep the predictions and weight particles along the way, with S = alpha^2 / sigma^2 and
D = sum_i c_i D_i:

    d log W = - 1/2 sum_i c_i ||D_i - D||^2 dS        which is  1/2 w (w - 1) ||D_c - D_u||^2 dS  for cfg(w),

the paper's 1/2 g^2 w (w - 1) ||score_c - score_u||^2 dt, for g^2 dt = sigma^2 d log S and score = (alpha D - x) /
sigma^2. Resampled by these weights, the particles follow prod_i p_i(x0)^c_i exactly in the limit of many particles
and steps. The integral is a trapezoid sum in 1 / (S + 1), the posterior variance of N(0, 1) data. It is exact where
||D_i - D|| is proportional to that variance and of second order elsewhere. In the last step, to sigma = 0, the value at
its start counts in full, so the sum stays finite.

Cost: the rows of the method inside, for each particle: ``fl.sample(..., guidance="fkc(cfg(3))", particles=32)``. No
other term or finisher can be added, because the weights do not account for it. Scales have to be numbers, because the
product has to be the same at every step. A reward of the particles multiplies the product by its exponential. The
weights become more uneven with w (w - 1) and with the number of pixels: for images use a small w and many particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import Weight
from fairlead.guide.methods.auto import Auto
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.methods.compose import Compose
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.pairs import Wrapper
from fairlead.guide.step import Grid
from fairlead.guide.terms import Ask, as_guidance, total_weights


@dataclass(frozen=True)
class FKC(Wrapper):
    """``fkc(cfg(3))``, ``fkc(compose({"seven": 1, "one": 1}))``, ``fkc(auto(2, weak="runs/small"))``.

    Attributes:
        term: ``cfg``, ``compose`` or ``auto`` with numbers for scales.
    """

    name: ClassVar[str] = "fkc"
    weighs: ClassVar[bool] = True
    outermost: ClassVar[str] = "weighs particles for exactly what is inside of it"

    def __post_init__(self) -> None:
        given: object = self.term
        if isinstance(given, str):
            parts = as_guidance(given)
            if len(parts.terms) == 1 and not parts.finishers:
                object.__setattr__(self, "term", parts.terms[0])
        if not isinstance(self.term, CFG | Compose | Auto):
            raise UsageError(f"fkc(...) wraps cfg, compose or auto, whose product is known, got {self.term}")
        scales = self.term.weights.values() if isinstance(self.term, Compose) else (self.term.scale,)
        changing = [scale for scale in scales if not isinstance(scale, float | tuple)]
        if changing:
            raise UsageError(
                f"fkc(...): expected numbers for scales, the same at every step and pixel, got {changing[0]}"
            )

    def ask(self, at: Moment) -> Ask:
        return self.term.ask(at)

    def add(self, seen: Seen) -> Tensor | None:
        return self.term.add(seen)

    def is_difference(self) -> bool:
        return False

    def log_weight(self, seen: Seen) -> Tensor:
        """What this step adds to the log-weight of each sample, float64 [n].

        Raises:
            UsageError: without the sampler's grid.
        """
        step = seen.step
        if step.grid is None or step.index is None:
            raise UsageError(f"{self} needs the sampler's grid: sample with fl.sample(..., particles=16)")
        weights = total_weights([self.term.ask(seen)])
        predictions = {branch: seen.x0(branch).double().flatten(1) for branch in weights}
        mean = torch.zeros_like(next(iter(predictions.values())))
        for branch, weight in weights.items():
            mean = mean + _column(weight, mean) * predictions[branch]
        spread = torch.zeros_like(mean[:, 0])
        for branch, weight in weights.items():
            spread = spread + _column(weight, mean)[..., 0] * (predictions[branch] - mean).square().sum(1)
        return -0.5 * _share_of_the_integral(step.grid, step.index) * spread


def _share_of_the_integral(grid: Grid, index: int) -> float:
    """What a value at a time of the grid counts in the integral over S: half of the steps on both sides, all of the
    last one."""
    snr = torch.tensor(grid.log_snr, dtype=torch.float64).exp() + 1
    steps = 1 / snr[:-1] - 1 / snr[1:]
    before = float(steps[index - 1]) / 2 if index else 0.0
    after = float(steps[index]) / (1 if index == grid.steps - 1 else 2)
    return float(snr[index]) ** 2 * (before + after)


def _column(weight: Weight, like: Tensor) -> Tensor:
    """A number, or one per sample [n], as [1, 1] or [n, 1]."""
    return torch.as_tensor(weight, dtype=like.dtype, device=like.device).reshape(-1, 1)
