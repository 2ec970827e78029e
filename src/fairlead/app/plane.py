"""Guidance in two dimensions, where everything is known: the exact denoiser of a Gaussian mixture, its score field at
a noise level, the paths of samples, and the density p(x) p(c|x)^w that guidance at scale w is said to draw from.

For cfg(w) the guided score at noise level (alpha, sigma) is (1 - w) s(x) + w s(x | c) (2207.12598, eq. 6), the gradient
of log p_t(x) p_t(c|x)^w. These densities are not the noised versions of one sharpened density, so the samples of a
guided run are not draws from it: the page shows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fairlead.core.arguments import is_count, shown
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError, unknown
from fairlead.data.toys import GaussianMixture
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.sample.noise import NoiseStream
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Sampling

POINTS = 500
"""Most samples."""
LONGEST = 200
"""Most steps."""
REACH = 4.0
"""Half the side of the square that is drawn."""


def _two_moons() -> GaussianMixture:
    """Two classes of six components each, two half circles that reach into each other."""
    angle = torch.linspace(0, math.pi, 6, dtype=torch.float64)
    upper = torch.stack([1.6 * angle.cos() - 0.8, 1.6 * angle.sin() - 0.4], dim=1)
    lower = torch.stack([0.8 - 1.6 * angle.cos(), 0.4 - 1.6 * angle.sin()], dim=1)
    means = torch.cat([upper, lower])
    return GaussianMixture(means, torch.full((12,), 0.25), torch.ones(12), torch.arange(2).repeat_interleave(6))


def _overlapping() -> GaussianMixture:
    """Three broad classes that overlap."""
    means = torch.tensor([[-0.9, -0.5], [0.9, -0.5], [0.0, 1.0]], dtype=torch.float64)
    return GaussianMixture(means, torch.full((3,), 0.8), torch.ones(3), torch.arange(3))


def _two_places() -> GaussianMixture:
    """Class 0 has a large and a small part, which guidance can lose; class 1 lies between them."""
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.2], [0.3, 0.2]], dtype=torch.float64)
    return GaussianMixture(
        means, torch.tensor([0.5, 0.35, 0.6]), torch.tensor([3.0, 1.0, 4.0]), torch.tensor([0, 0, 1])
    )


MIXTURES: dict[str, Callable[[], GaussianMixture]] = {
    "three classes that overlap": _overlapping,
    "a ring of four": GaussianMixture.ring,
    "two half circles": _two_moons,
    "a class in two places": _two_places,
}


@dataclass(frozen=True, eq=False)
class Walk:
    """Samples on their way from noise to data.

    Attributes:
        plan: what is sampled, from a toy.
        mixture: the exact distribution.
        label: the class that is asked for.
        states: [steps + 1, n, 2], x_t at every time of the grid as far as it is taken.
        rows: evaluations of the denoiser.
    """

    plan: Plan
    mixture: GaussianMixture
    label: int
    states: Tensor
    rows: int = 0

    @property
    def steps(self) -> int:
        return self.plan.sampling.steps

    @property
    def ended(self) -> bool:
        return len(self.states) == self.steps + 1

    def level(self, step: int) -> tuple[float, float]:
        """(alpha, sigma) where a step begins; step = steps is the data."""
        alpha, sigma = self.plan.model.schedule.alpha_sigma(self.plan.times[step])
        return float(alpha), float(sigma)

    def score(self, x: Tensor, step: int) -> Tensor:
        """The guided score at x [m, 2] where a step begins: (alpha x0 - x) / sigma^2 of the guided x0.

        Raises:
            UsageError: at the last time, where there is no noise.
        """
        alpha, sigma = self.level(step)
        if step >= self.steps or sigma == 0:
            raise UsageError("the score field needs a noise level; choose a step before the last")
        model: Model = self.plan.model
        condition = model.encode([self.plan.conds[0]] * len(x))

        def draw(number: int, shape: tuple[int, ...]) -> Tensor:
            return torch.randn(len(x), *shape, generator=torch.Generator().manual_seed(number))

        denoiser = GuidedDenoiser.of(
            model, self.plan.guidance, condition, resources=self.plan.resources, draw=draw, times=self.plan.times
        )
        x0 = denoiser.at(step)(x, self.plan.times[step], condition).x0
        return (alpha * x0 - x) / sigma**2

    @cached_property
    def grid(self) -> Tensor:
        """[m * m, 2], the places at which densities are drawn."""
        return lattice(121)

    def density(self, step: int, conditional: bool = True) -> Tensor:
        """log p_t(x | c), or log p_t(x), on :attr:`grid`, where a step begins."""
        alpha, sigma = self.level(step)
        label = torch.full((len(self.grid),), self.label) if conditional else None
        return self.mixture.log_density(self.grid, alpha, sigma, label)

    def sharpened(self, w: float) -> Tensor:
        """log of the normalised p(x) p(c|x)^w of the data on :attr:`grid`; normalised over the square that is drawn."""
        return sharpened(self.mixture, self.label, w, self.grid)

    def moments(self, w: float) -> tuple[Tensor, Tensor]:
        """(mean [2], standard deviation [2]) of the sharpened density, by quadrature on :attr:`grid`."""
        weight = self.sharpened(w).exp()
        weight = weight / weight.sum()
        mean = (weight[:, None] * self.grid).sum(0)
        return mean, (weight[:, None] * (self.grid - mean).square()).sum(0).sqrt()


def lattice(side: int, reach: float = REACH) -> Tensor:
    """[side * side, 2]: places in a square about 0, row by row from below."""
    ticks = torch.linspace(-reach, reach, side, dtype=torch.float64)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def sharpened(mixture: GaussianMixture, label: int, w: float, x: Tensor) -> Tensor:
    """log of p(x) p(label|x)^w at the places x [m, 2] of a lattice, normalised over its area."""
    plain = mixture.log_density(x, 1.0, 0.0)
    posterior = mixture.class_log_posterior(x, 1.0, 0.0)[:, label]
    total = plain + w * posterior
    side = round(math.sqrt(len(x)))
    cell = (float(x[:, 0].max() - x[:, 0].min()) / (side - 1)) ** 2
    return total - total.logsumexp(0) - math.log(cell)


def walk_plan(
    name: str, label: int, guidance: str, n: int, seed: int, sampler: str, steps: int
) -> tuple[GaussianMixture, Plan]:
    """What is sampled, checked.

    Raises:
        UsageError: for an unknown mixture or class, too many samples or steps, and what cannot be sampled; for a
            guidance that names a file.
    """
    if name not in MIXTURES:
        raise unknown("distribution", name, MIXTURES)
    for what, value, most in (("samples", n, POINTS), ("steps", steps, LONGEST)):
        if not is_count(value) or value > most:
            raise UsageError(f"{what}: expected 1 to {most}, got {shown(value)}")
    mixture = MIXTURES[name]()
    if not is_count(label, 0) or label >= mixture.n_classes:
        raise unknown("class", label, map(str, range(mixture.n_classes)))
    steering = to_guidance(guidance.strip() or "none")
    if steering.resources():
        raise UsageError(
            f"{steering} asks {steering.resources()[0].name!r}, which no toy distribution has; leave it out"
        )
    cond = None if steering.replacing() else str(label)
    sampling = Sampling(sampler, steps, batch_size=POINTS)
    return mixture, Plan.of(toy_model(mixture, "vp_cosine"), cond, steering, sampling, n=n, seeds=seed)


def walking(mixture: GaussianMixture, plan: Plan, label: int) -> Iterator[Walk]:
    """The walk before the first step and after every step."""
    (batch,) = plan.batches
    _, sigma = plan.model.schedule.alpha_sigma(plan.times[0])
    states = [NoiseStream(plan.seeds, plan.model.shape).start().double() * float(sigma)]
    rows = 0
    yield Walk(plan, mixture, label, torch.stack(states))
    frames = plan.frames(batch)
    while True:
        with counting() as cost:
            frame = next(frames, None)
        rows += cost.rows
        if frame is None:
            return
        states.append(frame.x_t.double())
        yield Walk(plan, mixture, label, torch.stack(states), rows)
