"""Momentum guidance: the mean of velocities, and what it makes of the solver (2602.20360)."""

import functools
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.euler import Euler
from fairlead.sample.grids import trailing
from fairlead.sample.heun import Heun
from tests.guide.stored import output, random, stored
from tests.guide.toy import MIXTURE, NETWORK, SCHEDULE, SPECS, N, close, guided, images, points, steered
from tests.sample.gaussian import MEAN, STD, GaussianDenoiser, marginal, no_noise

X_T = random(N, 3, 4)
GRID = trailing(SCHEDULE, 6)
FLOW = RectifiedFlow()


def along(t: float, seed: int) -> Tensor:
    return random(N, 3, 4, seed=seed) + t * random(N, 3, 4, seed=seed + 50)


@functools.cache
def run(text: str, sampler: str | None = None) -> tuple[Tensor, int]:
    grid, start = trailing(NETWORK.schedule, 8), images(t=torch.ones((), dtype=torch.float64))
    denoiser = steered(text, SPECS, times=grid)
    with counting() as cost:
        frames = (Heun() if sampler == "heun" else DDIM()).frames(
            denoiser, start, grid, NETWORK.schedule, denoiser.condition, lambda step: start
        )
        *_, last = frames
    return last.x_t, cost.rows


@pytest.mark.parametrize("before", ["none", "cfg(3)", "cfg([3, 1, 2, 0, -1])", "cfg(3) | clip()"])
@pytest.mark.parametrize("text", ["history(0)", "history(0, 0)", "history(ramp(0, 0))", "higs(0)"])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_strength_0_is_off_to_the_bit(before: str, text: str, sampler: str) -> None:
    plain, rows = run(before, sampler)
    off, again = run(f"{before} | {text}", sampler)
    assert torch.equal(off, plain)
    assert rows == again


def test_it_costs_no_row() -> None:
    assert run("cfg(3) | history(0.5)")[1] == run("cfg(3)")[1] == 2 * N * 8
    assert run("none | history(0.5)")[1] == N * 8


@pytest.mark.parametrize("decay", [0.0, 0.6])
@pytest.mark.parametrize("cfg", [1, 4])
def test_by_hand_over_a_run(decay: float, cfg: float) -> None:
    """In the velocity of the flow, on a schedule that is none; guidance first, and the mean is of what it made."""
    text = f"cfg({cfg}) | history(0.5, {decay})"
    ours = stored(text, lambda t: along(t, 1), lambda t: along(t, 2), objective="flow", times=GRID)
    mean = None
    for step, t in enumerate(GRID[:-1].tolist()):
        velocity = along(t, 2) + cfg * (along(t, 1) - along(t, 2))
        expected = velocity if mean is None else velocity + 0.5 * (velocity - mean)
        prediction = ours.at(step)(X_T, GRID[step], ours.condition)
        close(output(prediction, ours, X_T, GRID[step]), expected)
        mean = velocity if mean is None else decay * mean + (1 - decay) * velocity


def test_the_second_evaluation_of_a_step_starts_from_the_mean_before_the_step() -> None:
    ours = stored("none | history(0.5, 0.6)", lambda t: along(t, 1), along(0, 1), objective="flow", times=GRID)

    def added(step: int, i: int) -> Tensor:
        found = output(ours.at(step)(X_T, GRID[i], ours.condition), ours, X_T, GRID[i])
        return (found - along(float(GRID[i]), 1)) / 0.5

    first, second, third = (along(float(GRID[i]), 1) for i in range(3))
    close(added(0, 0), 0 * first)
    close(added(1, 1), second - first)
    close(added(1, 2), third - first)  # heun's second evaluation
    close(added(2, 2), third - (0.6 * first + 0.4 * second))
    close(added(0, 0), 0 * first)  # a new run


@pytest.mark.parametrize(("strength", "decay"), [(0.5, 0.6), (1.0, 0.0), (-0.3, 0.9)])
def test_on_gaussian_data_a_run_is_a_product_of_matrices(strength: float, decay: float) -> None:
    """There v = k z + c with k and c of the time, so that each step maps (z, m, 1) by a matrix."""
    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    start = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
    condition = Condition(3)
    denoiser = GuidedDenoiser(
        GaussianDenoiser(FLOW), f"none | history({strength}, {decay})", FLOW, condition, times=times
    )
    *_, last = Euler().frames(denoiser, start, times, FLOW, condition, no_noise)
    whole = torch.eye(3, dtype=torch.float64)
    for i, (t, after) in enumerate(pairwise(times.tolist())):
        alpha, sigma = 1 - t, t
        gain = STD**2 * alpha / (alpha**2 * STD**2 + sigma**2)  # D = MEAN + gain (z - alpha MEAN)
        k, c = (1 - gain) / sigma, -(1 - gain * alpha) * MEAN / sigma  # v = (z - D) / sigma
        of_z, of_one = (1 + strength) * k, (1 + strength) * c
        h = after - t
        begins = torch.tensor([[1 + h * k, 0, h * c], [k, 0, c], [0, 0, 1]])
        step = torch.tensor(
            [
                [1 + h * of_z, -h * strength, h * of_one],
                [(1 - decay) * k, decay, (1 - decay) * c],
                [0, 0, 1],
            ]
        )
        whole = (begins if i == 0 else step).double() @ whole
    expected = whole @ torch.cat([start.T, torch.zeros(1, 3), torch.ones(1, 3)])
    close(last.x_t.T, expected[:1], 1e-6)  # the matrices are written in single precision


def order_of(make, schedule) -> list[float]:
    """log2 of the ratios of errors on Gaussian data at 80, 160 and 320 equal steps of sigma / (alpha + sigma)."""
    errors = []
    for steps in (80, 160, 320):
        share = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        times = schedule.t_of_ratio(share / (1 - share))
        (mean, std), (end, spread) = marginal(schedule, times[0]), marginal(schedule, times[-1])
        z = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
        condition = Condition(3)
        *_, last = Euler().frames(
            make(schedule, times, condition), mean + std * z, times, schedule, condition, no_noise
        )
        errors.append(float((last.x_t - (end + spread * z)).abs().max()))
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("schedule", [FLOW, VPCosine(), VE()], ids=["flow", "cosine", "ve"])
def test_half_of_the_last_change_makes_euler_second_order(schedule) -> None:
    """It then is the two-step method of Adams and Bashforth, v + (v - v_before) / 2."""

    def momentum(text: str):
        return lambda schedule, times, condition: GuidedDenoiser(
            GaussianDenoiser(schedule), text, schedule, condition, times=times
        )

    assert order_of(momentum("none | history(0.5, 0)"), schedule) == pytest.approx([2, 2], abs=0.1)
    assert order_of(momentum("none | history(0)"), schedule) == pytest.approx([1, 1], abs=0.1)
    assert order_of(momentum("none | history(0.5, 0.6)"), schedule) == pytest.approx([1, 1], abs=0.15)


class OfX0:
    """The last change of x0 in place of that of the velocity."""

    def __init__(self, schedule, times, condition) -> None:
        self.exact = GaussianDenoiser(schedule)
        self.before: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = self.exact(x_t, t, condition).x0
        moved = x0 if self.before is None else x0 + 0.5 * (x0 - self.before)
        self.before = x0
        return Prediction.from_x0(moved, x_t, *self.exact.schedule.alpha_sigma(t))


def test_the_change_of_x0_is_that_of_the_velocity_to_first_order_and_not_the_same() -> None:
    """On a flow dv = -dx0 / sigma along a run: both make Euler second order, and differ by the square of a step."""
    assert order_of(OfX0, FLOW) == pytest.approx([2, 2], abs=0.15)
    gaps = []
    for steps in (40, 80, 160):
        times, condition = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64), Condition(1)
        start = torch.ones(1, 1, dtype=torch.float64)
        ours = GuidedDenoiser(GaussianDenoiser(FLOW), "none | history(0.5, 0)", FLOW, condition, times=times)
        *_, a = Euler().frames(ours, start, times, FLOW, condition, no_noise)
        *_, b = Euler().frames(OfX0(FLOW, times, condition), start, times, FLOW, condition, no_noise)
        gaps.append(float((a.x_t - b.x_t).abs()))
    assert [math.log2(coarse / fine) for coarse, fine in pairwise(gaps)] == pytest.approx([2, 2], abs=0.15)


def test_on_the_mixture_euler_with_it_is_adams_bashforth_under_guidance() -> None:
    """A loop of its own over v = eps - x0 of the closed form of guidance."""
    model, times = toy_model(MIXTURE, FLOW), torch.linspace(0.95, 0.05, 21, dtype=torch.float64)
    start, labels = points(FLOW, times[0]), torch.tensor(SPECS)
    denoiser = guided("cfg(2) | history(0.5, 0)", model=model, times=times)
    *_, last = Euler().frames(denoiser, start, times, FLOW, denoiser.condition, no_noise)
    z, before = start, None
    for t, after in pairwise(times):
        x0 = MIXTURE.guided_denoise(z, 1 - t, t, labels, 2.0)
        velocity = (z - x0) / t
        slope = velocity if before is None else 1.5 * velocity - 0.5 * before
        z, before = z + (after - t) * slope, velocity
    close(last.x_t, z, 1e-10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfg(2) | history([1, 2])", "history: expected strength to be one number or a schedule, got one per sample"),
        ('cfg(2) | history("a")', "history: expected scale to be a finite number"),
        ("cfg(2) | history(0.5, 1)", r"history: expected decay in \[0, 1\), such as 0.6, got 1"),
        ("cfg(2) | history(0.5, decay=-0.1)", "history: expected decay in"),
        ("cfg(2) + history(0.5)", r"'\+' adds guidance terms or rewards, got cfg\(2\) \+ history\(0.5\)"),
        ("history(0.5)", r"is a finisher alone; write none \| history\(0.5\)"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
