"""DDIM (Song, Meng & Ermon 2021, 2010.02502, eq. 12 and 16), for any schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import plain
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction, TiedPrediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


@dataclass(frozen=True)
class DDIM(Sampler):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z, with s^2 = eta^2 sigma'^2 (1 - SNR / SNR').

    On a variance-preserving schedule s is eq. 16. ``Prediction.eps`` re-noises, so a denoiser that unties it from x0
    (CFG++) needs no other sampler.

    Args:
        eta: in [0, 1]; 0 is deterministic, 1 is ancestral (the posterior of DDPM).
        recur: how often each step is taken, at least 1. Between two times x' is noised back to t with fresh noise,
            x = (alpha / alpha') x' + sqrt(sigma^2 - (alpha / alpha')^2 sigma'^2) z: the time travel of FreeDoM
            (2303.09833, algorithm 2) and the recurrence of universal guidance (2302.07121), for guidance by gradients.
            Exact in the limit of many steps; the variance lost to few steps is up to twice that of one pass at 3.
    """

    name: ClassVar[str] = "ddim"
    order: ClassVar[int] = 1
    renoises: ClassVar[bool] = True
    eta: float = 0.0
    recur: int = 1

    def __post_init__(self) -> None:
        for setting in ("recur", "eta"):
            object.__setattr__(self, setting, plain(getattr(self, setting)))
        if not isinstance(self.recur, int | float) or not 1 <= self.recur < math.inf or self.recur != int(self.recur):
            raise UsageError(f"ddim recur {self.recur!r}: expected how often each step is taken, an integer from 1")
        object.__setattr__(self, "recur", int(self.recur))  # expressions have only floats
        if isinstance(self.eta, bool) or not isinstance(self.eta, int | float) or not 0 <= self.eta <= 1:
            raise UsageError(f"ddim eta {self.eta!r}: expected a number from 0 (deterministic) to 1 (ancestral)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0 or self.recur > 1

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        alpha, sigma = levels.alpha, levels.sigma
        renoise, memory = sigma[1:], SimpleNamespace()
        if self.eta > 0:
            gap = levels.log_snr[:-1] - levels.log_snr[1:]
            spread = self.eta * sigma[1:] * (-torch.expm1(gap)).sqrt()
            renoise = (sigma[1:] ** 2 - spread**2).clamp(min=0).sqrt()
            memory.of_draw = levels.each(spread)
        if self.recur > 1:
            kept = alpha[:-1] / alpha[1:]
            back = (sigma[:-1] ** 2 - kept**2 * sigma[1:] ** 2).clamp(min=0).sqrt()
            memory.of_x_t, memory.of_back = levels.each(kept), levels.each(back)
        memory.of_x0, memory.of_eps = levels.each(alpha[1:]), levels.each(renoise)
        share = renoise / sigma[:-1]  # of x_t, once eps = (x_t - alpha x0) / sigma is put in
        memory.tied_x0, memory.tied_x_t = (alpha[1:] - share * alpha[:-1]).tolist(), levels.each(share)
        return memory

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        draws = count(i * (2 * self.recur - 1))
        for again in reversed(range(self.recur)):
            prediction = denoise(x_t, i)
            if isinstance(prediction, TiedPrediction):
                x_t = torch.add(memory.tied_x_t[i] * x_t, prediction.x0, alpha=memory.tied_x0[i])
            else:
                x_t = memory.of_x0[i] * prediction.x0 + memory.of_eps[i] * prediction.eps
            if self.eta > 0:
                x_t = x_t + memory.of_draw[i] * noise(next(draws)).to(x_t)
            if again:
                x_t = memory.of_x_t[i] * x_t + memory.of_back[i] * noise(next(draws)).to(x_t)
        return x_t, prediction
