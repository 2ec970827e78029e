"""Euler's method on the probability-flow ODE in the variable in which it is straight.

Any schedule is a rescaled rectified flow: with z = x / (alpha + sigma) and tau = sigma / (alpha + sigma),
z = (1 - tau) x0 + tau eps and dz/dtau = eps - x0, finite at both ends (2209.03003; the change of variable is that of
2206.00364, eq. 4, with the scale alpha + sigma).
"""

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
class Euler(Sampler):
    """z' = z + (tau' - tau) (eps - x0).

    Equal to ``ddim`` where x0 and eps are tied by x_t. Where they are not (CFG++), ``ddim`` replaces the noise in x_t
    by eps, while this follows the field eps - x0; take ``ddim`` there.
    """

    name: ClassVar[str] = "euler"
    order: ClassVar[int] = 1

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
            prediction = at_step(denoiser, i)(x_t, times[i], condition)
            z = x_t / total[i] + (tau[i + 1] - tau[i]) * (prediction.eps - prediction.x0)
            x_t = total[i + 1] * z
            yield Frame(i, steps, float(times[i + 1]), x_t, prediction)
