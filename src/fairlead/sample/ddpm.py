"""DDPM's ancestral sampling (Ho, Jain & Abbeel 2020, 2006.11239, eq. 6-7), for any schedule and any grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, at_step
from fairlead.core.schedule import NoiseSchedule
from fairlead.sample.sampler import Frame, Noise, Sampler


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

    def frames(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        condition: Condition,
        noise: Noise,
    ) -> Iterator[Frame]:
        alpha, sigma = schedule.alpha_sigma(times)
        log_snr = schedule.log_snr(times)
        gap = log_snr[:-1] - log_snr[1:]
        of_x0 = alpha[1:] * -torch.expm1(gap)
        of_x_t = sigma[1:] / sigma[:-1] * (gap / 2).exp()
        spread = sigma[1:] * (-torch.expm1(gap)).sqrt()
        steps = len(times) - 1
        for i in range(steps):
            prediction = at_step(denoiser, i)(x_t, times[i], condition)
            x_t = of_x0[i] * prediction.x0 + of_x_t[i] * x_t + spread[i] * noise(i).to(x_t)
            yield Frame(i, steps, float(times[i + 1]), x_t, prediction)
