"""What several commands need from their options: an evaluator for a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fairlead.core.errors import UsageError

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.measure.evaluate import Evaluator
    from fairlead.measure.judge import Classifier, Role


def evaluator_for(spec: str, data: str | None, labels: Sequence[int] = ()) -> Evaluator:
    """The evaluator of a checkpoint: its training images as reference, the test split held out, cached classifiers.

    Args:
        data: where the images are, if not where they were in training.
        labels: compare with the real images of these classes only; the classifiers know all of them.

    Raises:
        UsageError: if the images are not of the model's classes and shape, or there are none of a label.
    """
    import torch

    from fairlead.data.hub import load_data
    from fairlead.measure.evaluate import Evaluator
    from fairlead.train.checkpoint import find_checkpoint

    about = find_checkpoint(spec).about
    given = dict(about["train"].get("data") or {})
    if data is not None:
        given["spec"] = data
    if "spec" not in given:
        raise UsageError(f"checkpoint {spec!r} does not say where its data is; pass --data")
    limit = given.pop("limit", None)
    reference, held_out = load_data(**given, split="train"), load_data(**given, split="test")
    _check_data(reference, about["data"], given["spec"])
    if limit is None and reference.fingerprint != about["data"]["fingerprint"]:
        print(
            f"data {given['spec']!r}: these are not the images the model was trained on (fingerprint "
            f"{reference.fingerprint}, in training {about['data']['fingerprint']})",
            file=sys.stderr,
        )
    judge = _classifier(reference, "judge", "training the judge")
    features = _classifier(reference, "features", "training the feature network")
    if labels:
        wanted = torch.tensor(labels)
        for part in (reference, held_out):
            absent = sorted(set(labels) - set(part.labels.tolist()))
            if absent:
                raise UsageError(
                    f"data {given['spec']!r}: split {part.split!r} has no images of {part.classes[absent[0]]!r} to "
                    "compare with"
                )
        reference, held_out = (part.subset(torch.isin(part.labels, wanted)) for part in (reference, held_out))
    return Evaluator(reference, held_out, judge, features)


def guidance_of(spec: str, guidance: str, sampler: str, steps: int) -> str:
    """The expression; for ``tuned`` that of ``fairlead tune`` for this run, with a word where it was found otherwise.

    Raises:
        UsageError: if it is ``tuned`` and the run was not tuned.
    """
    if guidance != "tuned":
        return guidance
    from fairlead.train.checkpoint import find_checkpoint
    from fairlead.tune.tuning import read_tuned, run_folder

    checkpoint = find_checkpoint(spec)
    tuned = read_tuned(run_folder(checkpoint.folder))
    unlike = [
        f"{what} {there}, not {here}"
        for what, there, here in (("--sampler", tuned["sampler"], sampler), ("--steps", tuned["steps"], steps))
        if there != here
    ]
    if tuned.get("weights") not in checkpoint.about["files"].values():
        unlike.append("other weights of this run")
    said = f" (found with {' and '.join(unlike)})" if unlike else ""
    print(f"tuned: {tuned['guidance']}{said}", file=sys.stderr)
    found: str = tuned["guidance"]
    return found


def _check_data(data: ImageData, trained_on: dict[str, Any], spec: str) -> None:
    """Raise UsageError unless ``data`` has the classes and the image shape of the checkpoint's data."""
    classes, shape = tuple(trained_on["classes"]), tuple(trained_on["shape"])
    if data.shape != shape:
        raise UsageError(f"data {spec!r}: images are {list(data.shape)}, the model's are {list(shape)}; pass its data")
    if data.classes != classes:
        raise UsageError(
            f"data {spec!r}: classes are {', '.join(data.classes)}; the model's are {', '.join(classes)}; pass its data"
        )


def _classifier(data: ImageData, role: Role, title: str) -> Classifier:
    """The cached classifier; a bar if it has to be trained."""
    from tqdm import tqdm

    from fairlead.measure.judge import cached_classifier, recipe_for

    bars: list[tqdm[NoReturn]] = []

    def advance(step: int, loss: float) -> None:
        if not bars:
            bars.append(tqdm(total=recipe_for(data, role).steps, desc=title, unit="step", dynamic_ncols=True))
        bars[0].update()

    try:
        return cached_classifier(data, role, progress=advance)
    finally:
        for bar in bars:
            bar.close()
