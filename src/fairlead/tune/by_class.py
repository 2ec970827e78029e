"""The best scale of each class, from settings that were measured on common seeds with all classes together.

Each class is asked by itself: its images at every scale against its own real images, on the seeds that fell to it. One
class has mostly too few images for a distance of all features, so the distance is that of the directions in which its
real images vary most, so many that each has four images; with four times the features it is that of all. (All classes
in one distance, with one of them at another scale, would need fewer images and answer another question: a class that is
too narrow is made up for by another that is too wide.)

Which measured scales can be the best of a class is found as in multiple comparisons with the best (Hsu 1984): those
that are not worse than the lowest by more than so many paired standard errors as hold for all comparisons of all
classes together (Bonferroni, one-sided, Student's t for the images of the class). If the classes had one best scale in
common, it would be among those of every class with at least the probability ``level``; where no scale is, the classes
differ surely. A constraint takes a scale from a class where the class surely breaks it, and is a reason against others
where it surely holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments
from fairlead.measure.metrics import PER_FEATURE, Estimate
from fairlead.tune.class_scales import LEAST, ByClass, ClassScale
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import DISTANCE, Batch, Goal, Measurement
from fairlead.tune.recommend import alike, lowest


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that samples are asked for.

    Attributes:
        names: by their labels.
        features: [m, d], of the real images; None where no distance is asked for.
        labels: int64 [m], theirs.
    """

    names: Sequence[str]
    features: Tensor | None = None
    labels: Tensor | None = None

    __repr__ = brief


def scales_by_class(
    points: Sequence[Measurement],
    common: Measurement,
    asked: Classes,
    objective: Goal,
    constraints: Sequence[Constraint] = (),
    level: float = 0.95,
) -> ByClass:
    """What measured settings of one knob say of each class.

    Args:
        points: settings of one knob on common seeds, with labels.
        common: of these the one that is recommended for all classes.
        asked: the classes.
        objective: what is to be low, or high.
        constraints: that the images of a class must satisfy.
        level: of all intervals together.

    Raises:
        UsageError: where there are no two settings, or no two classes of ``LEAST`` images.
    """
    labels = common.batch.labels
    if labels is None or len(points) < 2:
        raise UsageError(
            f"by class: expected at least two scales, with the classes of their images, got {len(points)}; give more"
        )
    names = asked.names
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    chosen = [label for label, count in enumerate(counts) if count >= LEAST]
    if len(chosen) < 2:
        raise UsageError(
            f"by class: {len(chosen)} of {len(names)} classes have {LEAST} images or more a setting; expected two, "
            "measure more images"
        )
    comparisons = len(chosen) * (len(points) - 1) * (1 + len(constraints))
    distances = objective.metric == DISTANCE or any(rule.metric == DISTANCE for rule in constraints)
    classes, possible = [], []
    for label in chosen:
        real = asked.features[asked.labels == label] if distances and asked.features is not None else None
        own = _of_class(points, label, real)
        best, near = _best(own, objective, constraints, errors_for(level, comparisons, min(one.n for one in own) - 1))
        scales = {one.setting[0] for one in near}
        possible.append(scales)
        stays = next((one for one in own if one.setting == common.setting), best)
        loss = objective.of([best, stays]).difference(0, 1)
        gain = Estimate(-loss.value if objective.maximise else loss.value, loss.error, loss.n)
        classes.append(
            ClassScale(
                names[label], counts[label], best.setting[0], min(scales), max(scales), gain,
                common.setting[0] in scales,
            )
        )  # fmt: skip
    few = [names[label] for label, count in enumerate(counts) if 0 < count < LEAST]
    return ByClass(
        common.setting[0], objective.metric, tuple(classes), tuple(sorted(set.intersection(*possible))), len(points),
        comparisons, level, tuple(few),
    )  # fmt: skip


def errors_for(level: float, comparisons: int, degrees: int) -> float:
    """How many standard errors, one-sided, hold so many comparisons with the probability ``level`` together: the
    quantile of Student's t by its expansion about the normal one (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(1 - (1 - level) / comparisons)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _best(
    points: Sequence[Measurement], objective: Goal, constraints: Sequence[Constraint], z: float
) -> tuple[Measurement, list[Measurement]]:
    """(the one of lowest loss among those that satisfy the constraints by their estimates, those that can be it)"""
    open_ = [one for one in points if not any(rule.hopeless(one, z) for rule in constraints)] or list(points)
    allowed = [one for one in open_ if all(rule.feasible(one) for rule in constraints)] or open_
    sure = [one for one in open_ if all(rule.surely(one, z) for rule in constraints)]
    near = alike(lowest(sure, objective, z), open_, objective, z) if sure else open_
    best = lowest(allowed, objective, z)
    return best, near if best in near else [*near, best]


def _of_class(points: Sequence[Measurement], label: int, real: Tensor | None) -> list[Measurement]:
    """The images of one class at every setting that has ``LEAST`` of them; ``real``: features of its real images."""
    rows = [(one, (one.batch.labels == label).nonzero()[:, 0]) for one in points if one.batch.labels is not None]
    rows = [(one, mine) for one, mine in rows if len(mine) >= LEAST]
    directions, reference = None, None
    if real is not None:
        features = real.double()
        count = max(1, min(features.shape[1], min(len(features), *(len(mine) for _, mine in rows)) // PER_FEATURE))
        centred = features - features.mean(dim=0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]
        reference = Moments.of(features @ directions)
    found = []
    for one, mine in rows:
        own = one.batch.features[mine].double()
        batch = Batch(
            own if directions is None else own @ directions,
            {name: value[mine] for name, value in one.batch.values.items()},
            one.rows * len(mine),
        )
        found.append(Measurement(one.setting, range(len(mine)), batch, reference))
    return found
