"""Adapters of low rank on the network of a pipeline (LoRA, Hu et al. 2021, 2106.09685), through `peft`.

The network itself is read from the pipeline and never trained; a checkpoint holds the adapters alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.errors import UsageError
from fairlead.core.places import place_of
from fairlead.core.strict_json import read_json
from fairlead.core.typed import Count, Size
from fairlead.diffusers.foreign_files import check_pipeline, variant_of
from fairlead.diffusers.network_calls import called, latent_channels
from fairlead.diffusers.networks import DiffusersNet, EncodedShape, EncodedText
from fairlead.diffusers.pipelines import diffusers as _library
from fairlead.diffusers.pretrained import files_of, library, quiet, setting, weight_hash
from fairlead.diffusers.schedulers import objective_of, schedule_of
from fairlead.nets.build import UNFIT

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Names of the linear layers of attention in diffusers' networks, the ones that its own scripts adapt."""
COMPONENT = "unet"
"""Of the pipelines whose networks are adapted."""


class LoraNet(DiffusersNet):
    """A pipeline's network with adapters: (W + B A) in place of W in its attention layers, B starting at zero.

    Args:
        channels_in, size, classes: as for the U-Net; classes is 0.
        pipeline: folder or hub name of the pipeline.
        rank: of the adapters, at least 1.
        base: hash of the weights that the pipeline's network must have.
        text: "width" and "length" of the encoder's states.
        layers: last parts of the names of the layers that get one.

    Raises:
        UsageError: if `peft` is missing, no layer has such a name, or the pipeline's network is not the one of the
            training.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Size,
        classes: Count,
        pipeline: str,
        rank: Size,
        base: str,
        text: EncodedShape,
        layers: Sequence[str] = ATTENTION,
    ) -> None:
        nn.Module.__init__(self)
        network = base_network(pipeline)
        found = weight_hash(network)
        if found != base:
            raise UsageError(
                f"pipeline {pipeline!r} has a network of other weights ({found}) than in training ({base}); use the "
                "network of the training"
            )
        if latent_channels(network) != channels_in or classes:
            raise UsageError(f"pipeline {pipeline!r}: its network is not for {channels_in} channels and no classes")
        if rank < 1:
            raise UsageError(f"lora: expected a rank of at least 1, got {rank}")
        self.called, self.classes, self.rank = called(type(network).__name__), 0, rank
        self.network = network
        self.text = EncodedText(text["width"], text["length"])
        try:
            network.add_adapter(_peft().LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))
        except ValueError as error:
            raise UsageError(f"lora on {', '.join(layers)}: {str(error).splitlines()[0]}") from error
        self.register_state_dict_post_hook(_without_base)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_base)  # type: ignore[no-untyped-call]

    def adapters(self) -> dict[str, Tensor]:
        """Tensors by the names that `peft` saves them under."""
        found: dict[str, Tensor] = _peft().get_peft_model_state_dict(self.network)
        return found

    @staticmethod
    def relocated(about: Mapping[str, Any], near: Path) -> dict[str, Any]:
        """The description of a run with the pipeline of its adapters where that is now, and the VAE and the text
        encoder of that pipeline with it.

        Args:
            near: the folder of the checkpoint.

        Raises:
            UsageError: if the pipeline was a local folder and is not found.
        """
        was, train = str(about["net"]["pipeline"]), dict(about["train"])
        now = place_of(was, near)
        parts = {key: dict(train[key]) for key in ("text", "latents") if isinstance(train.get(key), dict)}
        local = Path(was).is_absolute() or any(part.get("source") == was for part in parts.values())
        if local and not Path(now).expanduser().is_dir():
            raise UsageError(
                f"checkpoint {near}: its adapters belong to the pipeline {was!r}, a local folder that is missing; put "
                "it back there, or beside the run"
            )
        for part in parts.values():
            if not Path(str(part.get("source"))).expanduser().is_dir():
                part["source"] = str(pipeline_folder(now))
        return {**about, "net": {**about["net"], "pipeline": now}, "train": {**train, **parts}}

    @staticmethod
    def check_weights(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Refuse weights that are not adapters of the rank of the configuration; the network itself is as large as the
        pipeline's, so it is not built for that."""
        ranks = {len(value) for name, value in tensors.items() if ".lora_A." in name}
        if ranks != {config.get("rank")}:
            raise UsageError(f"{UNFIT} (adapters of rank {config.get('rank')!r}, tensors of {sorted(ranks)})")


def base_network(pipeline: str) -> Any:
    """The network of a pipeline, float32, on the CPU, its parameters frozen.

    Raises:
        UsageError: if there is none, or it is of a class that is not known here.
    """
    folder = pipeline_folder(pipeline)
    variant = variant_of(folder / COMPONENT, f"pipeline {pipeline!r}")
    diffusers = library("adapters", "diffusers")
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            network = diffusers.UNet2DConditionModel.from_pretrained(
                folder,
                subfolder=COMPONENT,
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                variant=variant,
            )
    except Exception as error:  # safetensors, json, the library's own checks
        raise UsageError(
            f"pipeline {pipeline!r}: its network cannot be loaded ({' '.join(str(error).split())[:200]})"
        ) from error
    for name in ("time_cond_proj_dim", "addition_embed_type", "class_embed_type"):
        if setting(network, name):
            raise UsageError(
                f"pipeline {pipeline!r}: its network is conditioned on {name} "
                f"{setting(network, name)!r}, which no training here "
                "has; take a pipeline of Stable Diffusion 1 or 2"
            )
    network = network.float().requires_grad_(False)
    return network


def pipeline_folder(pipeline: str) -> Path:
    """The local folder of a pipeline with a U-Net, downloaded if it is not there."""
    what = f"pipeline {pipeline!r}"

    def complete(folder: Path) -> Path:
        for file in ("model_index.json", f"{COMPONENT}/config.json", "scheduler/scheduler_config.json"):
            if not (folder / file).is_file():
                raise UsageError(f"{what}: {folder} has no {file}; expected a pipeline of Stable Diffusion")
        check_pipeline(folder, what)
        return folder

    def wanted(files: Sequence[str]) -> list[str]:
        return ["*.json", "*.txt", *(name for name in files if name.endswith(".safetensors") and "/" in name)]

    return files_of(pipeline, what, complete, wanted)


def _peft() -> Any:
    try:
        return library("adapters", "peft")
    except UsageError as error:
        raise UsageError("adapters need the package peft; pip install 'fairlead[lora]'") from error


def _trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad or "lora_" in name}


def _without_base(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """What is frozen is in the pipeline."""
    kept = {f"{prefix}{name}" for name in _trained(module)} | {f"{prefix}text.empty"}
    for name in [name for name in state if name.startswith(prefix) and name not in kept]:
        del state[name]


def _with_base(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    trained = _trained(module)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if name not in trained and name != "text.empty":
            state.setdefault(f"{prefix}{name}", value.detach())


_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")


@dataclass(frozen=True)
class Base:
    """A pipeline of Stable Diffusion that adapters are trained for.

    Attributes:
        source: folder or hub name.
        folder: where its files are; its VAE is read from there, ``latents``, and its text encoder, ``text``.
        schedule: configuration of the noise schedule that its scheduler has a table of.
        objective: what its network returns.
        base: hash of the network's weights.
    """

    source: str
    folder: Path
    schedule: dict[str, Any]
    objective: str
    base: str

    @classmethod
    def of(cls, source: str) -> Base:
        """
        Raises:
            UsageError: if there is no such pipeline, or it is of another kind.
        """
        folder = pipeline_folder(source)
        if Path(source).expanduser().is_dir():  # the run is to find it from everywhere
            source = str(Path(source).expanduser().resolve())
            folder = Path(source)
        try:
            index = read_json(folder / "model_index.json")
            kind, (_, scheduler) = index["_class_name"], index["scheduler"]
            made = getattr(_library(), scheduler).from_pretrained(folder, subfolder="scheduler")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"pipeline {source!r}: its scheduler cannot be read ({error})") from error
        if kind not in _PIPELINES:
            raise UsageError(f"pipeline {source!r} is a {kind}; adapters are trained for {', '.join(_PIPELINES)}")
        objective = objective_of(made)
        return cls(source, folder, schedule_of(made).config(), objective, weight_hash(base_network(source)))

    @property
    def text(self) -> str:
        """Spec of its text encoder."""
        return f"clip:{self.folder}"

    def net(self, channels: int, size: int, rank: int, text: dict[str, Any]) -> dict[str, Any]:
        """Configuration of its network with adapters, for latents [channels, size, size].

        Args:
            text: what ``asked`` returned of the text.
        """
        return {
            "kind": "lora", "channels_in": channels, "size": size, "classes": 0, "pipeline": self.source,
            "rank": rank, "base": self.base, "text": {**text, "null": "empty"},
        }  # fmt: skip
