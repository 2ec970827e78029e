"""DPM-Solver++ 2M, ODE and SDE (Lu et al. 2022, 2211.01095, algorithm 2 and eq. 18), midpoint form, any schedule.

Written as DDIM plus a correction: with h the step in lambda = log(alpha / sigma), h_old the step before and
D = (x0 - x0_old) h / (2 h_old),

    ODE   x' = alpha' (x0 + (1 - e^-h) D) + sigma' eps
    SDE   x' = alpha' (x0 + (1 - e^-2h) D) + sigma' e^-h eps + sigma' sqrt(1 - e^-2h) z

which is the paper's update once x_t = alpha x0 + sigma eps is put in. So ``Prediction.eps`` re-noises as in ``ddim``,
and nothing is divided by alpha. The first step (no history), the step after a start of infinite h_old (alpha = 0) and
the step to sigma = 0 (infinite h) are first order.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


def _extrapolation(h: Tensor) -> Tensor:
    """h / (2 h_old) for each step, [steps] from h [steps]; 0 where the step is first order."""
    factor = torch.zeros_like(h)
    finite = h[1:].isfinite() & h[:-1].isfinite()
    factor[1:] = torch.where(finite, h[1:] / (2 * h[:-1]), 0.0)
    return factor


def _step(i: int, prediction: Prediction, memory: SimpleNamespace) -> tuple[Tensor, Prediction]:
    """alpha' (x0 + factor D) + factor' eps, the part without noise."""
    x0 = prediction.x0
    if memory.x0_old is not None:
        x0 = x0 + memory.of_change[i] * (x0 - memory.x0_old)
    memory.x0_old = prediction.x0
    return memory.of_x0[i] * x0 + memory.of_eps[i] * prediction.eps, prediction


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """Deterministic: second order at one evaluation per step."""

    name: ClassVar[str] = "dpmpp_2m"
    order: ClassVar[int] = 2
    renoises: ClassVar[bool] = True

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        h = levels.log_snr.diff() / 2
        return SimpleNamespace(
            of_x0=levels.each(levels.alpha[1:]),
            of_eps=levels.each(levels.sigma[1:]),
            of_change=levels.each(-torch.expm1(-h) * _extrapolation(h)),
            x0_old=None,
        )

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        return _step(i, denoise(x_t, i), memory)


@dataclass(frozen=True)
class DPMpp2MSDE(Sampler):
    """Stochastic: the ancestral step of ``ddim(eta=1)`` plus the correction.

    The order is that of the variance on Gaussian data, where it is exactly computable (tests/sample/test_order.py).
    """

    name: ClassVar[str] = "dpmpp_2m_sde"
    order: ClassVar[int] = 2
    renoises: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return True

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        sigma, h = levels.sigma[1:], levels.log_snr.diff() / 2
        fresh = -torch.expm1(-2 * h)
        return SimpleNamespace(
            of_x0=levels.each(levels.alpha[1:]),
            of_eps=levels.each(sigma * (-h).exp()),
            of_change=levels.each(fresh * _extrapolation(h)),
            of_draw=levels.each(sigma * fresh.sqrt()),
            x0_old=None,
        )

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        x_t, prediction = _step(i, denoise(x_t, i), memory)
        return x_t + memory.of_draw[i] * noise(i).to(x_t), prediction
