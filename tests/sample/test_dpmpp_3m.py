"""The third-order multistep solver: what it is exact for. Its order is measured in ``test_order.py``."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from scipy.integrate import quad
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine
from fairlead.sample.dpmpp_3m import DPMpp3M, weights_of_changes
from fairlead.sample.sampler import GridLevels
from tests.sample.gaussian import run

START, SLOPE, BEND = 0.3, -0.4, 0.7


def parabola(log_ratio: float) -> float:
    return START + SLOPE * log_ratio + BEND * log_ratio**2


class Parabola:
    """A prediction that is a parabola in log(alpha / sigma), whatever x."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = torch.full_like(x_t, parabola(float(self.schedule.log_snr(t)) / 2))
        return Prediction.from_x0(x0, x_t, *self.schedule.alpha_sigma(t))


def exact(x: float, schedule: NoiseSchedule, t: Tensor, after: Tensor) -> float:
    """The solution of the probability-flow ODE for the parabola, by quadrature."""
    (alpha, sigma), (alpha2, sigma2) = (map(float, schedule.alpha_sigma(at)) for at in (t, after))
    low, high = math.log(alpha / sigma), math.log(alpha2 / sigma2)
    integral, _ = quad(lambda at: math.exp(at - high) * parabola(at), low, high, epsabs=1e-13)
    return sigma2 / sigma * x + alpha2 * float(integral)


@pytest.mark.parametrize("schedule", [VPCosine(), RectifiedFlow(), VE()], ids=["cosine", "flow", "ve"])
def test_a_parabola_is_solved_exactly_from_the_third_step_on(schedule: NoiseSchedule) -> None:
    """In steps of different lengths."""
    times = torch.tensor([0.9, 0.8, 0.65, 0.6, 0.4, 0.35, 0.1], dtype=torch.float64)
    frames = run(DPMpp3M(), Parabola(schedule), torch.ones(1, 1, dtype=torch.float64), times, schedule)
    ends = [1.0, *(float(frame.x_t) for frame in frames)]
    errors = [
        abs(end - exact(begin, schedule, *span))
        for (begin, end), span in zip(pairwise(ends), pairwise(times), strict=True)
    ]
    assert max(errors[2:]) < 1e-12
    assert errors[0] > 1e-3


def test_the_second_step_makes_good_the_first_one() -> None:
    """Of a straight line: what the first two steps leave together is what the second one alone would be off by, 0."""
    schedule = RectifiedFlow()
    times = torch.tensor([0.9, 0.7, 0.4], dtype=torch.float64)

    class Line(Parabola):
        def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
            x0 = torch.full_like(x_t, 2 - 0.5 * float(self.schedule.log_snr(t)) / 2)
            return Prediction.from_x0(x0, x_t, *self.schedule.alpha_sigma(t))

    *_, last = run(DPMpp3M(), Line(schedule), torch.ones(1, 1, dtype=torch.float64), times, schedule)
    low, high = (float(schedule.log_snr(t)) / 2 for t in (times[0], times[-1]))
    integral, _ = quad(lambda at: math.exp(at - high) * (2 - 0.5 * at), low, high, epsabs=1e-13)
    assert float(last.x_t) == pytest.approx(0.4 / 0.9 + 0.6 * integral, abs=1e-12)


def test_steps_of_infinite_length_are_left_out() -> None:
    """A flow begins at alpha = 0 and ends at sigma = 0: the first, the second and the last step are ddim's."""
    levels = GridLevels.of(RectifiedFlow(), torch.linspace(1, 0, 6, dtype=torch.float64), torch.zeros(1))
    near, far = weights_of_changes(levels.log_snr.diff() / 2)
    assert [bool(weight) for weight in near] == [False, False, True, True, False]
    assert [bool(weight) for weight in far] == [False, False, False, True, False]


def test_diffusers_takes_half_of_the_curvature() -> None:
    """On the parabola its third-order update is off by that half, and ours is exact."""
    log_ratios = [-1.0, -0.6, 0.1, 0.5]
    scheduler = DPMSolverMultistepScheduler(solver_order=3, algorithm_type="dpmsolver++")
    scheduler.sigmas = torch.tensor([math.exp(-at) for at in log_ratios], dtype=torch.float64)
    scheduler._step_index = 2
    given = [torch.tensor([[parabola(at)]], dtype=torch.float64) for at in log_ratios[:3]]
    x = torch.ones(1, 1, dtype=torch.float64)
    theirs = float(scheduler.multistep_dpm_solver_third_order_update(given, sample=x))
    (alpha, sigma), (alpha2, sigma2) = (
        (1 / math.hypot(1, math.exp(-at)), math.exp(-at) / math.hypot(1, math.exp(-at))) for at in log_ratios[2:]
    )
    integral, _ = quad(lambda at: math.exp(at - 0.5) * parabola(at), 0.1, 0.5, epsabs=1e-13)
    solution = sigma2 / sigma + alpha2 * integral
    h = 0.4
    assert solution - theirs == pytest.approx(alpha2 * (h**2 / 2 - h + 1 - math.exp(-h)) * BEND, rel=1e-9)
    near, far = (float(w[2]) for w in weights_of_changes(torch.tensor(log_ratios, dtype=torch.float64).diff()))
    x0 = parabola(0.1)
    moved = x0 + near * (x0 - parabola(-0.6)) + far * (parabola(-0.6) - parabola(-1.0))
    assert alpha2 * moved + sigma2 * (1 - alpha * x0) / sigma == pytest.approx(solution, abs=1e-12)
