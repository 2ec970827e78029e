"""What several commands need from their options: an evaluator for a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import UsageError
from fairlead.core.progress import counting_bar, working
from fairlead.core.typed import check_arguments

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.measure.agreement import AttributeEvaluator
    from fairlead.measure.evaluate import Evaluator
    from fairlead.measure.judge import Classifier, Role
    from fairlead.models.model import Model


def evaluator_for(
    spec: str, data: str | None, labels: Sequence[int] = (), model: Model | None = None, n: Sequence[int] = ()
) -> Evaluator:
    """The evaluator of a checkpoint or pipeline: its training images as reference, the test split held out, cached
    classifiers.

    Args:
        data: where the images are, if not where they were in training; a pipeline does not say where, and needs it.
        labels: compare with the real images of these classes only; the classifiers know all of them.
        model: what ``spec`` is, loaded; agreement with what it is told is then measured too, where it is told more than
            a label and the data are scenes.
        n: the numbers of images of a setting that are to be measured; what is too few of them is said on stderr. A
            model is needed for it.

    Raises:
        UsageError: if the images are not of the model's classes and shape, or do not say what it is told, or there are
            none of a label, or too few to measure anything. All of it before anything is trained.
    """
    import torch

    from fairlead.data.specs import data_specs
    from fairlead.measure.cache import cached_features
    from fairlead.measure.enough import check_real
    from fairlead.measure.evaluate import Evaluator
    from fairlead.measure.extractors import of_classifier
    from fairlead.measure.frechet import Moments
    from fairlead.models.load import is_pipeline

    pipeline = model is not None and is_pipeline(spec)
    with working("reading the real images"):
        reference, held_out, name = _data_of_pipeline(spec, model, data) if pipeline else _data_of(spec, data)
    told = () if model is None or model.told == "label" else tuple(model.conditions)
    if told:
        data_specs(told, held_out, torch.arange(1))  # refuses data that does not say it, before anything is trained
    everything = reference, held_out
    if labels:
        wanted = torch.tensor(labels)
        for part in everything:
            absent = sorted(set(labels) - set(part.labels.tolist()))
            if absent:
                raise UsageError(
                    f"data {name!r}: split {part.split!r} has no images of {part.classes[absent[0]]!r} to compare with"
                )
        reference, held_out = (part.subset(torch.isin(part.labels, wanted)) for part in everything)
    check_real(reference, held_out)
    for note in [*_remarks(model, name, reference, held_out, n, bool(labels)), *_of_one_class(everything[0], name)]:
        print(note, file=sys.stderr)
    judge = _classifier(everything[0], "judge", "training the judge")
    features = _classifier(everything[0], "features", "training the feature network")
    attributes = _attributes(*everything, told) if told else None
    with counting_bar("features of real images", len(reference)) as advance:
        known = cached_features(of_classifier(features), reference.images, progress=advance)
    return Evaluator(reference, held_out, judge, features, attributes, Moments.of(known))


def _remarks(
    model: Model | None, name: str, reference: ImageData, held_out: ImageData, n: Sequence[int], chosen: bool
) -> list[str]:
    """What is too few, said of the counts alone."""
    from fairlead.measure.enough import few_for_features, not_asked, rare_classes, rare_said
    from fairlead.measure.judge import recipe_for
    from fairlead.tune.asked import first_of, labels_in_order

    if model is None or not n:
        return []
    d, order = recipe_for(reference, "features").features, labels_in_order(model, reference, held_out)
    found = [few_for_features(count, d) for count in n]
    found.append(few_for_features(len(reference), d, f"real images in data {name!r}"))
    found.append(few_for_features(len(held_out), d, f"held-out images in data {name!r}"))
    notes = [note for note in found if note is not None]
    if not chosen:
        notes += not_asked(reference if model.told == "label" else held_out)
    for count in n:
        rare = rare_classes(first_of(order, count), held_out.labels, order)
        notes += [note for note in rare_said(rare, reference.classes, count) if note not in notes]
    return notes


def _of_one_class(data: ImageData, name: str) -> list[str]:
    if len(data.classes) > 1:
        return []
    return [
        f"data {name!r}: all images are of one class, so the features of distances are those of an untrained network, "
        "and accuracy is 100 % whatever the images show; `fairlead measure` has pretrained features"
    ]


def _data_of(spec: str, data: str | None) -> tuple[ImageData, ImageData, str]:
    """Training images of a checkpoint, held-out ones, and how the user calls them."""
    from fairlead.data.hub import load_data
    from fairlead.train.checkpoint import find_checkpoint

    about = find_checkpoint(spec).about
    given = dict(about["train"].get("data") or {})
    if data is not None:
        given["spec"] = data
    if "spec" not in given:
        raise UsageError(f"checkpoint {spec!r} does not say where its data is; pass --data")
    limit = given.pop("limit", None)
    check_arguments(load_data, {**given, "split": "train"}, f"checkpoint {spec!r}: its data")
    reference, held_out = load_data(**given, split="train"), load_data(**given, split="test")
    _check_data(reference, about["data"]["shape"], about["data"]["classes"], given["spec"])
    if limit is None and reference.fingerprint != about["data"]["fingerprint"]:
        print(
            f"data {given['spec']!r}: these are not the images the model was trained on (fingerprint "
            f"{reference.fingerprint}, in training {about['data']['fingerprint']})",
            file=sys.stderr,
        )
    return reference, held_out, given["spec"]


def _data_of_pipeline(spec: str, model: Model | None, data: str | None) -> tuple[ImageData, ImageData, str]:
    """The same of a pipeline, in the size of its images."""
    from fairlead.data.hub import load_data

    assert model is not None
    if data is None:
        raise UsageError(
            f"pipeline {spec!r} does not say where its data is; pass --data with captioned or labelled images, e.g. "
            "scenes"
        )
    _, height, width = model.image_shape
    if height != width:
        raise UsageError(f"pipeline {spec!r} makes images of {height}x{width}; they are measured against squares only")
    reference, held_out = (load_data(data, split, size=height) for split in ("train", "test"))
    _check_data(reference, model.image_shape, model.classes, data)
    return reference, held_out, data


def guidance_of(
    spec: str, guidance: str, sampler: str, steps: int, weights: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The expression, and what else provenance says of it; for ``tuned`` or ``tuned:KEY`` that of ``fairlead tune`` for
    this run or pipeline, with a word where it was found otherwise.

    Args:
        weights: the hash of the model's.

    Raises:
        UsageError: if it is ``tuned`` and the run was not tuned, or several answers are meant.
    """
    word, _, key = guidance.strip().partition(":")
    if word != "tuned":
        return guidance, {}
    from fairlead.tune.answers import choose, said
    from fairlead.tune.tuning import folder_of, read_answers, read_tuned

    folder = folder_of(spec)
    read_tuned(folder)
    answers = read_answers(folder / "tuned.json")
    tuned = choose(answers, key.strip(), folder / "tuned.json", sampler, steps, weights)
    unlike = [
        f"{what} {there}, not {here}"
        for what, there, here in (("--sampler", tuned["sampler"], sampler), ("--steps", tuned["steps"], steps))
        if there != here
    ]
    if tuned.get("weights") != weights:
        unlike.append("other weights")
    how = f" (found with {' and '.join(unlike)})" if unlike else ""
    which = f", {said(tuned)}" if len(answers) > 1 else ""
    print(f"tuned: {tuned['guidance']}{which}{how}", file=sys.stderr)
    about = {"key": tuned["key"], "question": said(tuned), "file": str(folder / "tuned.json")}
    return tuned["guidance"], {"tuned": about}


def _check_data(data: ImageData, shape: Sequence[int], classes: Sequence[str], spec: str) -> None:
    """Raise UsageError unless ``data`` has the image shape and the classes (if there are any) of a model."""
    from fairlead.data.names import same_names

    if data.shape != tuple(shape):
        raise UsageError(f"data {spec!r}: images are {list(data.shape)}, the model's are {list(shape)}; pass its data")
    if classes and not same_names(data.classes, classes):
        raise UsageError(
            f"data {spec!r}: classes are {', '.join(data.classes)}; the model's are {', '.join(classes)}; pass its data"
        )


def _classifier(data: ImageData, role: Role, title: str) -> Classifier:
    """The cached classifier; a bar if it has to be trained."""
    from fairlead.measure.judge import cached_classifier, recipe_for

    with counting_bar(title, recipe_for(data, role).steps, "step") as advance:
        return cached_classifier(data, role, progress=lambda step, loss: advance(1))


def _attributes(reference: ImageData, held_out: ImageData, told: Sequence[str]) -> AttributeEvaluator | None:
    """The cached judge of scenes and what its held-out images ask for; None for data that are no scenes, or where
    nothing that is told can be judged."""
    from fairlead.measure import attributes
    from fairlead.measure.agreement import AttributeEvaluator, asked_for

    if not attributes.is_scenes(reference) or not (asked := asked_for(told, held_out)):
        return None
    recipe = attributes.RECIPE
    steps = recipe.whole.steps + recipe.members * recipe.digits.steps
    with counting_bar("training the judge of attributes", steps, "step") as advance:
        judge = attributes.cached_attribute_judge(reference, progress=lambda step, loss: advance(1))
    return AttributeEvaluator(judge, held_out, asked)
