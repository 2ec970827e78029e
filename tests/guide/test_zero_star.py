"""CFG-Zero*: a rescaled unconditional velocity, and no velocity at first."""

import pytest
import torch
from diffusers.guiders import ClassifierFreeZeroStarGuidance

from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow, VPCosine
from fairlead.guide.expression import parse
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.methods.zero_star import ZeroStar
from fairlead.guide.per_sample import dot
from fairlead.guide.step import Grid, Step
from fairlead.models.toy import toy_model
from fairlead.sample.euler import Euler
from fairlead.sample.grids import trailing
from tests.guide.stored import output, random, stored
from tests.guide.toy import LABELS, MIXTURE, N, T, call, close, exact, guided, points

FLOW = RectifiedFlow()
X_T, COND, NULL = (random(N, 3, 4, seed=seed) for seed in range(3))
GRID = trailing(FLOW, 25)


def velocities(text: str, **options):
    return stored(text, COND, NULL, objective="flow", schedule=FLOW, **options)


def test_the_velocity() -> None:
    """a v_u + w (v_c - a v_u); a v_u is the point of the line through v_u nearest to v_c."""
    denoiser = velocities("zero_star(cfg(4), zero=0)")
    prediction, cost = call(denoiser, X_T)
    nearest = dot(COND, NULL) / dot(NULL, NULL) * NULL
    close(dot(COND - nearest, NULL), torch.zeros(N, 1, 1).double())
    close(output(prediction, denoiser, X_T, T), nearest + 4 * (COND - nearest))
    assert cost.rows == 2 * N


def test_by_hand() -> None:
    """v_c = (3, 1), v_u = (2, 0): a = 1.5, and w = 3 gives (3, 0) + 3 (0, 1)."""
    cond, null = (torch.tensor([v], dtype=torch.float64) for v in ([3.0, 1.0], [2.0, 0.0]))
    denoiser = stored("zero_star(cfg(3), zero=0)", cond, null, objective="flow", schedule=FLOW, n=1)
    x_t = torch.ones(1, 2).double()
    close(output(call(denoiser, x_t)[0], denoiser, x_t, T), torch.tensor([[3.0, 3.0]]).double())


def test_an_unconditional_velocity_of_0_is_left_at_0() -> None:
    half = torch.tensor(0.5, dtype=torch.float64)  # where x0 = x_t is converted to a velocity of exactly 0
    denoiser = stored("zero_star(cfg(3), zero=0)", COND, 0 * NULL, objective="flow", schedule=FLOW)
    close(output(call(denoiser, X_T, half)[0], denoiser, X_T, half), 3 * COND)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 2.5, 7.5])
def test_the_same_as_diffusers(scale: float) -> None:
    """On velocities of a flow model, from the first step on that is not zeroed."""
    theirs = ClassifierFreeZeroStarGuidance(scale, zero_init_steps=1)
    denoiser = velocities(f"zero_star(cfg({scale}), zero=0.04)", times=GRID)
    for step in (0, 1, 24):
        theirs.set_state(step, 25, torch.tensor(0))
        prediction = denoiser.at(step)(X_T, GRID[step], denoiser.condition)
        close(output(prediction, denoiser, X_T, GRID[step]), theirs.forward(COND, NULL).pred, 1e-6)


def test_at_scale_1_it_is_off_where_diffusers_still_zeroes() -> None:
    theirs = ClassifierFreeZeroStarGuidance(1.0, zero_init_steps=1)
    theirs.set_state(0, 25, torch.tensor(0))
    assert not theirs.forward(COND, NULL).pred.any()
    denoiser = velocities("zero_star(cfg(1))", times=GRID)
    close(output(denoiser.at(0)(X_T, GRID[0], denoiser.condition), denoiser, X_T, GRID[0]), COND)


@pytest.mark.parametrize(
    ("zero", "steps", "zeroed"),
    [(0.04, 25, 1), (0.04, 50, 2), (0.04, 20, 1), (0.04, 1, 1), (0.07, 100, 7), (0, 10, 0), (0.5, 5, 3)],
)
def test_how_many_steps_are_zeroed(zero: float, steps: int, zeroed: int) -> None:
    grid = Grid.of(trailing(FLOW, steps), FLOW)
    term = parse(f"zero_star(cfg(4), zero={zero})")
    assert isinstance(term, ZeroStar)
    still = [term.still(Step(grid.times[i], grid.sigma[i], grid.log_snr[i], i, grid)) for i in range(steps)]
    assert still == [True] * zeroed + [False] * (steps - zeroed)


def test_a_step_without_velocity_costs_nothing_and_moves_nothing() -> None:
    """At t = 1 of a flow x0 = eps = x_t; Euler's first two of 50 steps leave x where it is."""
    times = trailing(FLOW, 50)
    denoiser, start = guided("zero_star(cfg(4))", model=toy_model(MIXTURE, FLOW), times=times), points(FLOW, times[0])
    with counting() as cost:
        frames = Euler().frames(denoiser, start, times, FLOW, denoiser.condition, None)  # type: ignore[arg-type]
        first, second = next(frames), next(frames)
        assert cost.rows == 0
        next(frames)
        assert cost.rows == 2 * N
    close(first.prediction.x0, start, 1e-12)
    close(first.prediction.eps, start, 1e-12)
    close(second.x_t, start, 1e-12)


def test_only_samples_that_are_guided_are_zeroed() -> None:
    denoiser = velocities("zero_star(cfg([4, 1, 0, 2, 1]))", times=GRID)
    with counting() as cost:
        prediction = denoiser.at(0)(X_T, GRID[0], denoiser.condition)
    on = torch.tensor([True, False, True, True, False])[:, None, None]
    close(output(prediction, denoiser, X_T, GRID[0]), torch.where(on, 0 * COND, COND))
    assert cost.rows == 2


def test_other_schedules_are_converted_to_the_same_flow() -> None:
    """x_t = alpha x0 + sigma eps is alpha + sigma times the point tau = sigma / (alpha + sigma) of a flow."""
    schedule = VPCosine()
    alpha, sigma = schedule.alpha_sigma(T)
    tau = sigma / (alpha + sigma)
    text = "zero_star(cfg(4), zero=0)"
    vp, flow = stored(text, COND, NULL, schedule=schedule), stored(text, COND, NULL, schedule=FLOW)
    close(call(vp, X_T)[0].x0, call(flow, X_T / (alpha + sigma), tau)[0].x0)
    x_t, t = points(schedule), T
    v_c, v_u = (
        (x_t - (alpha + sigma) * x0) / sigma for x0 in (exact(x_t, LABELS, t, schedule), exact(x_t, None, t, schedule))
    )
    nearest = dot(v_c, v_u) / dot(v_u, v_u) * v_u
    expected = (x_t - sigma * (nearest + 4 * (v_c - nearest))) / (alpha + sigma)
    close(call(guided(text, model=toy_model(MIXTURE, schedule)), x_t)[0].x0, expected)
    resting = stored("zero_star(cfg(4))", COND, NULL, schedule=schedule, times=trailing(schedule, 25))
    prediction = resting.at(0)(X_T, T, resting.condition)
    close(prediction.x0, X_T / (alpha + sigma))
    close(prediction.eps, prediction.x0)


def test_in_an_interval() -> None:
    """Where the method inside or around is off, nothing is zeroed."""
    for text in ("zero_star(cfg(4).during(t=(0, 0.5)))", "zero_star(cfg(4)).during(t=(0, 0.5))"):
        denoiser = velocities(text, times=GRID)
        prediction = denoiser.at(0)(X_T, GRID[0], denoiser.condition)
        close(output(prediction, denoiser, X_T, GRID[0]), COND)


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"needs the sampler's grid: sample with fl\.sample, or use zero=0"):
        call(velocities("zero_star(cfg(4))"), X_T)
    with pytest.raises(UsageError, match=r"a share of the steps in \[0, 1\), got 1"):
        parse("zero_star(cfg(4), zero=1)")


def test_a_sample_without_a_condition_rests_too() -> None:
    """So alone it is what it was among others, and its provenance names the method; ``zero=0`` does nothing to it."""
    denoiser = velocities("zero_star(cfg(4))", times=GRID, conditioned=[True, False, True, True, True])
    close(output(denoiser.at(0)(X_T, GRID[0], denoiser.condition), denoiser, X_T, GRID[0]), 0 * COND)
    assert not ZeroStar(CFG(4)).needs_condition()
    assert ZeroStar(CFG(4), zero=0).needs_condition()
