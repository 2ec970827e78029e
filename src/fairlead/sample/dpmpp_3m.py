"""A third-order multistep solver of the form of DPM-Solver++ (Lu et al. 2022, 2211.01095), any schedule.

Between two times lambda = log(alpha / sigma) grows by h, and exactly (their proposition 4.1)

    x' = alpha' x0 + sigma' eps + alpha' integral_0^h e^(s - h) (D(lambda + s) - x0) ds

D is taken for the parabola through this prediction and the two before it, whose slope f' and curvature f'' now are the
divided differences of steps of any lengths, and of a parabola the integral is

    (h - 1 + e^-h) f' + (h^2 / 2 - h + 1 - e^-h) f''

Published codes of the multistep form halve the second part (they put a divided difference in place of f'', which is
twice that), and so are of second order. As in ``dpmpp``, ``Prediction.eps`` re-noises and nothing is divided by alpha;
the step to sigma = 0 is of first order. The first step knows no other prediction and is of first order too; once the
second step knows one, it adds what the first one lacked, without which the whole run would be of second order.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser


def weights_of_changes(h: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of x0 - x0_old and of x0_old - x0_older in each step, [steps] each, from h [steps]; 0 where a
    prediction is not there, or infinitely far away."""
    last, before = torch.full_like(h, torch.inf), torch.full_like(h, torch.inf)
    last[1:], before[2:] = h[:-1], h[:-2]
    slope = h + torch.expm1(-h)
    bend = h**2 / 2 - slope
    one, two = h.isfinite() & last.isfinite(), h.isfinite() & last.isfinite() & before.isfinite()
    mixed = (slope * last + 2 * bend) / (last + before)
    near = torch.where(two, (slope + mixed) / last, torch.where(one, slope / last, 0.0))
    if len(h) > 1 and bool(one[1]):
        near[1] += torch.exp(-h[1]) * slope[0] / last[1]  # what the first step lacked of second order
    return near, torch.where(two, -mixed / before, 0.0)


@dataclass(frozen=True)
class DPMpp3M(Sampler):
    """Deterministic: third order at one evaluation per step."""

    name: ClassVar[str] = "dpmpp_3m"
    order: ClassVar[int] = 3
    renoises: ClassVar[bool] = True

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        near, far = weights_of_changes(levels.log_snr.diff() / 2)
        return SimpleNamespace(
            of_x0=levels.each(levels.alpha[1:]),
            of_eps=levels.each(levels.sigma[1:]),
            near=levels.each(near),
            far=levels.each(far),
            before=(),
        )

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        prediction = denoise(x_t, i)
        known = (prediction.x0, *memory.before)
        x0 = prediction.x0
        for weight, newer, older in zip((memory.near[i], memory.far[i]), known, known[1:], strict=False):
            x0 = x0 + weight * (newer - older)
        memory.before = known[:2]
        return memory.of_x0[i] * x0 + memory.of_eps[i] * prediction.eps, prediction
