"""Euler's method on the probability-flow ODE in the variable in which it is straight.

Any schedule is a rescaled rectified flow: with z = x / (alpha + sigma) and tau = sigma / (alpha + sigma),
z = (1 - tau) x0 + tau eps and dz/dtau = eps - x0, finite at both ends (2209.03003; the change of variable is that of
2206.00364, eq. 4, with the scale alpha + sigma).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


@dataclass(frozen=True)
class Euler(Sampler):
    """z' = z + (tau' - tau) (eps - x0).

    Equal to ``ddim`` where x0 and eps are tied by x_t. Where they are not (CFG++), ``ddim`` replaces the noise in x_t
    by eps, while this follows the field eps - x0; take ``ddim`` there.
    """

    name: ClassVar[str] = "euler"
    order: ClassVar[int] = 1

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        total = levels.alpha + levels.sigma
        moves = (levels.sigma / total).diff()
        return SimpleNamespace(total=levels.each(total), move=levels.each(moves))

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        prediction = denoise(x_t, i)
        z = x_t / memory.total[i] + memory.move[i] * (prediction.eps - prediction.x0)
        return memory.total[i + 1] * z, prediction
