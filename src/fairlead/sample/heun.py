"""Heun's method on the probability-flow ODE (Karras et al. 2022, 2206.00364, algorithm 1), for any schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, at_step
from fairlead.core.schedule import NoiseSchedule
from fairlead.sample.sampler import Frame, Noise, Sampler


@dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoid rule in the straight variable of ``euler.py``; the step to sigma = 0 is Euler's.

    Two evaluations per step, one in the step to 0: 2 N - 1. The corrector asks the same ``at_step`` denoiser, so
    guidance sees one step. The frame carries the prediction at the beginning of the step.
    """

    name: ClassVar[str] = "heun"
    order: ClassVar[int] = 2

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
        total = alpha + sigma
        tau = sigma / total
        steps = len(times) - 1
        for i in range(steps):
            denoise = at_step(denoiser, i)
            z, move = x_t / total[i], tau[i + 1] - tau[i]
            prediction = denoise(x_t, times[i], condition)
            slope = prediction.eps - prediction.x0
            x_t = total[i + 1] * (z + move * slope)
            if sigma[i + 1] > 0:
                end = denoise(x_t, times[i + 1], condition)
                x_t = total[i + 1] * (z + move * (slope + end.eps - end.x0) / 2)
            yield Frame(i, steps, float(times[i + 1]), x_t, prediction)
