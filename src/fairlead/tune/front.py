"""The settings that no other beats in everything: the front of several objectives, with error bars."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fairlead.core.errors import UsageError
from fairlead.measure.agreement import adherence_of
from fairlead.measure.metrics import Estimate
from fairlead.tune.measurements import DISTANCE, ROWS, Batch, Goal, Measurement, Values
from fairlead.tune.setting import Point, Setting
from fairlead.tune.sweep_folder import SweepFolder


def swept(metrics: Collection[str]) -> tuple[Goal, ...]:
    """What the settings of a sweep are to be good at, all at once: distance (if measured), adherence, few rows."""
    near = (Goal(DISTANCE),) if DISTANCE in metrics else ()
    return *near, Goal(adherence_of(metrics), maximise=True), Goal(ROWS)


@dataclass(frozen=True, eq=False)
class Standing:
    """How one setting stands among the others.

    Attributes:
        one: the setting.
        values: each objective's estimate, in the order of the objectives, not turned round where it is maximised.
        dominated_by: the settings that beat it, as positions in what was given; empty on the front.
    """

    one: Measurement
    values: tuple[Estimate, ...]
    dominated_by: tuple[int, ...]

    @property
    def on_front(self) -> bool:
        return not self.dominated_by


def front(points: Sequence[Measurement], objectives: Sequence[Goal], z: float = 1.96) -> list[Standing]:
    """The standing of every point, in the order given.

    A point is dominated by another that is better in every objective by more than ``z`` paired standard errors, on the
    seeds that both have. In an objective without any error between the two (rows, or equal samples) the other must be
    no worse; in one at least it must be better. So noise only ever keeps points on the front.

    Raises:
        UsageError: without points or objectives, or for a metric that was not measured.
    """
    if not points or not objectives:
        raise UsageError(f"front: expected points and objectives, got {len(points)} and {len(objectives)}; give both")
    standings = []
    for one in points:
        beaten = tuple(i for i, other in enumerate(points) if other is not one and _beats(other, one, objectives, z))
        values = tuple(one.estimate(objective.metric) for objective in objectives)
        standings.append(Standing(one, values, beaten))
    return standings


def sweep_front(folder: SweepFolder, points: Sequence[Point]) -> dict[Setting, tuple[Setting, ...]]:
    """Each setting of a sweep, and those that beat it in all of :func:`swept`: none for the settings of the front.

    All settings of a sweep have the same seeds and labels, so every comparison is paired, from the stored samples.

    Raises:
        UsageError: if stored samples are missing or damaged.
    """
    measured = [stored_measurement(folder, point) for point in points]
    objectives = swept(set.intersection(*(set(point.score.metrics) for point in points)))
    return {
        point.setting: tuple(points[i].setting for i in standing.dominated_by)
        for point, standing in zip(points, front(measured, objectives), strict=True)
    }


def stored_measurement(folder: SweepFolder, point: Point, setting: Values = ()) -> Measurement:
    """What a sweep keeps of one setting.

    Raises:
        UsageError: if it is missing or damaged.
    """
    samples = folder.samples(folder.key(point.setting))
    n = len(samples.labels)
    batch = Batch(samples.features, samples.values, point.rows_per_image * n, samples.labels)
    return Measurement(setting, range(n), batch, samples.reference)


def _beats(a: Measurement, b: Measurement, objectives: Sequence[Goal], z: float) -> bool:
    better = False
    for objective in objectives:
        difference = objective.of([a, b]).difference(0, 1)
        if difference.error > 0 and not difference.value < -z * difference.error:
            return False
        if difference.value > 0:
            return False
        better = better or difference.value < 0
    return better
