"""Samplers that are the same method give the same numbers; starts at alpha = 0 give the closed form."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.prediction import Prediction
from fairlead.core.registry import names
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.sample.ddim import DDIM
from fairlead.sample.ddpm import DDPM
from fairlead.sample.dpmpp import DPMpp2M, DPMpp2MSDE
from fairlead.sample.euler import Euler
from fairlead.sample.grids import make_grid, trailing
from fairlead.sample.heun import Heun
from fairlead.sample.noise import NoiseStream
from fairlead.sample.sampler import parse_sampler
from tests.sample.gaussian import ENDING_IN_PURE_NOISE, MEAN, GaussianDenoiser, no_noise, run

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE(), **ENDING_IN_PURE_NOISE}
STREAM = NoiseStream((3, 1, 4), (2, 5))


class BumpyDenoiser:
    """Any nonlinear x0, tied to eps by x_t."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = self.schedule.alpha_sigma(t)
        return Prediction.from_x0(torch.tanh(2 * x_t.sin() + t + x_t.roll(1, -1)), x_t, alpha, sigma)


@dataclass(frozen=True)
class UntiedDenoiser:
    """An x0 and an eps that x_t does not tie, as CFG++ makes them."""

    schedule: object

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return Prediction(torch.tanh(x_t), torch.cos(3 * x_t + t))


def start(schedule: NoiseSchedule) -> Tensor:
    return STREAM.start().double() * schedule.alpha_sigma(torch.ones(()))[1]


def states(sampler, schedule, denoiser_type=BumpyDenoiser, steps: int = 12) -> Tensor:
    frames = run(sampler, denoiser_type(schedule), start(schedule), trailing(schedule, steps), schedule, STREAM)
    return torch.stack([frame.x_t for frame in frames])


@pytest.mark.parametrize("label", SCHEDULES)
def test_euler_in_the_straight_variable_is_ddim(label: str) -> None:
    ddim = states(DDIM(), SCHEDULES[label])
    torch.testing.assert_close(states(Euler(), SCHEDULES[label]), ddim, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("label", SCHEDULES)
def test_ddim_with_eta_one_is_ddpm(label: str) -> None:
    ddpm = states(DDPM(), SCHEDULES[label])
    torch.testing.assert_close(states(DDIM(eta=1), SCHEDULES[label]), ddpm, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize(("multistep", "single"), [(DPMpp2M(), DDIM()), (DPMpp2MSDE(), DDIM(eta=1))])
@pytest.mark.parametrize("denoiser_type", [BumpyDenoiser, UntiedDenoiser])
def test_dpmpp_starts_as_ddim_even_when_eps_is_untied(multistep, single, denoiser_type, label: str) -> None:
    schedule = SCHEDULES[label]
    first = states(multistep, schedule, denoiser_type)[0]
    torch.testing.assert_close(first, states(single, schedule, denoiser_type)[0], rtol=1e-12, atol=1e-12)


def test_ddim_noise_is_equation_16() -> None:
    """sigma(eta) = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a') of 2010.02502: the answer to a unit noise impulse."""
    schedule, times = vp_linear(), torch.tensor([0.8, 0.3], dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    still, moved = (
        run(DDIM(eta=0.6), BumpyDenoiser(schedule), zero, times, schedule, lambda _, z=z: zero + z)[-1].x_t
        for z in (0, 1)
    )
    abar = schedule.alpha_sigma(times)[0] ** 2
    expected = 0.6 * ((1 - abar[1]) / (1 - abar[0])).sqrt() * (1 - abar[0] / abar[1]).sqrt()
    assert float(moved - still) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("name", names("sampler"))
@pytest.mark.parametrize("label", SCHEDULES)
def test_a_full_grid_ends_at_the_x0_of_the_last_prediction(name: str, label: str) -> None:
    schedule = SCHEDULES[label]
    for steps in (1, 2, 7):
        times = trailing(schedule, steps)
        frames = run(parse_sampler(name), BumpyDenoiser(schedule), start(schedule), times, schedule, STREAM)
        assert [frame.t for frame in frames] == times[1:].tolist()
        assert [(frame.step, frame.steps) for frame in frames] == [(i, steps) for i in range(steps)]
        torch.testing.assert_close(frames[-1].x_t, frames[-1].prediction.x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m"])
def test_the_last_step_returns_x0_even_when_eps_is_untied(name: str) -> None:
    schedule = vp_linear()
    times = trailing(schedule, 5)
    last = run(parse_sampler(name), UntiedDenoiser(schedule), start(schedule), times, schedule, STREAM)[-1]
    torch.testing.assert_close(last.x_t, last.prediction.x0, rtol=0, atol=0)


def test_evaluations() -> None:
    """One per step; Heun two but for the last, and its corrector sits at the end of the step."""
    schedule = vp_linear()
    times = trailing(schedule, 9)
    for name in names("sampler"):
        denoiser = GaussianDenoiser(schedule)
        run(parse_sampler(name), denoiser, start(schedule), times, schedule, STREAM)
        visited = times[:-1].tolist()
        if name == "heun":
            visited = [t for pair in zip(times[:-1].tolist(), times[1:].tolist(), strict=True) for t in pair][:-1]
            assert len(visited) == 2 * 9 - 1
        assert denoiser.asked == visited


@dataclass(frozen=True)
class SteppedDenoiser:
    """Records the step of every evaluation."""

    inner: GaussianDenoiser
    seen: list[int] = field(default_factory=list)
    step: int = -1

    def at(self, step: int) -> "SteppedDenoiser":
        return SteppedDenoiser(self.inner, self.seen, step)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        self.seen.append(self.step)
        return self.inner(x_t, t, condition)


@pytest.mark.parametrize("name", names("sampler"))
def test_each_evaluation_is_told_its_step(name: str) -> None:
    schedule = RectifiedFlow()
    denoiser = SteppedDenoiser(GaussianDenoiser(schedule))
    run(parse_sampler(name), denoiser, start(schedule), trailing(schedule, 4), schedule, STREAM)
    assert denoiser.seen == ([0, 0, 1, 1, 2, 2, 3] if name == "heun" else [0, 1, 2, 3])


@pytest.mark.parametrize("name", names("sampler"))
def test_noise_is_drawn_once_per_step_and_only_by_stochastic_samplers(name: str) -> None:
    schedule, sampler, drawn = vp_linear(), parse_sampler(name), []

    def noise(step: int) -> Tensor:
        drawn.append(step)
        return STREAM(step)

    run(sampler, BumpyDenoiser(schedule), start(schedule), trailing(schedule, 4), schedule, noise)
    assert drawn == ([0, 1, 2, 3] if sampler.stochastic else [])


@pytest.mark.parametrize("name", names("sampler"))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_batch_permutes_and_runs_repeat(name: str, dtype: torch.dtype) -> None:
    schedule, sampler, order = vp_linear(), parse_sampler(name), [2, 0, 1]
    times = trailing(schedule, 6)
    shuffled = NoiseStream(tuple(STREAM.seeds[i] for i in order), STREAM.shape)
    x_t = start(schedule).to(dtype)

    def end(x_t: Tensor, noise) -> Tensor:
        return run(sampler, BumpyDenoiser(schedule), x_t, times, schedule, noise)[-1].x_t

    once = end(x_t, STREAM)
    assert once.dtype == dtype
    assert torch.equal(once, end(x_t, STREAM))
    assert torch.equal(once[order], end(x_t[order], shuffled))


@pytest.mark.parametrize("label", ENDING_IN_PURE_NOISE)
@pytest.mark.parametrize("name", names("sampler"))
def test_first_step_from_pure_noise_is_the_closed_form(name: str, label: str) -> None:
    """At alpha = 0 the posterior mean is m and eps is x: DDIM goes to alpha' m + sigma' x, ancestral steps to
    alpha' m + sigma' z, and Heun averages two slopes of the straight variable."""
    schedule, sampler = ENDING_IN_PURE_NOISE[label], parse_sampler(name)
    times, x = trailing(schedule, 5), STREAM.start().double()
    frames = run(sampler, GaussianDenoiser(schedule), x, times, schedule, STREAM)
    alpha, sigma = (float(value) for value in schedule.alpha_sigma(times[1]))
    expected = alpha * MEAN + sigma * (STREAM(0).double() if sampler.stochastic else x)
    if sampler == Heun():
        predicted = GaussianDenoiser(schedule)(expected, times[1], Condition(len(x)))
        slope = ((x - MEAN) + (predicted.eps - predicted.x0)) / 2
        expected = (alpha + sigma) * (x + (sigma / (alpha + sigma) - 1) * slope)
    torch.testing.assert_close(frames[0].x_t, expected, rtol=1e-12, atol=1e-12)
    assert all(bool(frame.x_t.isfinite().all()) for frame in frames)


@pytest.mark.parametrize("grid", names("grid"))
@pytest.mark.parametrize("name", names("sampler"))
@pytest.mark.parametrize("label", SCHEDULES)
def test_every_sampler_runs_finite_on_every_grid_and_schedule(name: str, grid: str, label: str) -> None:
    schedule = SCHEDULES[label]
    times = make_grid(grid, schedule, 6)
    x_t = STREAM.start().double() * schedule.alpha_sigma(times[0])[1]
    frames = run(parse_sampler(name), GaussianDenoiser(schedule), x_t, times, schedule, STREAM)
    assert all(bool(frame.x_t.isfinite().all()) for frame in frames)


def test_a_deterministic_sampler_never_asks_for_noise() -> None:
    """``ddim`` with eta 0 too: its stream may be absent."""
    schedule = vp_linear()
    assert not DDIM().stochastic
    assert DDIM(eta=0.1).stochastic
    run(DDIM(), BumpyDenoiser(schedule), start(schedule), trailing(schedule, 3), schedule, no_noise)
