"""Which scale suits each class, of a sweep: SWEEP/by_class.json, beside its other files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from fairlead.core.errors import UsageError, remark
from fairlead.core.files import replacing
from fairlead.core.progress import Progress
from fairlead.core.strict_json import opened, read_json, sealed
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.extractors import cached_features
from fairlead.measure.judge import Classifier
from fairlead.measure.score import Floor
from fairlead.measure.scoring import Scoring
from fairlead.report.curves import curves_of, form_of
from fairlead.tune.by_class import Classes, scales_by_class
from fairlead.tune.class_scales import ByClass
from fairlead.tune.front import stored_measurement
from fairlead.tune.measurements import Goal
from fairlead.tune.recommend import recommend_swept
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Sweep

_FILE = "by_class.json"


def check_by_class(asked: bool, sweep: Sweep) -> None:
    """What cannot be asked by class, before anything is sampled.

    Raises:
        UsageError: for prompts, one class, and settings of which no two differ in the scale alone.
    """
    if not asked:
        return
    if sweep.shared.prompts:
        raise UsageError("sweep: by class: prompts are not classes; leave it out")
    if len(sweep.labels) == 1 or len(sweep.first.classes) == 1:
        raise UsageError("sweep: by class: only one class is given; give more, or leave it out")
    forms = Counter((s.checkpoint, form_of(s.guidance)[0], s.sampler, s.steps) for s in sweep.keys)
    if max(forms.values()) < 2:
        raise UsageError("sweep: by class: no two settings differ in the scale alone; give at least two scales")


def classes_of(evaluator: Scoring) -> Classes:
    """The classes that an evaluator knows, with its real images.

    Raises:
        UsageError: if they are fewer than two.
    """
    if not isinstance(evaluator, Evaluator) or len(evaluator.reference.classes) < 2:
        raise UsageError("by class: the real images have one class; leave it out")
    data, own = evaluator.reference, evaluator.extractor
    features = own.features(data.images) if isinstance(own, Classifier) else cached_features(own, data.images)
    return Classes(data.classes, features, data.labels)


def write_by_class(folder: SweepFolder, evaluator: Scoring | None, asked: bool, progress: Progress) -> None:
    """Compare the classes at the settings that differ from the recommended one in the scale alone, by the debiased
    distance; where that cannot be done a remark says why.

    Args:
        asked: whether to do so where it was not done before.

    Raises:
        UsageError: if stored samples are damaged, or it cannot be written.
    """
    path = folder.folder / _FILE
    if evaluator is None or not (asked or path.is_file()):
        return
    about, points = folder.read()
    best = recommend_swept(points, Floor.from_dict(about["floor"])).point
    curve = next((one for one in curves_of(points) if best in one.points), None)
    try:
        if best is None or curve is None:
            raise UsageError("by class: the recommended setting has no other scale beside it; give more scales")
        measured = [
            stored_measurement(folder, point, (scale,)) for scale, point in zip(curve.scales, curve.points, strict=True)
        ]
        with progress("comparing classes"):
            found = scales_by_class(measured, measured[curve.points.index(best)], classes_of(evaluator), Goal())
    except UsageError as error:
        path.unlink(missing_ok=True)
        remark(str(error))
        return
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(sealed(found.as_dict()), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the sweep itself is whole") from error


def read_by_class(sweep: Path) -> ByClass | None:
    """What was found, None where it was not asked for.

    Raises:
        UsageError: if it is damaged.
    """
    path = sweep / _FILE
    if not path.is_file():
        return None
    try:
        return ByClass.from_dict(opened(read_json(path)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); remove it and run the sweep again") from error
