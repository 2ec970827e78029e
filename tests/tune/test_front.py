"""The front by hand: means of known samples, paired or not."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.tune.front import front, sweep_front
from fairlead.tune.measurements import DISTANCE, ROWS, Batch, Goal, Measurement
from fairlead.tune.setting import Setting, all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Shared, Sweep
from tests.tune.exact import REFERENCE
from tests.tune.made import evaluator, model

N = 100
NOISE = torch.linspace(-1, 1, N, dtype=torch.float64) * 10
OTHER = NOISE.flip(0)
LOW, HIGH = Goal("low"), Goal("high", maximise=True)


def point(low, high, noise=NOISE, rows=1.0):
    return Measurement(
        (0.0,), range(N), Batch(torch.zeros(N, 1), {"low": low + noise, "high": high + noise}, rows * N), REFERENCE
    )


def dominated(*points, objectives=(LOW, HIGH), z=2.0):
    return [standing.dominated_by for standing in front(points, objectives, z)]


def test_a_setting_that_is_worse_in_everything_is_dominated_by_all_that_beat_it():
    # noise of +-10 is common and cancels: differences of 0.1 are exact
    a, b, worse, worst = point(1, 5), point(2, 6), point(2.1, 4.9), point(3, 4)
    assert dominated(a, b, worse, worst) == [(), (), (0, 1), (0, 1, 2)]
    assert [s.on_front for s in front([a, b, worse], (LOW, HIGH))] == [True, True, False]


def test_being_worse_in_one_objective_or_equal_in_all_dominates_nothing():
    assert dominated(point(1, 5), point(2, 6)) == [(), ()]
    assert dominated(point(1, 5), point(1, 5)) == [(), ()]
    assert dominated(point(1, 5), point(1, 4)) == [(), (0,)]  # no worse in the one, surely better in the other


def test_what_noise_could_have_done_keeps_a_setting_on_the_front():
    error = float((NOISE - OTHER).std()) / 10  # 1.17
    near, far = point(1 + 1.9 * error, 5 - 3 * error, OTHER), point(1 + 2.1 * error, 5 - 3 * error, OTHER)
    assert dominated(point(1, 5), near) == [(), ()]
    assert dominated(point(1, 5), far) == [(), (0,)]
    assert dominated(point(1, 5), far, z=2.2) == [(), ()]


def test_of_equal_settings_the_cheaper_one_dominates_and_of_equal_cost_the_better_one():
    objectives = (LOW, Goal(ROWS))
    assert dominated(point(1, 0, rows=2), point(1, 0, rows=1), objectives=objectives) == [(1,), ()]
    assert dominated(point(1, 0, rows=2), point(2, 0, rows=2), objectives=objectives) == [(), (0,)]
    assert dominated(point(1, 0, rows=2), point(2, 0, rows=1), objectives=objectives) == [(), ()]


def test_values_are_told_as_they_are():
    (standing,) = front([point(1, 5)], (LOW, HIGH))
    assert [value.value for value in standing.values] == pytest.approx([1, 5])
    with pytest.raises(UsageError, match="got 0 and 1"):
        front([], [LOW])


def test_the_front_of_a_sweep_is_that_of_its_stored_samples(tmp_path):
    """By hand from the table: distances and accuracies of the tiny sweep, paired, at equal or fewer rows."""
    settings = all_settings(["runs/a"], ["none", "cfg(2)", "cfg(4)"], ["ddim"], [2])
    folder = SweepFolder(tmp_path)
    list(Sweep(settings, Shared(n=30, batch_size=15), model).measure(folder, evaluator()))
    _, points = folder.read()
    beaten = sweep_front(folder, points)
    assert list(beaten) == settings
    for one in points:
        for other in points:
            change = folder.compare(other.setting, one.setting)
            accuracy, cheaper = change["accuracy"], other.rows_per_image <= one.rows_per_image
            sure = accuracy.value > 1.96 * accuracy.error or accuracy.value == accuracy.error == 0
            moments = [
                Measurement((), range(30), Batch(s.features, s.values, labels=s.labels), s.reference)
                for s in (folder.samples(folder.key(point.setting)) for point in (other, one))
            ]
            distance = Goal(DISTANCE).of(moments).difference(0, 1)
            nearer = distance.value < -1.96 * distance.error
            assert (other.setting in beaten[one.setting]) == (other is not one and sure and nearer and cheaper)
    with pytest.raises(UsageError, match="not among its settings"):
        folder.key(Setting("runs/b", "none"))
