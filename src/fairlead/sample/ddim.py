"""DDIM (Song, Meng & Ermon 2021, 2010.02502, eq. 12 and 16), for any schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, at_step
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule
from fairlead.sample.sampler import Frame, Noise, Sampler


@dataclass(frozen=True)
class DDIM(Sampler):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z, with s^2 = eta^2 sigma'^2 (1 - SNR / SNR').

    On a variance-preserving schedule s is eq. 16. ``Prediction.eps`` re-noises, so a denoiser that unties it from x0
    (CFG++) needs no other sampler.

    Args:
        eta: in [0, 1]; 0 is deterministic, 1 is ancestral (the posterior of DDPM).
    """

    name: ClassVar[str] = "ddim"
    order: ClassVar[int] = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"ddim eta {self.eta!r}: expected a number from 0 (deterministic) to 1 (ancestral)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

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
        spread = self.eta * sigma[1:] * (-torch.expm1(log_snr[:-1] - log_snr[1:])).sqrt()
        renoise = (sigma[1:] ** 2 - spread**2).clamp(min=0).sqrt()
        steps = len(times) - 1
        for i in range(steps):
            prediction = at_step(denoiser, i)(x_t, times[i], condition)
            x_t = alpha[i + 1] * prediction.x0 + renoise[i] * prediction.eps
            if self.stochastic:
                x_t = x_t + spread[i] * noise(i).to(x_t)
            yield Frame(i, steps, float(times[i + 1]), x_t, prediction)
