"""What a model is measured against: its real images and the judges of them, or its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, remark
from fairlead.core.progress import Progress, silent
from fairlead.core.typed import check_arguments
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, stratified_order, stratified_split
from fairlead.data.names import Names, same_names
from fairlead.data.own.sets import HOLD_OUT, SPLIT_SEED
from fairlead.data.specs import data_specs
from fairlead.measure import attributes, judge, metrics
from fairlead.measure.agreement import AttributeEvaluator, asked_for
from fairlead.measure.comparison import prompt_reader
from fairlead.measure.evaluator import Evaluator, PromptEvaluator
from fairlead.measure.extractors import Extractor, cached_features, extractor, of_classifier
from fairlead.measure.frechet import Moments
from fairlead.measure.image_sets import read_images
from fairlead.models.load import is_pipeline
from fairlead.models.model import Model, Spec
from fairlead.models.negatives import expanded
from fairlead.train.checkpoint import find_checkpoint


def evaluator_for(
    spec: str,
    data: str | None,
    labels: Sequence[int] = (),
    model: Model | None = None,
    n: Sequence[int] = (),
    progress: Progress = silent,
    features: str | None = None,
    device: str | torch.device = "auto",
    judged: judge.JudgeKind = "quick",
) -> Evaluator:
    """The evaluator of a checkpoint or pipeline: its training images as reference, the test split held out, cached
    classifiers.

    Args:
        data: where the images are, if not where they were in training; a pipeline does not say where, and needs it.
        labels: compare with the real images of these classes only; the classifiers know all of them.
        model: what ``spec`` is, loaded; agreement with its conditions is then measured too, where there is more than a
            label and the data are scenes.
        n: the numbers of images of a setting that are to be measured; what is too few of them is remarked. A model is
            needed for it.
        features: of distance and diversity, see ``extractor``; None: those of a classifier of the images.
        device: of these features.
        judged: which judge says of an image whether it shows its class, see :func:`fairlead.measure.judge.recipe_for`.

    Raises:
        UsageError: if the images are not of the model's classes and shape, or do not say what it is conditioned on, or
            there are none of a label, or too few to measure anything. All of it before anything is trained.
    """
    role = judge.role_of(judged)
    with progress("reading the real images"):
        if model is not None and is_pipeline(spec):
            reference, held_out, name = _data_of_pipeline(spec, model, data)
        else:
            reference, held_out, name = _data_of(spec, data)
    conditioned_on = () if model is None or model.condition_kind == "label" else tuple(model.conditions)
    if conditioned_on:
        # refuses data that does not have these conditions, before anything is trained
        data_specs(conditioned_on, held_out, torch.arange(1))
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
    metrics.check_real(reference, held_out)
    given = None if features is None else extractor(features, everything[0], device)
    d = judge.recipe_for(reference, "features").features if given is None else given.d
    for note in _notes(model, name, reference, held_out, n, bool(labels), d):
        remark(note)
    if len(reference.classes) < 2:
        of_untrained = "the features of distances are those of an untrained network, and " if given is None else ""
        remark(
            f"data {name!r}: all images are of one class, so {of_untrained}accuracy is 100 % whatever the images show; "
            "--features takes pretrained features, --prompts measures text models without a judge"
        )
    looking = _classifier(everything[0], role, "training the judge", progress)
    seeing = given or _classifier(everything[0], "features", "training the feature network", progress)
    attributed = _attributes(*everything, conditioned_on, progress) if conditioned_on else None
    network = seeing if isinstance(seeing, Extractor) else of_classifier(seeing)
    return Evaluator(reference, held_out, looking, seeing, attributed, _moments(network, reference, progress))


def _moments(features: Extractor, reference: ImageData, progress: Progress) -> Moments:
    with progress("features of real images", len(reference), "image") as advance:
        return Moments.of(cached_features(features, reference.images, progress=advance))


def check_prompted(model: Model) -> None:
    """Raise UsageError unless prompts are all that the model is conditioned on."""
    if "text" not in model.conditions:
        reads = f"is conditioned on {', '.join(model.conditions) or 'nothing'}"
        instead = "; leave them out, its classes need none" if model.classes else "; leave them out"
        raise UsageError(f"prompts: this model {reads}, not on text{instead}")
    if "image" in model.conditions:
        raise UsageError(
            "prompts: this model is conditioned on an image and text, and sweep and tune have no image for it"
        )


def text_of(model: Model, spec: Spec) -> str:
    """The text of a condition, for the cosine of an image with it.

    Raises:
        UsageError: if the condition says no text.
    """
    read = getattr(model.encode, "read", None)
    text = spec if read is None else read(spec).get("text")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"prompts: {spec!r} has no text; expected a prompt such as 'a red cat'")
    return expanded(text.strip())


def prompt_evaluator_for(
    model: Model,
    prompts: Sequence[Spec],
    *,
    features: str | None = None,
    clip: str | None = None,
    data: str | None = None,
    n: Sequence[int] = (),
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> PromptEvaluator:
    """The evaluator of a model that is asked for ``prompts``; no classifier is trained.

    Args:
        features: of diversity and distance, see ``extractor``; default: what reads the prompts.
        clip: what reads the prompts, for the cosine; default: ``features`` where they embed text, else CLIP.
        data: real images for the distance, as ``fairlead measure`` takes them: a folder or a data set, brought to the
            size of the model's images. None: no distance is measured.
        n: the numbers of images of a setting that are to be measured; what is too few of them is remarked.
        device: of the features.

    Raises:
        UsageError: if the model is not conditioned on text alone, features embed no text, weights cannot be had, or
            images cannot be read or are too few.
    """
    check_prompted(model)
    texts = [text_of(model, spec) for spec in prompts]
    with progress("loading the network of the features"):
        seeing = extractor(features or clip or "clip", device=device)
        reader = seeing if features is None and seeing.texts is not None else prompt_reader(clip, seeing, device)
        made = PromptEvaluator(prompts, texts, reader, seeing)
    if made.read.truncated:
        remark(
            f"{made.read.truncated} of {len(made.names)} prompts are longer than {reader.kind} reads, which sees their "
            "beginning only"
        )
    if data is not None:
        with progress("reading the real images"):
            reference, held_out = _real_images(data, model)
        metrics.check_real(reference, held_out)
        moments = _moments(seeing, reference, progress)
        made = PromptEvaluator(prompts, texts, reader, seeing, reference, held_out, moments)
        found = [metrics.few_for_features(count, seeing.d) for count in n]
        found.append(metrics.few_for_features(len(reference), seeing.d, f"real images in data {data!r}"))
        for note in dict.fromkeys(note for note in found if note is not None):
            remark(note)
    return made


def _real_images(spec: str, model: Model) -> tuple[ImageData, ImageData]:
    """(reference, held out): training and test images of a data set; of a folder nine in ten and the others."""
    _, height, width = model.image_shape
    if height != width:
        raise UsageError(f"data {spec!r}: the model's images of {height}x{width} are measured against squares only")
    found = read_images(spec, height, "data")
    if found.data.split and "@" not in spec:
        return found.data, read_images(f"{spec}@test", height, "data").data
    held_out, reference = stratified_split(found.data, HOLD_OUT, SPLIT_SEED)
    return reference, held_out


def _notes(
    model: Model | None, name: str, reference: ImageData, held_out: ImageData, n: Sequence[int], chosen: bool, d: int
) -> list[str]:
    """What is too few for ``d`` features, said of the counts alone."""
    if model is None or not n:
        return []
    order = labels_in_order(model, reference, held_out)
    found = [metrics.few_for_features(count, d) for count in n]
    found.append(metrics.few_for_features(len(reference), d, f"real images in data {name!r}"))
    found.append(metrics.few_for_features(len(held_out), d, f"held-out images in data {name!r}"))
    notes = [note for note in found if note is not None]
    if not chosen:
        notes += metrics.not_asked(reference if model.condition_kind == "label" else held_out)
    for count in n:
        rare = metrics.rare_classes(first_of(order, count), held_out.labels, order)
        notes += [note for note in metrics.rare_said(rare, reference.classes, count) if note not in notes]
    return notes


def _data_of(spec: str, data: str | None) -> tuple[ImageData, ImageData, str]:
    """Training images of a checkpoint, held-out ones, and how the user calls them."""
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
        remark(
            f"data {given['spec']!r}: these are not the images the model was trained on (fingerprint "
            f"{reference.fingerprint}, in training {about['data']['fingerprint']})"
        )
    return reference, held_out, given["spec"]


def _data_of_pipeline(spec: str, model: Model, data: str | None) -> tuple[ImageData, ImageData, str]:
    """The same of a pipeline, in the size of its images."""
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


def _check_data(data: ImageData, shape: Sequence[int], classes: Sequence[str], spec: str) -> None:
    """Raise UsageError unless ``data`` has the image shape and the classes (if there are any) of a model."""
    if data.shape != tuple(shape):
        raise UsageError(f"data {spec!r}: images are {list(data.shape)}, the model's are {list(shape)}; pass its data")
    if classes and not same_names(data.classes, classes):
        raise UsageError(
            f"data {spec!r}: classes are {', '.join(data.classes)}; the model's are {', '.join(classes)}; pass its data"
        )


def _classifier(data: ImageData, role: judge.Role, title: str, progress: Progress) -> judge.Classifier:
    with progress(title, judge.recipe_for(data, role).steps, "step") as advance:
        return judge.cached_classifier(data, role, progress=lambda step, loss: advance(1))


def _attributes(
    reference: ImageData, held_out: ImageData, conditioned_on: Sequence[str], progress: Progress
) -> AttributeEvaluator | None:
    """The cached judge of scenes and what its held-out images ask for; None for data that are no scenes, or where
    nothing that the model is conditioned on can be judged."""
    if not attributes.is_scenes(reference) or not (asked := asked_for(conditioned_on, held_out)):
        return None
    recipe = attributes.RECIPE
    steps = recipe.whole.steps + recipe.members * recipe.digits.steps
    with progress("training the judge of attributes", steps, "step") as advance:
        seeing = attributes.cached_attribute_judge(reference, progress=lambda step, loss: advance(1))
    return AttributeEvaluator(seeing, held_out, asked)


def labels_in_order(model: Model, reference: ImageData, held_out: ImageData) -> Tensor:
    """The labels in the order in which samples are asked for them, int64 [m]; from the beginning again after m."""
    labels = reference.labels if model.condition_kind == "label" else held_out.labels
    return labels[stratified_order(labels, seed=0)]


def first_of(order: Tensor, n: int) -> Tensor:
    """The first n of ``order`` [m], from the beginning again where there are fewer."""
    return order.repeat(-(-n // len(order)))[:n]


def by_name(model: Model) -> list[str]:
    """A word for what a sweep or search must share where names of classes are numbers beside other conditions: the
    first version asked such models for other classes than it judged by."""
    several = "label" in model.conditions and model.condition_kind != "label"
    return ["classes by name"] if several and Names(model.classes).numbered else []


def shared_out(classes: Sequence[str], labels: Tensor, n: int) -> list[str]:
    """n class names in the proportions of real ``labels`` (int64, indices into ``classes``); so is every prefix."""
    return [classes[label] for label in labels[spread(labels, n)].tolist()]


def spread(labels: Tensor, n: int) -> Tensor:
    """Indices int64 [n] of samples in a stratified order, from the beginning again where there are fewer than n."""
    return first_of(stratified_order(labels, seed=0), n)


def counts(labels: Tensor) -> list[int]:
    """How many samples there are of each label that occurs."""
    found: list[int] = torch.unique(labels, return_counts=True)[1].tolist()
    return found
