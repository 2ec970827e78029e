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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, at_step
from fairlead.core.schedule import NoiseSchedule
from fairlead.sample.sampler import Frame, Noise, Sampler, each_step


def _extrapolation(h: Tensor) -> Tensor:
    """h / (2 h_old) for each step, [steps] from h [steps]; 0 where the step is first order."""
    factor = torch.zeros_like(h)
    finite = h[1:].isfinite() & h[:-1].isfinite()
    factor[1:] = torch.where(finite, h[1:] / (2 * h[:-1]), 0.0)
    return factor


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """Deterministic: second order at one evaluation per step."""

    name: ClassVar[str] = "dpmpp_2m"
    order: ClassVar[int] = 2
    renoises: ClassVar[bool] = True

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
        h = schedule.log_snr(times).diff() / 2
        correction = -torch.expm1(-h) * _extrapolation(h)
        x0_old: Tensor | None = None
        steps, after = len(times) - 1, times[1:].tolist()
        at, of_x0, of_eps, of_change = times.unbind(), *(each_step(c, x_t) for c in (alpha[1:], sigma[1:], correction))
        for i in range(steps):
            prediction = at_step(denoiser, i)(x_t, at[i], condition)
            x0 = prediction.x0
            if x0_old is not None:
                x0 = x0 + of_change[i] * (x0 - x0_old)
            x_t = of_x0[i] * x0 + of_eps[i] * prediction.eps
            x0_old = prediction.x0
            yield Frame(i, steps, after[i], x_t, prediction)


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
        h = schedule.log_snr(times).diff() / 2
        fresh = -torch.expm1(-2 * h)
        correction = fresh * _extrapolation(h)
        renoise, spread = sigma[1:] * (-h).exp(), sigma[1:] * fresh.sqrt()
        x0_old: Tensor | None = None
        steps, after = len(times) - 1, times[1:].tolist()
        at, of_x0, of_eps = times.unbind(), each_step(alpha[1:], x_t), each_step(renoise, x_t)
        of_draw, of_change = each_step(spread, x_t), each_step(correction, x_t)
        for i in range(steps):
            prediction = at_step(denoiser, i)(x_t, at[i], condition)
            x0 = prediction.x0
            if x0_old is not None:
                x0 = x0 + of_change[i] * (x0 - x0_old)
            x_t = of_x0[i] * x0 + of_eps[i] * prediction.eps + of_draw[i] * noise(i).to(x_t)
            x0_old = prediction.x0
            yield Frame(i, steps, after[i], x_t, prediction)
