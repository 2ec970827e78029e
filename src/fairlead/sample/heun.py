"""Heun's method on the probability-flow ODE (Karras et al. 2022, 2206.00364, algorithm 1), for any schedule."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


@dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoid rule in the straight variable of ``euler.py``; the step to sigma = 0 is Euler's.

    Two evaluations per step, one in the step to 0: 2 N - 1. Guidance sees one step. The
    frame carries the prediction at the beginning of the step.
    """

    name: ClassVar[str] = "heun"
    order: ClassVar[int] = 2

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        total = levels.alpha + levels.sigma
        moves = (levels.sigma / total).diff()
        noisy = (levels.sigma[1:] > 0).tolist()
        return SimpleNamespace(total=levels.each(total), move=levels.each(moves), noisy=noisy)

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        z, move, total = x_t / memory.total[i], memory.move[i], memory.total[i + 1]
        prediction = denoise(x_t, i)
        slope = prediction.eps - prediction.x0
        x_t = total * (z + move * slope)
        if memory.noisy[i]:
            end = denoise(x_t, i + 1)
            x_t = total * (z + move * (slope + end.eps - end.x0) / 2)
        return x_t, prediction
