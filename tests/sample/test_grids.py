"""Grids land where diffusers' do, descend strictly, and end at exactly 0."""

import re

import diffusers
import numpy as np
import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear, vp_scaled_linear
from fairlead.sample.grids import karras, leading, linspace, make_grid, trailing, uniform_log_snr
from fairlead.sample.sampling import Sampling
from tests.sample.gaussian import ENDING_IN_PURE_NOISE

SCHEDULES = {
    "vp_linear": vp_linear(),
    "vp_scaled_linear": vp_scaled_linear(),
    "short table": vp_linear(50),
    "cosine": VPCosine(),
    "ve": VE(),
    **{f"{label} to zero": schedule for label, schedule in ENDING_IN_PURE_NOISE.items()},
}


def table_indices(times: torch.Tensor, size: int) -> list[int]:
    indices = times[:-1].numpy() * size - 1
    np.testing.assert_allclose(indices, indices.round(), atol=1e-9)
    return [round(index) for index in indices.tolist()]


@pytest.mark.parametrize("grid", ["trailing", "leading", "linspace"])
def test_the_times_are_those_of_diffusers_ddim(grid: str) -> None:
    """Where diffusers' own list is sound: trailing may carry one k = -1 too many (cut here), linspace with one step
    starts at k = 0 (here at T - 1)."""
    for size in (1000, 100):
        scheduler = diffusers.DDIMScheduler(num_train_timesteps=size, timestep_spacing=grid, steps_offset=0)
        for steps in {1, 2, 3, 7, 10, 20, 28, 48, 50, 61, 96, 99, 100, size // 3, size - 1, size}:
            scheduler.set_timesteps(steps)
            expected = scheduler.timesteps.tolist()
            if grid == "trailing" and len(expected) == steps + 1:
                assert expected.pop() == -1
            if grid == "linspace" and steps == 1:
                expected = [size - 1]
            assert table_indices(make_grid(grid, vp_linear(size), steps), size) == expected


def test_trailing_is_that_of_diffusers_dpm_solver() -> None:
    """Its leading and linspace spacings place N + 1 points and drop the last: other grids, not compared."""
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
    for steps in (1, 7, 20, 50, 999, 1000):
        scheduler.set_timesteps(steps)
        assert table_indices(trailing(vp_linear(), steps), 1000) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("grid", names("grid"))
def test_descending_to_exactly_zero(grid: str, label: str) -> None:
    schedule = SCHEDULES[label]
    for steps in (1, 2, 3, 7, 13, 50):
        times = make_grid(grid, schedule, steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert bool((times.diff() < 0).all())
        assert float(times[-1]) == 0.0
        assert float(times[0]) <= 1.0
        if grid != "leading":
            assert float(times[0]) == 1.0


@pytest.mark.parametrize("grid", names("grid"))
def test_every_number_of_steps_of_a_table_descends(grid: str) -> None:
    schedule = vp_linear(100)
    for steps in range(1, 101):
        times = make_grid(grid, schedule, steps)
        assert len(times) == steps + 1
        assert bool((times.diff() < 0).all())
        assert float(times[-1]) == 0.0


def test_on_a_continuous_schedule() -> None:
    flow = RectifiedFlow()
    torch.testing.assert_close(trailing(flow, 4), torch.tensor([1, 0.75, 0.5, 0.25, 0]).double())
    torch.testing.assert_close(leading(flow, 4), torch.tensor([0.751, 0.501, 0.251, 0.001, 0]).double())
    torch.testing.assert_close(linspace(flow, 4), torch.tensor([1, 0.667, 0.334, 0.001, 0]).double())
    torch.testing.assert_close(leading(flow, 2000), trailing(flow, 2000), rtol=0, atol=1e-15)


def test_karras_on_ve_is_uniform_in_time() -> None:
    """sigma = 80 t^7: t = ratio^(1/7) up to a factor, so EDM's grid is a straight line to 0.002."""
    expected = torch.linspace(1, (0.002 / 80) ** (1 / 7), 18, dtype=torch.float64)
    torch.testing.assert_close(karras(VE(), 18)[:-1], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("grid", "warp"), [(karras, lambda r: r ** (1 / 7)), (uniform_log_snr, torch.log)])
@pytest.mark.parametrize("label", SCHEDULES)
def test_levels_are_equally_spaced_between_the_documented_ends(grid, warp, label: str) -> None:
    schedule = SCHEDULES[label]
    size = schedule.table_size
    levels = schedule.ratio(grid(schedule, 12)[:-1])
    smallest = float(schedule.ratio(torch.tensor(1 / size, dtype=torch.float64))) if size else 0.002
    assert float(levels[-1]) == pytest.approx(smallest, rel=1e-9)
    if schedule.zero_terminal_snr:
        assert float(levels[0]) == torch.inf
        levels[0] = schedule.ratio(torch.tensor((size - 1) / size if size else 0.999, dtype=torch.float64))
    steps = warp(levels).diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("grid", names("grid"))
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, True])
def test_impossible_steps_on_a_table(grid: str, steps) -> None:
    message = f"steps {steps!r}: expected an integer from 1 to 1000, the steps of the schedule's table"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_grid(grid, vp_linear(), steps)


@pytest.mark.parametrize("grid", names("grid"))
def test_impossible_steps_on_a_continuous_schedule(grid: str) -> None:
    with pytest.raises(UsageError, match=r"^steps 0: expected an integer of at least 1$"):
        make_grid(grid, RectifiedFlow(), 0)
    assert len(make_grid(grid, RectifiedFlow(), 1500)) == 1501


def test_an_unknown_grid_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown grid 'trailling'; did you mean 'trailing'\? \(known: trailing, "):
        make_grid("trailling", vp_linear(), 10)


@pytest.mark.parametrize("label", SCHEDULES)
def test_sigmas_are_where_all_steps_but_the_first_begin(label: str) -> None:
    schedule, given = SCHEDULES[label], (3.4, 1.5, 0.25)
    times = make_grid("sigmas(3.4, 1.5, 0.25)", schedule, 4)
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    np.testing.assert_allclose(schedule.ratio(times[1:-1]).numpy(), given, rtol=1e-6)
    assert make_grid("sigmas()", schedule, 1).tolist() == [1.0, 0.0]


def test_sigmas_of_another_grid_are_that_grid() -> None:
    schedule = VPCosine()
    expected = trailing(schedule, 5)
    written = ", ".join(repr(float(schedule.ratio(t))) for t in expected[1:-1])
    torch.testing.assert_close(make_grid(f"sigmas({written})", schedule, 5), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "steps", "said"),
    [
        ("sigmas", 4, "grid 'sigmas' needs the noise levels; write e.g. sigmas(3.4, 1.5, 0.2) for 4 steps"),
        ("sigmas(3, 1)", 4, "grid 'sigmas(3, 1)' is for 3 steps, as the first begins at pure noise; got steps 4"),
        ("sigmas(1, 3)", 3, "grid 'sigmas(1, 3)': expected noise levels above 0, each below the one before, got 3"),
        ("sigmas(1, -3)", 3, "expected noise levels above 0, each below the one before, got -3"),
        ("sigmas(1, 1e999)", 3, "expected noise levels above 0, each below the one before, got 1e309"),
        ("sigmas(a, b)", 3, "expected noise levels above 0, each below the one before, got a"),
        ("sigmas(high=1)", 2, "grid 'sigmas(high=1)': noise levels have no names; write trailing, "),
        ("karras(3)", 2, "grid 'karras(3)': expected a name; write trailing, leading, linspace, karras, log_snr, or"),
        ("sigmas(1", 2, "grid 'sigmas(1' is not an expression"),
    ],
)
def test_other_grids_are_refused_before_anything_runs(text: str, steps: int, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Sampling(steps=steps, grid=text)


def test_a_noise_level_that_the_schedule_does_not_reach() -> None:
    with pytest.raises(UsageError, match=r"grid 'sigmas\(200, 1\)': the schedule begins at 157\.4\d*; expected"):
        make_grid("sigmas(200, 1)", vp_linear(), 3)
