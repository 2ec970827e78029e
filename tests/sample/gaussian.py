"""Data N(m, s^2): the denoiser and the probability-flow ODE are closed forms."""

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, RectifiedFlow, TableSchedule, VPCosine, vp_linear
from fairlead.sample.sampler import Frame, Sampler

MEAN, STD = 0.7, 0.5


class GaussianDenoiser:
    """Posterior mean m + s^2 alpha (x - alpha m) / (alpha^2 s^2 + sigma^2), and the times it was asked for."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.asked: list[float] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        assert t.shape == ()
        assert t.dtype == torch.float64
        assert condition.n == len(x_t)
        self.asked.append(float(t))
        alpha, sigma = self.schedule.alpha_sigma(t)
        x0 = MEAN + STD**2 * alpha * (x_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return Prediction.from_x0(x0, x_t, alpha, sigma)


def marginal(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_t; x_t = mean + std z solves the probability-flow ODE for any fixed z."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt()


def zero_terminal_table(steps: int = 1000) -> TableSchedule:
    """vp_linear with sqrt(abar) shifted and stretched to end at 0 (2305.08891, algorithm 1)."""
    root = torch.tensor(vp_linear(steps).alphas_cumprod, dtype=torch.float64).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return TableSchedule(tuple(root.square().tolist()))


ENDING_IN_PURE_NOISE = {
    "flow": RectifiedFlow(),
    "shifted flow": RectifiedFlow(shift=3.0),
    "cosine": VPCosine(log_snr_min=-torch.inf),
    "table": zero_terminal_table(),
}


def no_noise(step: int) -> Tensor:
    raise AssertionError(f"a deterministic sampler asked for the noise of step {step}")


def run(sampler: Sampler, denoiser, x_t, times, schedule, noise=no_noise) -> list[Frame]:
    return list(sampler.frames(denoiser, x_t, times, schedule, Condition(len(x_t)), noise))
