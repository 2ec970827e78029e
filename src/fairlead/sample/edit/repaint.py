"""Inpainting by replacement with resampling: RePaint (Lugmayr et al. 2022, 2201.09865, algorithm 1), jumps of one step.

A model that was not trained to inpaint fills a mask: after every step the known part is replaced by the known image at
that noise level, x' = m x' + (1 - m)(alpha' x0 + sigma' z). The step before did not know what it was put beside, so the
two are not in harmony; each step is taken ``resample`` times, noised back in between,
x = (alpha / alpha') x' + sqrt(sigma^2 - (alpha / alpha')^2 sigma'^2) z.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.prediction import Prediction
from fairlead.sample.sampler import GridLevels, Noise, Sampler, StepDenoiser

_APART = 2**32
"""Between the numbers of draws of different kinds; those of a sampler's own are smaller."""


@dataclass(frozen=True, eq=False)
class Replacing(Sampler):
    """Another sampler, between whose steps the known part is replaced. At the end it is the image's to the bit.

    Args:
        inner: the sampler; what it remembers is that of the last time a step was taken.
        x0: the known image [n, ...].
        anew: bool, broadcasts against x0: True where the image is made anew.
        resample: how often each step is taken, at least 1; the network is asked as often.
    """

    name: ClassVar[str] = "replacing"
    order: ClassVar[int] = 1
    inner: Sampler
    x0: Tensor
    anew: Tensor
    resample: int = 1

    @property
    def stochastic(self) -> bool:
        return True

    def begin(self, levels: GridLevels) -> SimpleNamespace:
        alpha, sigma = levels.alpha, levels.sigma
        kept = alpha[:-1] / alpha[1:]
        back = (sigma[:-1] ** 2 - kept**2 * sigma[1:] ** 2).clamp(min=0).sqrt()
        return SimpleNamespace(
            inner=self.inner.begin(levels),
            alpha=levels.each(alpha[1:]),
            sigma=levels.each(sigma[1:]),
            kept=levels.each(kept),
            back=levels.each(back),
        )

    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        before = memory.inner
        for again in range(self.resample):
            own, known, back = (_numbered(noise, 3 * again + kind) for kind in range(3))
            memory.inner = copy.copy(before)
            x_t, prediction = self.inner.step(i, x_t, denoise, own, memory.inner)
            of_known = memory.alpha[i] * self.x0
            if memory.sigma[i]:
                of_known = of_known + memory.sigma[i] * known(i).to(x_t)
            x_t = torch.where(self.anew, x_t, of_known.to(x_t))
            if again + 1 < self.resample:
                x_t = memory.kept[i] * x_t + memory.back[i] * back(i).to(x_t)
        return x_t, prediction


def _numbered(noise: Noise, kind: int) -> Noise:
    """Draws that share no number with those of another kind."""
    return lambda number: noise(number + kind * _APART)
