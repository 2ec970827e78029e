"""Schedules of the scale, by hand."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow, vp_linear
from fairlead.guide.scales import Clamp, Ramp, ScaleSchedule, as_scale, scale_at
from fairlead.guide.step import Grid, Step
from fairlead.sample.grids import trailing


def at(t: float) -> Step:
    """A step without a grid; sigma and log-SNR of the flow schedule."""
    time = torch.tensor(t, dtype=torch.float64)
    return Step(t, float(RectifiedFlow().ratio(time)), float(RectifiedFlow().log_snr(time)))


def steps(count: int, schedule=None) -> list[Step]:
    schedule = schedule or RectifiedFlow()
    grid = Grid.of(trailing(schedule, count), schedule)
    return [Step(grid.times[i], grid.sigma[i], grid.log_snr[i], i, grid) for i in range(count)]


@pytest.mark.parametrize(
    ("ramp", "values"),
    [  # at t = 1, 3/4, 1/2, 1/4, 0
        (Ramp(1, 5), [1, 2, 3, 4, 5]),
        (Ramp(5, 1), [5, 4, 3, 2, 1]),
        (Ramp(1, 5, "cosine"), [1, 3 - math.sqrt(2), 3, 3 + math.sqrt(2), 5]),
        (Ramp(1, 5, "step"), [1, 1, 5, 5, 5]),
        (Ramp(1, 5, power=2), [1, 1.25, 2, 3.25, 5]),
        (Ramp(0, 1, "cosine", power=2), [(1 - math.cos(math.pi * u * u)) / 2 for u in (0, 0.25, 0.5, 0.75, 1)]),
        (Ramp(1, 5, power=0.5), [1, 3, 1 + 4 * math.sqrt(0.5), 1 + 4 * math.sqrt(0.75), 5]),
        (Clamp(Ramp(1, 5), low=2.5), [2.5, 2.5, 3, 4, 5]),
        (Clamp(Ramp(1, 5), high=3.5), [1, 2, 3, 3.5, 3.5]),
        (Clamp(Ramp(1, 5), low=2, high=4), [2, 2, 3, 4, 4]),
        (Clamp(Clamp(Ramp(1, 5), low=2), high=3), [2, 2, 3, 3, 3]),
    ],
)
def test_by_t(ramp: ScaleSchedule, values: list[float]) -> None:
    assert [ramp.value(at(t)) for t in (1, 0.75, 0.5, 0.25, 0)] == pytest.approx(values, abs=1e-12)


def test_by_progress_is_the_share_of_the_steps() -> None:
    values = [Ramp(0, 6, by="progress").value(step) for step in steps(4)]
    assert values == pytest.approx([0, 2, 4, 6])


@pytest.mark.parametrize("schedule", [vp_linear(), RectifiedFlow()])
def test_by_log_snr_is_linear_between_the_finite_ends_of_the_grid(schedule) -> None:
    here = steps(5, schedule)
    levels = [step.log_snr for step in here]
    first = levels[0] if levels[0] > -math.inf else levels[1]
    expected = [max(0.0, (level - first) / (levels[-1] - first)) for level in levels]
    assert [Ramp(0, 1, by="log_snr").value(step) for step in here] == pytest.approx(expected, abs=1e-12)
    assert expected[0] == 0
    assert expected[-1] == 1


@pytest.mark.parametrize("schedule", [vp_linear(), RectifiedFlow()])
@pytest.mark.parametrize("by", ["log_snr", "progress"])
def test_short_runs(schedule, by: str) -> None:
    """Two steps on a flow have one finite log-SNR; one step has no progress to make."""
    assert [Ramp(2, 7, by=by).value(step) for step in steps(2, schedule)] == [2, 7]
    assert [Ramp(2, 7, by=by).value(step) for step in steps(1, schedule)] == [2]


def test_the_grid_names_the_step_that_passes_a_time() -> None:
    grid = Grid.of(trailing(RectifiedFlow(), 4), RectifiedFlow())
    assert [grid.index(t) for t in (1.0, 0.76, 0.75, 0.6, 0.5, 0.25, 0.1, 0.0)] == [0, 0, 1, 1, 2, 3, 3, 3]
    assert grid.steps == 4
    assert grid.sigma == pytest.approx([math.inf, 3, 1, 1 / 3, 0])


def test_a_scale_may_be_a_number_one_a_sample_or_a_schedule() -> None:
    step = Step(0.5, 1.0, 0.0, samples=(3, 1))
    assert scale_at(as_scale("x", 3), step) == 3.0
    assert scale_at(as_scale("x", Ramp(1, 5)), step) == 3.0
    for given in ([1, 2, 3, 4], (1, 2, 3, 4), torch.tensor([1, 2, 3, 4])):
        assert torch.equal(torch.as_tensor(scale_at(as_scale("x", given), step)), torch.tensor([4.0, 2.0]).double())
    assert as_scale("x", torch.tensor(2.5)) == 2.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_scale("cfg", "4"), "cfg: expected scale to be a finite number or a schedule .* got '4'"),
        (lambda: as_scale("cfg", True), "got True"),
        (lambda: as_scale("cfg", torch.tensor([True])), "got True"),
        (lambda: as_scale("cfg", math.nan), "got nan"),
        (lambda: as_scale("cfg", 1e200), "cfg: expected scale between -1e6 and 1e6, got 1e.200"),
        (lambda: as_scale("cfg", [1, math.inf]), "got inf"),
        (lambda: as_scale("cfg", 10**400), "finite number"),
        (lambda: as_scale("cfg", []), "needs at least one number"),
        (lambda: as_scale("cfg", [[1]]), r"got \[1\]"),
        (lambda: as_scale("cfg", None), "got None"),
        (lambda: Ramp(1, math.inf), "ramp: expected end to be a finite number"),
        (lambda: Ramp(1, 2, "sinus"), r"unknown ramp shape 'sinus'.*\(known: linear, cosine, step\)"),
        (lambda: Ramp(1, 2, by="sigma"), r"unknown ramp unit 'sigma' \(known: t, log_snr, progress\)"),
        (lambda: Ramp(1, 2, power=0), "power > 0"),
        (lambda: Clamp(3), "clamp: expected a schedule such as"),  # type: ignore[arg-type]
        (lambda: Clamp(Ramp(1, 2)), "expected low, high or both"),
        (lambda: Clamp(Ramp(1, 2), 3, 2), "low 3 is above high 2"),
        (lambda: Clamp(Ramp(1, 2), low=math.nan), "clamp: expected low to be a finite number"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
