"""What ``model.json`` says of a checkpoint, and the checks that it has to pass before any of it is believed.

Much of it is said twice (the network, the schedule, the objective, the number of classes), so that most damage shows
even in files without a seal, which version 0.1.0 wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from fairlead.core.errors import UsageError, shortened
from fairlead.core.schedule import NoiseSchedule, schedule_from_config
from fairlead.core.typed import Count, Size, problem_in
from fairlead.data.degrade import read_degradation
from fairlead.data.images import ImageData, stratified_order
from fairlead.data.latents import LatentCodec, LatentsConfig
from fairlead.data.specs import Spec, data_specs
from fairlead.data.text import check_encoder
from fairlead.data.words import Words
from fairlead.nets.build import check_net
from fairlead.nets.inputs import condition_names
from fairlead.nets.sizes import as_argument
from fairlead.train.config import TrainConfig
from fairlead.train.tasks import DENOISE, task_of

EXAMPLES = 8
"""Conditions of the data that a checkpoint names."""
MOST_VALUES = 2**26
"""Of one image: 8192 x 8192."""
PARTS = ("ema", "narrow", "raw", "training")


class DataDescription(TypedDict):
    """Of the training images."""

    name: str
    split: str
    n: Count
    fingerprint: str
    shape: list[Size]
    classes: list[str]
    attributes: NotRequired[dict[str, list[str]]]
    examples: NotRequired[list[str | int | None]]


class WeightFiles(TypedDict):
    """Hash of each file of tensors."""

    ema: str
    narrow: NotRequired[str]
    raw: NotRequired[str]
    training: NotRequired[str]


class Description(TypedDict):
    """``model.json``, without its seal."""

    format: Size
    step: Count
    fairlead: str
    torch: str
    net: dict[str, Any]
    schedule: dict[str, Any]
    objective: str
    precision: str
    parameters: Count
    data: DataDescription
    train: dict[str, Any]
    files: WeightFiles


def described(
    config: TrainConfig, data: ImageData, schedule: NoiseSchedule, conditions: Sequence[str]
) -> dict[str, Any]:
    """What ``model.json`` says of a training's configuration and data.

    Args:
        conditions: names of those that the network is trained on.
    """
    examples: list[Spec] = []
    names = [name for name in conditions if name != "image"]
    if names and names != ["label"]:  # classes are their own examples
        some = stratified_order(data.labels, seed=0)[:EXAMPLES]
        examples = list(dict.fromkeys(data_specs(names, data, some)))
    return {
        "net": config.net,
        "schedule": schedule.config(),
        "objective": config.objective,
        "data": {
            "name": data.name,
            "split": data.split,
            "n": len(data),
            "fingerprint": data.fingerprint,
            "flip": data.flip,
            "shape": list(data.shape),
            "classes": list(data.classes),
            "attributes": {name: list(data.attributes[name].values) for name in config.net.get("attributes") or {}},
            "examples": examples,
            "by_name": True,
        },
        "train": config.to_json(),
    }


def check_fit(net: dict[str, Any], data: ImageData, autoencoder: LatentCodec | None) -> None:
    """Raise UsageError unless the network is made for the data, or their latents."""
    if autoencoder is not None and data.crops is not None:
        raise UsageError("--fit random: latents are encoded once, of the same part of each image; take --fit centre")
    channels, height, width = data.shape if autoencoder is None else autoencoder.latent_shape(data.shape)
    made_for, classes = _made_for(net), net.get("classes")
    if made_for != [channels, height, width]:
        what = "images" if autoencoder is None else "latents"
        raise UsageError(
            f"data {data.name!r} has {what} {channels}x{height}x{width}, the network is made for "
            f"{'x'.join(map(str, made_for))}; make it with net_config(preset, {channels}, "
            f"{as_argument(height, width)}, ...)"
        )
    if classes and classes != len(data.classes):
        raise UsageError(
            f"data {data.name!r} has {len(data.classes)} classes, the network is made for {classes}; "
            "0 makes it unconditional"
        )


def _made_for(net: Mapping[str, Any]) -> list[Any]:
    """[channels, height, width] that a network's configuration says."""
    size = net.get("size")
    return [net.get("channels_in"), *(size if isinstance(size, list | tuple) else (size, size))]


def renamed(about: dict[str, Any]) -> dict[str, Any]:
    """A checked description in the names of this version."""
    data = about["train"].get("data")
    if isinstance(data, dict) and "captions" in data:
        data["caption_column"] = data.pop("captions")
    return about


def check_types(about: Any) -> None:
    """
    Raises:
        UsageError: if something is missing or of another type.
    """
    problem = problem_in(about, Description, "model.json")
    if problem is not None:
        name, got, expected = problem
        raise UsageError(f"{name!r} is {got}, expected {expected}")
    for name in ("steps", "drop"):
        if name not in about["train"]:
            raise UsageError(f"train: {name!r} is missing")
    for part in about["files"]:
        if part not in PARTS:
            raise UsageError(f"files: {shortened(part)} is none of {', '.join(PARTS)}")


def check_description(about: Mapping[str, Any]) -> TrainConfig:
    """The configuration of the training, if all that ``about`` says can be said together.

    Args:
        about: of the right types, see :func:`check_types`.

    Raises:
        UsageError: with what contradicts what.
    """
    check_net(about["net"])
    config = TrainConfig.from_json(about["train"])
    said_twice = {
        "net": config.net,
        "objective": config.objective,
        "schedule": schedule_from_config(config.schedule).config(),
    }
    for name, value in said_twice.items():
        here, there = _plain(about[name]), _plain(value)
        if here != there:
            if isinstance(here, dict) and isinstance(there, dict):
                key = next(key for key in {**here, **there} if here.get(key) != there.get(key))
                name, here, there = f"{name}: {key}", here.get(key), there.get(key)
            raise _wrong(f"{name} is {_short(here)}, the training had {_short(there)}")
    if about["precision"] not in ("fp32", "bf16") or config.precision not in ("auto", about["precision"]):
        raise _wrong(f"precision is {about['precision']!r}, the training had {config.precision!r}")
    shape = about["data"]["shape"]
    if len(shape) != 3 or math.prod(shape) > MOST_VALUES:
        raise _wrong(f"data: shape is {_short(shape)}, expected channels, height and width")
    _check_names(config.net, about["data"])
    _check_sizes(config, shape)
    _check_text(config)
    return config


def _check_names(net: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Names of classes and of values of attributes: each once, and as many as the network has embeddings."""
    vocabularies = {"classes": (data["classes"], net.get("classes") or len(data["classes"]))}
    for name, count in (net.get("attributes") or {}).items():
        vocabularies[f"attribute {name!r}"] = (data.get("attributes", {}).get(name, []), count)
    for what, (names, count) in vocabularies.items():
        if len(names) != count:
            raise _wrong(f"{what}: {len(names)} names, the network has embeddings of {count}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _wrong(f"{what}: {twice!r} is there twice")


def _check_sizes(config: TrainConfig, shape: Sequence[int]) -> None:
    """The images, or their latents, and the network's."""
    net, latents = config.net, config.latents
    if latents:
        problem = problem_in(latents, LatentsConfig, "latents")
        if problem is not None:
            raise _wrong(f"latents: {problem}")
        if not 0 < latents["scale"] < math.inf or not math.isfinite(latents["shift"]):
            raise _wrong(f"latents: scale {latents['scale']!r} and shift {latents['shift']!r} are no usable numbers")
    made_for = _made_for(net)
    has = latents["shape"] if latents else list(shape)
    if list(has) != made_for:
        what = "latents" if latents else "images"
        raise _wrong(f"{what} are {_short(has)}, the network is made for {_short(made_for)}")
    if task_of(config.objective) is not DENOISE:
        return
    channels = read_degradation(config.image).channels(shape[0]) if config.image else 0
    if channels != (net.get("image") or 0):
        raise _wrong(f"image condition {config.image!r}: {channels} channels, the network reads {net.get('image')}")


def _check_text(config: TrainConfig) -> None:
    """The text encoder and what the network reads of it."""
    reads = "text" in condition_names(config.net)
    if reads != bool(config.text):
        raise _wrong(f"the network reads {'a' if reads else 'no'} text, and there is {_short(config.text)} for it")
    if not reads:
        return
    check_encoder(config.text)
    if config.text["name"] != "words":
        return
    words, net = Words(**_without(config.text, "name")), config.net["text"]
    if len(set(words.vocabulary)) < len(words.vocabulary):
        raise _wrong("text: a word of the vocabulary is there twice")
    for name, value in words.net().items():
        if net.get(name, value if name == "depth" else None) != value:
            raise _wrong(f"text: the encoder's {name} is {value!r}, the network's {net.get(name)!r}")


def _wrong(text: str) -> UsageError:
    return UsageError(f"model.json: {text}; use another checkpoint")


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
