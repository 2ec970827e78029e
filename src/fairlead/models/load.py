"""A checkpoint -> Model, with no code of the user's.

Over 300 lines, as every kind of checkpoint is recognised in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.arguments import shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import is_there
from fairlead.core.registry import lookup
from fairlead.core.schedule import schedule_from_config
from fairlead.data.degrade import read_degradation
from fairlead.data.latents import LatentCodec, codec_from_config
from fairlead.data.names import Index
from fairlead.data.text import TextEncoder, encoder_from_config
from fairlead.data.words import Words
from fairlead.models.encoders import ConditionEncoder, ImageEncoder, PromptEncoder
from fairlead.models.model import LabelEncoder, Model, Spec, encode_nothing, identity
from fairlead.nets.build import build_for, parameter_count
from fairlead.nets.inputs import ConditionedNet, condition_names
from fairlead.train.checkpoint import Checkpoint, find_checkpoint, seal_checkpoint, unsealed_checkpoint
from fairlead.train.hub_runs import is_hub_name, run_on_hub
from fairlead.train.malloc import keep_freed_memory
from fairlead.train.tasks import CLASSIFY, DENOISE, task_of
from fairlead.train.weights.averages import read_weights, width_in

Weights = str
"""``ema`` (averaged), ``raw`` (as trained), or ``ema:0.08``: the average of that width of a run with power averages."""


def load(
    spec: Any,
    weights: Weights = "ema",
    device: str | torch.device = "auto",
    *,
    autoencoder: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
) -> Model:
    """Load a training run, ``RUN@step500``, one checkpoint folder, a run on the hub, or a diffusers pipeline.

    Args:
        spec: where the checkpoint is; ``owner/name`` of a run that ``fl.push`` put on the hub, or of a pipeline there;
            a folder with ``model_index.json``, or the pipeline itself.
        weights: "ema" for the averaged weights, "raw" for those the optimiser holds, "ema:0.08" for the average of
            width 0.08 of a run trained with ``--ema power`` (between 0 and 0.288; how far it is off is said); spec may
            name them too: RUN@ema:0.08, RUN@step500@raw. Pipelines have one kind only.
        device: "auto" takes a GPU when there is one; a pipeline that is given stays where it is.
        autoencoder: where that of a model of latents is, if not where it was in training; pipelines bring their own.
        size: height and width of a pipeline's latents, or one number for both; None: those of its images by default.

    Raises:
        UsageError: if there is no checkpoint, or it is damaged, foreign or pickled, or one of a classifier or an
            autoencoder; for unknown weights; for a device that cannot be used; if the autoencoder of a model of latents
            is not there or has changed.
    """
    _check_weights(weights)
    if is_pipeline(spec):
        if weights != "ema":
            raise UsageError(f"weights={weights!r}: a diffusers pipeline has one kind of weights; leave it out")
        if autoencoder is not None:
            raise UsageError(f"autoencoder={str(autoencoder)!r}: a diffusers pipeline brings its own; leave it out")
        stays = isinstance(device, str) and device == "auto"
        where = "auto" if stays else usable_device(device)
        return lookup("loader", "pipeline")(spec, size=size, device=where)  # type: ignore[no-any-return]
    if size is not None:
        raise UsageError(f"size={size!r}: a trained model has one size, that of its images; leave it out")
    device = usable_device(device)
    checkpoint = find_checkpoint(spec)
    task = task_of(checkpoint.about["objective"])
    if task is CLASSIFY:
        raise UsageError(
            f"checkpoint {checkpoint.folder} is a classifier of noisy images, expected a diffusion model; it can guide "
            f'one: classifier(2, "{spec}")'
        )
    if task is not DENOISE:
        raise UsageError(
            f"checkpoint {checkpoint.folder} is an {task.about}, expected a diffusion model; train one on its latents: "
            f"fairlead train --latents {spec}"
        )
    about = _relocated(checkpoint)
    latents = dict(about["train"].get("latents") or {})
    if autoencoder is not None and not latents:
        raise UsageError(f"checkpoint {checkpoint.folder} is a model of pixels; drop the autoencoder {autoencoder!r}")
    codec = None
    if latents:
        given = latents if autoencoder is None else {**latents, "source": str(autoencoder)}
        codec = codec_from_config(given, f"checkpoint {checkpoint.folder}", checkpoint.folder)
    network, metadata = network_of(checkpoint, spec, weights)
    if codec is not None and list(codec.latent_shape(tuple(about["data"]["shape"]))) != latents["shape"]:
        raise UsageError(
            f"checkpoint {checkpoint.folder}: images {about['data']['shape']} have no latents "
            f"{latents['shape']} in {codec.source!r}; model.json contradicts the autoencoder"
        )
    return model_of(network, about, metadata, device, codec, near=checkpoint.folder)


def is_pipeline(spec: Any) -> bool:
    """Whether ``spec`` is a pipeline, a folder that holds one, or looks like its name on the hub (owner/name) and is no
    run there."""
    if not isinstance(spec, str | Path):
        return True
    if is_there(spec):
        return (Path(spec) / "model_index.json").is_file()
    return is_hub_name(spec) and run_on_hub(str(spec)) is None


def seal(spec: str | Path) -> Checkpoint:
    """Accept what ``model.json`` of a checkpoint says now: after a change by hand that is meant, such as other names of
    classes, or of a checkpoint of version 0.1.0, which has no seal.

    Raises:
        UsageError: as of ``load``, but for a seal that is not right; if it cannot be written.
    """
    checkpoint = unsealed_checkpoint(spec)
    for part in checkpoint.about["files"]:
        checkpoint.tensors(part)
    if checkpoint.about["net"]["kind"] != "lora":  # its network is in a pipeline, which need not be here
        network_of(checkpoint, spec, "ema")
    seal_checkpoint(checkpoint)
    return checkpoint


def as_model(model: Any, weights: Weights | None = None, device: str | torch.device | None = None) -> Model:
    """The model, or the one that is at a path, as :func:`load` reads it with ``weights`` and ``device``.

    Raises:
        UsageError: for anything else; for weights or a device with a model that is loaded already; as :func:`load`.
    """
    if isinstance(model, str | Path):
        return load(model, weights or "ema", "auto" if device is None else device)
    for name, value in (("weights", weights), ("device", device)):
        if value is not None:
            raise UsageError(
                f"{name}={str(value)!r}: this model is loaded already; give that to fl.load, or pass a path"
            )
    if isinstance(model, Model):
        return model
    raise UsageError(
        f"model: expected one from fl.load(...) or fl.toy(...), or the path of a run such as 'runs/digits', got "
        f"{shown(model)}"
    )


def network_of(checkpoint: Checkpoint, spec: str | Path, weights: Weights) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, and what the provenance of an image says of it."""
    _check_weights(weights)
    if checkpoint.weights and weights not in ("ema", checkpoint.weights):
        raise UsageError(f"weights {weights}: {spec} names {checkpoint.weights} itself; leave one of them out")
    weights = checkpoint.weights or weights
    tensors, digest = read_weights(checkpoint, weights)
    try:
        network = build_for(_relocated(checkpoint)["net"], tensors)
        count = parameter_count(network)
        if count != checkpoint.about["parameters"]:
            raise UsageError(
                f"model.json says {checkpoint.about['parameters']:,} parameters, the network has {count:,}; use another"
            )
    except UsageError as error:
        raise UsageError(f"checkpoint {checkpoint.folder}: {error}") from error
    metadata = {
        "checkpoint": str(spec),
        "step": checkpoint.step,
        "weights": weights,
        "weights_hash": digest,
        "fairlead": checkpoint.about["fairlead"],
    }
    return network, metadata


def model_of(
    network: nn.Module,
    about: dict[str, Any],
    metadata: dict[str, Any],
    device: str | torch.device = "auto",
    autoencoder: LatentCodec | None = None,
    near: Path | None = None,
) -> Model:
    """A network and the description of its training (``Training.about()``) as a Model, in eval mode.

    Args:
        autoencoder: whose latents the network denoises; None: the one that ``about`` names, if any.
        near: the folder of its checkpoint, around which a text encoder is looked for that is not where it was.
    """
    latents = about["train"].get("latents") or {}
    if autoencoder is None and latents:
        autoencoder = codec_from_config(latents, "this model")
    device = usable_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network.eval().requires_grad_(False)
    schedule = schedule_from_config(about["schedule"])
    names = condition_names(about["net"])
    classes = tuple(about["data"]["classes"]) if "label" in names else ()
    conditioned = network if isinstance(network, ConditionedNet) else getattr(network, "label", None)
    scale = about["net"].get("scale")
    embed = conditioned.embed if conditioned is not None and (names or scale) else None
    if scale is None and getattr(getattr(network, "text", None), "keeps_empty", False):
        embed = _embedded
    encode = _encoder(network, names, about, device, near)
    images = tuple(about["data"]["shape"])
    if autoencoder is not None:
        autoencoder = autoencoder.to(device)
        metadata = {**metadata, "autoencoder": autoencoder.config(images)}
    return Model(
        denoiser=NetworkDenoiser(network, schedule, about["objective"]),
        schedule=schedule,
        shape=images if autoencoder is None else autoencoder.latent_shape(images),
        encode=encode,
        decode=identity if autoencoder is None else autoencoder.decode,
        classes=classes,
        conditions=tuple(names),
        examples=classes if names == ["label"] else _examples(about["data"], encode),
        data_range=(-1.0, 1.0) if autoencoder is None else None,
        objective=about["objective"],
        layers=layers() if (layers := getattr(network, "layers", None)) is not None else {},
        embed=embed,
        metadata={
            **metadata,
            "data": about["data"]["name"],
            "data_fingerprint": about["data"]["fingerprint"],
            "objective": about["objective"],
            "schedule": about["schedule"],
            "drop": about["train"]["drop"],
            **({"distilled": distilled} if (distilled := about["train"].get("distill")) else {}),
        },
        device=device,
        to_space=identity if autoencoder is None else autoencoder.encode,
        image_shape=images,
        scale_range=None if scale is None else (scale[0], scale[1]),
        null_tokens=getattr(network, "null_tokens", None) if names else None,
    )


def _relocated(checkpoint: Checkpoint) -> dict[str, Any]:
    """The description of a checkpoint, whose network may find what it is made of in another place than in training."""
    relocated = getattr(lookup("net", checkpoint.about["net"]["kind"]), "relocated", None)
    return checkpoint.about if relocated is None else relocated(checkpoint.about, checkpoint.folder)


def _examples(data: Mapping[str, Any], encode: Callable[[Sequence[Spec]], Condition]) -> tuple[Spec, ...]:
    """The examples of a checkpoint; those of the first version have the place of a class as text."""
    examples: tuple[Spec, ...] = tuple(data.get("examples", ()))
    if data.get("by_name") or not isinstance(encode, ConditionEncoder):
        return examples
    named: list[Spec] = []
    for spec in examples:
        given = encode.read(spec)
        if isinstance(place := given.get("label"), str) and place.isdecimal():
            given["label"] = Index(place)
        named.append(encode.named(given))
    return tuple(named)


def _embedded(condition: Condition) -> Condition:
    """Text that an encoder outside has made is embedded already."""
    return condition


def _encoder(
    network: nn.Module, names: Sequence[str], about: dict[str, Any], device: torch.device, near: Path | None
) -> Callable[[Sequence[Spec]], Condition]:
    """The encoder of the conditions ``names`` that ``network`` reads."""
    if not names:
        return encode_nothing
    parts: dict[str, LabelEncoder | PromptEncoder | ImageEncoder] = {}
    for name in names:
        if name == "label":
            parts[name] = LabelEncoder(tuple(about["data"]["classes"]))
        elif name == "text":
            parts[name] = PromptEncoder(_states_of(network, encoder_from_config(about["train"]["text"], near), device))
        elif name == "image":
            parts[name] = ImageEncoder(read_degradation(about["train"]["image"]), tuple(about["data"]["shape"]))
        elif name in about["data"].get("attributes", {}):
            parts[name] = LabelEncoder(tuple(about["data"]["attributes"][name]), name)
    return parts["label"] if list(parts) == ["label"] else ConditionEncoder(parts)


def _states_of(network: nn.Module, encoder: TextEncoder, device: torch.device) -> Callable[[Sequence[str]], Tensor]:
    """Prompts -> states float32 on the CPU; a network with a text encoder of its own is asked once, not at every
    step."""

    def encode(prompts: Sequence[str]) -> Tensor:
        if isinstance(encoder, Words):
            encoder.check(prompts)
        value = encoder(prompts)
        if value.is_floating_point():
            return value
        assert isinstance(network, ConditionedNet)
        assert network.text is not None
        return network.text.embed(Condition.of(text=value).to(device)).values["text"].cpu()

    return encode


def _check_weights(weights: object) -> None:
    if not isinstance(weights, str):
        raise unknown("weights", shown(weights), ("ema", "raw", "ema:0.08"))
    if weights not in ("ema", "raw"):
        width_in(weights)


def usable_device(device: str | torch.device) -> torch.device:
    """A device by name; "auto" takes a GPU when there is one. Raises UsageError if it cannot be used."""
    if not isinstance(device, str | torch.device):
        raise UsageError(f"device: expected a name such as 'cpu' or 'cuda', got {shown(device)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch that was built without it
        raise UsageError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
