"""Every registered sampler converges at the order it declares, measured on Gaussian data where the answer is exact."""

import math
from itertools import pairwise

import pytest
import torch

from fairlead.core.registry import names
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine
from fairlead.sample.sampler import Sampler, parse_sampler
from tests.sample.gaussian import GaussianDenoiser, marginal, run

SCHEDULES = {"cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}
SAMPLERS = [*names("sampler"), "ddim(eta=0.5)", "ddim(eta=1)"]
DETERMINISTIC = [name for name in SAMPLERS if not parse_sampler(name).stochastic]
STOCHASTIC = [name for name in SAMPLERS if parse_sampler(name).stochastic]
STEPS = (80, 160, 320)


def uniform_times(steps: int) -> torch.Tensor:
    return torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)


def error_of_flow(sampler: Sampler, schedule: NoiseSchedule, steps: int) -> float:
    """Largest distance to the exact solution of the probability-flow ODE."""
    times = uniform_times(steps)
    (mean, std), (end_mean, end_std) = marginal(schedule, times[0]), marginal(schedule, times[-1])
    z = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
    last = run(sampler, GaussianDenoiser(schedule), mean + std * z, times, schedule)[-1]
    return float((last.x_t - (end_mean + end_std * z)).abs().max())


def exact_moments(sampler: Sampler, schedule: NoiseSchedule, times: torch.Tensor) -> tuple[float, float]:
    """Mean and variance of the output, no Monte Carlo: the sampler is affine in the start and in each step's noise.

    Row 0 carries the mean and no noise, row 1 the start moved by one standard deviation, row 2 + i the noise of step i.
    """
    rows = len(times) + 1
    mean, std = marginal(schedule, times[0])
    x_t = mean.repeat(rows, 1)
    x_t[1] += std

    def impulse(step: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(2 + step), rows).double()[:, None]

    out = run(sampler, GaussianDenoiser(schedule), x_t, times, schedule, impulse)[-1].x_t
    return float(out[0]), float((out[1:] - out[0]).square().sum())


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("expression", DETERMINISTIC)
def test_order_of_an_ode_sampler(expression: str, label: str) -> None:
    sampler = parse_sampler(expression)
    errors = [error_of_flow(sampler, SCHEDULES[label], steps) for steps in STEPS]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([sampler.order] * len(slopes), abs=0.15)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("expression", STOCHASTIC)
def test_weak_order_of_an_sde_sampler(expression: str, label: str) -> None:
    """The variance; the mean starts on the exact path, alpha m, and has to stay on it."""
    sampler, schedule = parse_sampler(expression), SCHEDULES[label]
    end_mean, end_std = marginal(schedule, uniform_times(1)[-1])
    errors = []
    for steps in STEPS:
        mean, variance = exact_moments(sampler, schedule, uniform_times(steps))
        assert mean == pytest.approx(float(end_mean), abs=1e-12)
        errors.append(abs(variance - float(end_std) ** 2))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([sampler.order] * len(slopes), abs=0.15)
