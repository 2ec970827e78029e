"""A training run as a pipeline of diffusers: a folder that the library loads without us."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairlead.core.arguments import as_path
from fairlead.core.errors import UsageError
from fairlead.core.files import settle, synced
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder, is_folder
from fairlead.core.schedule import NoiseSchedule, TableSchedule, schedule_from_config
from fairlead.data.latents import LatentCodec, codec_from_config
from fairlead.data.text import encoder_from_config
from fairlead.diffusers.autoencoder import Autoencoder
from fairlead.diffusers.lora import LoraNet
from fairlead.diffusers.networks import DiffusersNet
from fairlead.diffusers.pipelines import diffusers
from fairlead.diffusers.pretrained import library, quiet, setting
from fairlead.diffusers.schedulers import PREDICTIONS
from fairlead.diffusers.text_encoders import PretrainedText
from fairlead.models.load import Weights, network_of
from fairlead.nets.inputs import condition_names
from fairlead.train.checkpoint import Checkpoint, find_checkpoint

_DIT_NULL = 1000
"""The null class of ``DiTPipeline``, whatever its network."""


@dataclass(frozen=True)
class Target:
    """The pipeline of a class of networks.

    Attributes:
        pipeline: its class.
        component: name of the network in it.
        conditioned_on: the conditions that it passes on.
        latents: whether it has a VAE.
        encoder: kind of text encoder, "" for none.
        sides: what divides the sides of its images.
        shifts: whether it shifts latents as their autoencoder says.
        flows: whether it denoises flows and nothing else.
    """

    pipeline: str
    component: str
    conditioned_on: tuple[str, ...] = ()
    latents: bool = True
    encoder: str = ""
    sides: int = 1
    shifts: bool = False
    flows: bool = False


TARGETS: dict[str, Target] = {
    "UNet2DModel": Target("DDIMPipeline", "unet", latents=False),
    "UNet2DConditionModel": Target("StableDiffusionPipeline", "unet", ("text",), encoder="clip", sides=8),
    "DiTTransformer2DModel": Target("DiTPipeline", "transformer", ("label",)),
    "PixArtTransformer2DModel": Target("PixArtAlphaPipeline", "transformer", ("text",), encoder="t5", sides=8),
    "SD3Transformer2DModel": Target(
        "StableDiffusion3Pipeline", "transformer", ("text",), encoder="sd3", shifts=True, flows=True
    ),
}
"""Class of the network -> the pipeline that calls it as it was trained."""


_INSTEAD = "choose another folder for the pipeline"


def export(
    spec: str | Path, folder: str | Path, weights: Weights = "ema", *, autoencoder: str | Path | None = None
) -> Path:
    """Write a run, or one checkpoint of it, as a complete pipeline of diffusers. A run of adapters is written as the
    file that a pipeline's ``load_lora_weights`` reads.

    The scheduler is DDIM on the table of the training from pure noise down to data, or DPM-Solver++ for a flow; any
    other can be put in its place.

    Args:
        spec: as of ``load``.
        folder: to write; not there yet, or empty.
        weights: "ema" for the averaged weights, "raw" for those the optimiser holds.
        autoencoder: where that of a model of latents is, if not where it was in training.

    Raises:
        UsageError: if no pipeline calls such a network as it was trained, or the folder cannot be written.
    """
    folder = as_path("export: folder", folder)
    as_path("export: run", spec)
    check_folder(folder, _INSTEAD)
    if is_folder(folder):
        check_folder(folder.parent, _INSTEAD)  # where it is put together
    with Hold(folder, beside=True):
        return _exported(spec, folder, weights, autoencoder)


def how_to_load(written: Path) -> str:
    """The call in Python that reads what :func:`export` has written."""
    whole = (written / "model_index.json").is_file()
    how = "diffusers.DiffusionPipeline.from_pretrained" if whole else "pipe.load_lora_weights"
    return f"{how}({str(written)!r})"


def _exported(spec: str | Path, folder: Path, weights: Weights, autoencoder: str | Path | None) -> Path:
    if is_folder(folder) and any(folder.iterdir()):
        raise UsageError(f"{folder} is there already; {_INSTEAD}")
    checkpoint = find_checkpoint(spec)
    about, train, net = checkpoint.about, checkpoint.about["train"], checkpoint.about["net"]
    if net.get("kind") == "lora":
        return _adapters(checkpoint, spec, folder, weights)
    if net.get("kind") != "diffusers":
        raise UsageError(
            f"checkpoint {checkpoint.folder} has a network of kind {net.get('kind')!r}, which diffusers does not know; "
            "train one with --net UNet2DConditionModel --net-config FILE"
        )
    latents = dict(train.get("latents") or {})
    target = _target(net, bool(latents))
    schedule = schedule_from_config(about["schedule"])
    network, _ = network_of(checkpoint, spec, weights)
    assert isinstance(network, DiffusersNet)
    parts: dict[str, Any] = {target.component: network.network.eval()}
    parts["scheduler"] = _scheduler(schedule, about["objective"], target)
    if target.latents:
        given = latents if autoencoder is None else {**latents, "source": str(autoencoder)}
        codec = codec_from_config(given, f"checkpoint {checkpoint.folder}", checkpoint.folder)
        parts["vae"] = _vae(codec, about["data"]["shape"], target)
    if target.encoder:
        parts |= _text(train["text"], target, checkpoint.folder)
    if target.conditioned_on == ("label",):
        parts |= _labels(network.network, about["data"]["classes"])
    if target.pipeline == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers(), target.pipeline)(**parts)
    _whole(folder, pipe.save_pretrained)
    return folder


def _adapters(checkpoint: Checkpoint, spec: str | Path, folder: Path, weights: Weights) -> Path:
    """The file that ``load_lora_weights`` reads."""
    network, _ = network_of(checkpoint, spec, weights)
    assert isinstance(network, LoraNet)

    def write(partial: Path) -> None:
        diffusers().StableDiffusionPipeline.save_lora_weights(partial, unet_lora_layers=network.adapters())

    _whole(folder, write)
    return folder


def _target(net: Mapping[str, Any], latents: bool) -> Target:
    network, conditioned_on = net["network"], tuple(condition_names(net))
    alone = "load it with fl.load, or save its network alone: fl.load(RUN).denoiser.network.network.save_pretrained"
    if network not in TARGETS:
        raise UsageError(f"no pipeline calls a {network} as it was trained here; {alone}")
    target = TARGETS[network]
    if conditioned_on != target.conditioned_on or latents != target.latents:
        wants = " and ".join(target.conditioned_on) or "nothing"
        space = "latents" if target.latents else "pixels"
        has = " and ".join(conditioned_on) or "nothing"
        raise UsageError(
            f"{target.pipeline} conditions its network on {wants} and denoises {space}, this one is "
            f"conditioned on {has} and denoises "
            f"{'latents' if latents else 'pixels'}; {alone}"
        )
    return target


def _scheduler(schedule: NoiseSchedule, objective: str, target: Target) -> Any:
    kinds = diffusers()
    prediction = PREDICTIONS[objective]
    if target.flows:
        if isinstance(schedule, TableSchedule) or objective != "flow":
            raise UsageError(
                f"{target.pipeline} denoises flows, this run predicts {objective} on {schedule.config()['name']}; "
                "train with --schedule flow --objective flow"
            )
        return kinds.FlowMatchEulerDiscreteScheduler()
    if not isinstance(schedule, TableSchedule):
        if target.pipeline == "DDIMPipeline":
            raise UsageError("DDIMPipeline has no flow; train with --schedule vp_linear, or load the run with fl.load")
        return kinds.DPMSolverMultistepScheduler(
            prediction_type=prediction, use_flow_sigmas=True, flow_shift=1.0, final_sigmas_type="zero"
        )
    return kinds.DDIMScheduler(
        num_train_timesteps=schedule.table_size,
        **_betas(schedule),
        prediction_type=prediction,
        timestep_spacing="trailing",  # from the last entry, pure noise
        set_alpha_to_one=True,  # down to data
        clip_sample=False,
        steps_offset=1,  # of no effect with this spacing; StableDiffusionPipeline asks for it
    )


def _betas(schedule: TableSchedule) -> dict[str, Any]:
    known = {"vp_scaled_linear": ("scaled_linear", 0.00085, 0.012), "vp_linear": ("linear", 1e-4, 0.02)}
    if schedule.name in known and schedule.table_size == 1000:
        name, start, end = known[schedule.name]
        return {"beta_schedule": name, "beta_start": start, "beta_end": end}
    table = (1.0, *schedule.alphas_cumprod)
    return {"trained_betas": [1 - after / before for before, after in pairwise(table)]}


def _vae(codec: LatentCodec, images: list[int], target: Target) -> nn.Module:
    if codec.shift and not target.shifts:
        raise UsageError(f"{target.pipeline} shifts no latents, the autoencoder {codec.source!r} does; take another")
    if images[1] % target.sides:
        raise UsageError(
            f"{target.pipeline} makes images whose sides are multiples of {target.sides}, these are {images[1]}; train "
            f"with --size {-(-images[1] // target.sides) * target.sides}"
        )
    assert isinstance(codec, Autoencoder)
    network: Any = codec.network
    network.register_to_config(scaling_factor=codec.scale, **({"shift_factor": codec.shift} if target.shifts else {}))
    vae: nn.Module = network
    return vae


def _text(config: Mapping[str, Any], target: Target, near: Path) -> dict[str, Any]:
    encoder = encoder_from_config(config, near)
    if not isinstance(encoder, PretrainedText) or encoder.name != target.encoder or encoder.windows != 1:
        raise UsageError(
            f"{target.pipeline} reads prompts with one window of {target.encoder}, this model with {config['name']}, "
            f"windows {config.get('windows')}; train it with --text {target.encoder}:SOURCE"
        )
    network, tokenizer = encoder.parts()
    tokenizer.model_max_length = encoder.window
    found = {"text_encoder": network, "tokenizer": tokenizer}
    if target.encoder == "sd3":
        found |= {f"{name}_2": part for name, part in found.items()}
        found |= {"text_encoder_3": _silent(encoder.width, len(tokenizer)), "tokenizer_3": tokenizer}
    return found


def _silent(width: int, words: int) -> nn.Module:
    """A T5 whose states are all 0, in the place of one that the network has never seen: ``from_pretrained`` wants
    some third text encoder."""
    transformers = library("the pipeline's third text encoder")
    settings = {"vocab_size": words, "d_model": width, "d_kv": 1, "d_ff": 1, "num_layers": 1, "num_heads": 1}
    with torch.random.fork_rng(devices=[]):
        network: Any = transformers.T5EncoderModel(transformers.T5Config(**settings))
    nn.init.zeros_(network.encoder.final_layer_norm.weight)
    silent: nn.Module = network.eval()
    return silent


def _labels(network: Any, classes: list[str]) -> dict[str, Any]:
    if setting(network, "num_embeds_ada_norm") != _DIT_NULL:
        raise UsageError(
            f"DiTPipeline's null is class {_DIT_NULL}, this network's {setting(network, 'num_embeds_ada_norm')}; train "
            "one without num_embeds_ada_norm among its settings"
        )
    return {"id2label": dict(enumerate(classes))}


def _whole(folder: Path, write: Callable[[Path], object]) -> None:
    """All of what ``write`` writes to a folder, or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:40]}.") as above, quiet():
            partial = Path(above) / "pipeline"
            write(partial)
            settle(partial)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
            synced(folder.parent)
    except OSError as error:
        raise UsageError(f"cannot write the pipeline {folder}: {error}; choose another folder") from error
