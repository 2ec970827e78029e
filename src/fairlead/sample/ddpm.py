"""DDPM's ancestral sampling (Ho, Jain & Abbeel 2020, 2006.11239, eq. 6-7), for any schedule and any grid."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


@dataclass(frozen=True)
class DDPM(Sampler):
    """x' ~ q(x' | x_t, x0), the posterior of the forward process between two times of the grid.

    With kept = SNR / SNR': mean alpha' (1 - kept) x0 + kept (alpha' / alpha) x_t, variance sigma'^2 (1 - kept). The
    factor of x_t is written (sigma' / sigma) sqrt(kept), finite at alpha = 0. The mean reads x0 and x_t and ignores
    ``Prediction.eps``; for a denoiser that unties eps from x0 take ``ddim(eta=1)``, else equal to this.
    """

    name: ClassVar[str] = "ddpm"
    order: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        return True

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        alpha, sigma, gap = levels.alpha, levels.sigma, -levels.log_snr.diff()
        return SimpleNamespace(
            of_x0=levels.each(alpha[1:] * -torch.expm1(gap)),
            of_x_t=levels.each(sigma[1:] / sigma[:-1] * (gap / 2).exp()),
            of_draw=levels.each(sigma[1:] * (-torch.expm1(gap)).sqrt()),
        )

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        prediction = denoise(x_t, i)
        mean = memory.of_x0[i] * prediction.x0 + memory.of_x_t[i] * x_t
        return mean + memory.of_draw[i] * noise(i).to(x_t), prediction
