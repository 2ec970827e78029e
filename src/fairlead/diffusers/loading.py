"""A diffusers pipeline -> Model: its network as a denoiser, its text encoders, its VAE, its scheduler's table of noise.

The scheduler itself takes no part: our samplers step, on the schedule that its tables give.

Over 300 lines, as what is loaded of a pipeline, its prompts and its network share one wiring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating, gradients_of
from fairlead.core.places import is_there
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.diffusers.caches import check_switched_off, check_uncached
from fairlead.diffusers.families import Wiring, known_wiring
from fairlead.diffusers.foreign_files import check_pipeline
from fairlead.diffusers.guiding.learned_model import learned_model
from fairlead.diffusers.negative_text import with_negative_text
from fairlead.diffusers.network_calls import (
    MASK,
    POOLED,
    POOLED_XL,
    STATES,
    check_differentiable,
    computes_in,
    latent_channels,
    nested,
    null_label,
    time_scale,
    tokens_of,
)
from fairlead.diffusers.packing import packed, unpacked
from fairlead.diffusers.perturbation import check_reachable, inner_network, layers_of, perturbing, text_layers
from fairlead.diffusers.pipelines import (
    EXAMPLES,
    check_pipeline_object,
    decoded,
    diffusers,
    encoded,
    has_text_encoder,
    image_scale,
    label_encoder_of,
    latents_of,
)
from fairlead.diffusers.pretrained import setting, weight_hash
from fairlead.diffusers.schedulers import is_flow, objective_of, schedule_of
from fairlead.models.model import Given, LabelEncoder, Model, Spec, encode_nothing, listed, only_texts

_NAMES = {
    STATES: "prompt",
    MASK: "prompt_mask",
    POOLED_XL: "prompt_pooled",
    POOLED: "prompt_pooled",
}
"""Argument of the network -> its name in a condition."""
_REMEMBERED = 1024


def load_pipeline(
    spec: Any, *, size: int | tuple[int, int] | None = None, device: str | torch.device = "auto"
) -> Model:
    """Load a pipeline of text to image, of class labels or of neither.

    Args:
        spec: a folder with ``model_index.json``, a name on the hub, or a pipeline.
        size: of the latents, if not the one that the network was trained with.
        device: "auto" leaves a pipeline where it is and takes a GPU for one that is loaded, when there is one.

    Raises:
        UsageError: for pipelines of unknown families, those that need an image beside the prompt, and those whose
            network takes the guidance scale as an input.
    """
    pipe, name = (spec, type(spec).__name__) if not isinstance(spec, str | Path) else (_from_files(spec), str(spec))
    check_pipeline_object(pipe)
    if device != "auto" or isinstance(spec, str | Path):
        pipe.to("cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device)
    wiring = known_wiring(type(pipe))
    if wiring is None:
        return learned_model(pipe, name, size)
    network, scheduler = getattr(pipe, wiring.network), pipe.scheduler
    _check_kind(pipe, wiring, network)
    check_uncached(network, f"pipe.{wiring.network}")
    shape = (latent_channels(network, wiring.packed), *_latent_size(pipe, wiring, network, size))
    schedule = schedule_of(scheduler, float(setting(scheduler, "shift", 1.0)) if is_flow(scheduler) else 1.0)
    labels = label_encoder_of(pipe, network) if wiring.labels else None
    names = labels.classes if labels is not None else ()
    latent = getattr(pipe, "vae", None) is not None
    texts = PipelinePrompts(pipe, wiring) if wiring.texts else None
    fixed = _fixed(pipe, wiring, network, (shape[1], shape[2]))
    denoiser = LoadedNetwork(network, wiring, schedule, scheduler, texts, fixed)
    return Model(
        denoiser=denoiser,
        schedule=schedule,
        shape=shape,
        encode=texts or (LabelEncoder(names) if names else encode_nothing),
        decode=partial(_decode, pipe),
        classes=names,
        conditions=("text",) if texts else ("label",) if names else (),
        examples=EXAMPLES if texts else names,
        data_range=None if latent else (-1.0, 1.0),
        objective=denoiser.objective,
        layers={**layers_of(network), **text_layers(network)},
        embed=(lambda condition: condition) if texts else None,
        metadata={
            "pipeline": name,
            "kind": type(pipe).__name__,
            "weights_hash": weight_hash(network),
            "objective": denoiser.objective,
            "scheduler": type(scheduler).__name__,
            "diffusers": diffusers().__version__,
        },
        device=network.device,
        to_space=partial(latents_of, pipe),
        image_shape=(3, shape[1] * image_scale(pipe), shape[2] * image_scale(pipe)) if latent else shape,
        reachable=partial(check_reachable, network),
        null_tokens=None if texts is None else texts.null_tokens,
    )


def _from_files(spec: str | Path) -> Any:
    what, loader = f"pipeline {str(spec)!r}", diffusers().DiffusionPipeline
    try:
        folder = Path(spec)
        if not folder.is_dir():
            folder = Path(loader.download(str(spec), use_safetensors=True))
        variant = check_pipeline(folder, what)
        return loader.from_pretrained(str(folder), use_safetensors=True, variant=variant)
    except UsageError:
        raise
    except Exception as error:  # whatever a hub, a file or a component raises
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if not is_there(spec):
            raise UsageError(
                f"no checkpoint {str(spec)!r}: the path does not exist, and the hub gives no pipeline of that name "
                f"({reason}); train one with `fairlead train --out {spec}`, or pass a folder"
            ) from error
        raise UsageError(f"{str(spec)!r} cannot be loaded as a diffusers pipeline: {reason}") from error


def _check_kind(pipe: Any, wiring: Wiring, network: Any) -> None:
    kind = type(pipe).__name__
    if setting(network, "time_cond_proj_dim") is not None:
        raise UsageError(
            f"{kind}: its network is distilled, it takes the guidance scale as an input; load the model that it was "
            "distilled from"
        )
    if setting(network, "encoder_hid_dim_type") == "ip_image_proj":
        raise UsageError(
            f"{kind} conditions its network on an image prompt (IP-Adapter), which fl.sample does not have; use "
            "fl.attach on it"
        )
    if getattr(pipe.config, "requires_aesthetics_score", False):
        raise UsageError(
            f"{kind} refines images and is conditioned on their aesthetic score (requires_aesthetics_score), which "
            "fl.sample does not have; use fl.attach on it"
        )
    stacked = not wiring.packed and setting(network, "in_channels") != latent_channels(network, wiring.packed)
    if pipe.components.get("controlnet") is not None or stacked:
        raise UsageError(
            f"{kind} needs an image in addition to the prompt, which fl.sample does not have; use fl.attach on it"
        )
    if wiring.texts and not has_text_encoder(pipe):
        raise UsageError(f"{kind} has no text encoder, so prompts cannot be encoded; load it with one")


def _latent_size(pipe: Any, wiring: Wiring, network: Any, size: int | tuple[int, int] | None) -> tuple[int, int]:
    size = size or setting(network, "sample_size") or getattr(pipe, "default_sample_size", None)
    pair = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(pair) != 2 or min(pair) < 1:
        raise UsageError(f"size: expected the height and width of the latents, got {size!r}")
    return int(pair[0]), int(pair[1])


def _decode(pipe: Any, x0: Tensor) -> Tensor:
    """In the VAE's own device, as many images as given."""
    vae = getattr(pipe, "vae", None)
    with torch.set_grad_enabled(x0.requires_grad):
        return decoded(pipe, x0 if vae is None else x0.to(vae.device)).to(x0.device)


def _fixed(pipe: Any, wiring: Wiring, network: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Arguments that are the same at every call: path -> [1, ...] for each row, or anything for all."""
    fixed: dict[str, Any] = {}
    if setting(network, "addition_embed_type") == "text_time":
        edges = tuple(edge * pipe.vae_scale_factor for edge in size)
        fixed["added_cond_kwargs.time_ids"] = torch.tensor([[*edges, 0, 0, *edges]], dtype=torch.float32)
    if wiring.packed:
        positions = pipe._prepare_latent_image_ids(1, size[0] // 2, size[1] // 2, None, torch.float32)
        fixed["img_ids"] = positions
        if setting(network, "guidance_embeds"):
            default = inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default
            fixed["guidance"] = torch.tensor([float(default)])
    if type(network).__name__.startswith("PixArt"):
        large = setting(network, "sample_size") == 128
        edges = tuple(edge * pipe.vae_scale_factor for edge in size)
        fixed["added_cond_kwargs.resolution"] = torch.tensor([edges], dtype=torch.float32) if large else None
        fixed["added_cond_kwargs.aspect_ratio"] = torch.tensor([[edges[0] / edges[1]]]) if large else None
    return fixed


@dataclass(eq=False)
class PipelinePrompts:
    """Prompts -> Condition of named embeddings [n, ...]; None is null, what the pipeline makes of no prompt at all.
    Prompts are encoded once, one at a time, so that none depends on its neighbours."""

    pipe: Any
    wiring: Wiring
    _known: dict[Spec, Mapping[str, Tensor]] = field(default_factory=dict)

    __repr__ = brief

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        """Raises UsageError for a spec that is no text."""
        specs = listed(specs)
        rows = [self.row(self.named(spec)) for spec in specs]
        keep = torch.tensor([spec is not None for spec in specs])
        values = {name: torch.cat([row[name] for row in rows]) for name in self.row(None)}
        return Condition(len(specs), values, {name: keep.to(value.device) for name, value in values.items()})

    def named(self, spec: Given) -> str | None:
        return only_texts("takes prompts, write one as text", spec)

    def null_tokens(self) -> dict[str, Tensor]:
        """What stands for no prompt, of one sample."""
        return {name: value[0] for name, value in self.row(None).items() if value.is_floating_point()}

    def row(self, spec: Spec) -> Mapping[str, Tensor]:
        """Name -> [1, ...] of one prompt."""
        found = self._known.get(spec)
        if found is None:
            found = self._encoded(spec)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[spec] = found
        return found

    def _encoded(self, spec: Spec) -> Mapping[str, Tensor]:
        texts = self.wiring.texts or {}
        prompt = "" if spec is None else str(spec)
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(type(self.pipe).__call__).parameters.items()
            if name in ("max_sequence_length", "complex_human_instruction")
        }
        separate = any(negative is None for _, negative in texts.values())
        null = spec is None and not separate
        answer = encoded(self.pipe, [prompt], defaults, do_classifier_free_guidance=null)
        places = {path: other if null and other is not None else own for path, (own, other) in texts.items()}
        found = {_NAMES[path]: answer[place] for path, place in places.items()}
        return {name: value.long() if name == "prompt_mask" else value for name, value in found.items()}


class LoadedNetwork:
    """A pipeline's network as a denoiser of conditions by :class:`PipelinePrompts` or of labels."""

    counts = True

    def __init__(
        self,
        network: Any,
        wiring: Wiring,
        schedule: NoiseSchedule,
        scheduler: Any,
        texts: Callable[[Sequence[Spec]], Condition] | None,
        fixed: Mapping[str, Any],
    ) -> None:
        self.network, self.wiring, self.schedule, self.texts, self.fixed = network, wiring, schedule, texts, fixed
        self.objective = objective_of(scheduler)
        self._channels, self._scale = latent_channels(network, wiring.packed), time_scale(network, wiring.packed)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        check_switched_off(self.network, f"pipe.{self.wiring.network}")
        if torch.is_grad_enabled() and x_t.requires_grad:
            check_differentiable(self.network)
        level = level_at(self.schedule, as_time(t), x_t)
        mixing = level.mixing
        own = torch.empty(0, dtype=computes_in(self.network), device=self.network.device)
        network_time = 1000 * mixing.sigma.float() if self.objective == "flow" else level.time
        time = (network_time.reshape(-1) * self._scale).expand(len(x_t)).to(x_t.device)
        x, size = x_t.to(own.dtype), (x_t.shape[-2], x_t.shape[-1])
        arguments, text = with_negative_text(
            inner_network(self.network), condition, partial(self._arguments, len(x_t), own)
        )
        with (
            evaluating(self.network),
            gradients_of(x_t, *condition.values.values(), *condition.null.values()),
            perturbing(self.network, condition.perturb, tokens_of(self.network, size, self.wiring.packed), text),
        ):
            network_input = packed(x) if self.wiring.packed else x
            output = self.network(network_input, timestep=time, return_dict=False, **arguments)[0]
        tally(len(x_t))
        output = unpacked(output, size) if self.wiring.packed else output
        output = output[:, : self._channels].to(x_t.dtype)
        return Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))

    def _arguments(self, rows: int, own: Tensor, condition: Condition) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for path, value in self.fixed.items():
            shared = not isinstance(value, Tensor) or path == "img_ids"
            flat[path] = value if shared else value.expand(rows, *value.shape[1:])
        for path in self.wiring.texts or ():
            flat[path] = self._text(condition, _NAMES[path])
        if self.wiring.packed:
            flat["txt_ids"] = own.new_zeros(flat[STATES].shape[1], 3)
        if self.wiring.labels:
            null = null_label(inner_network(self.network))
            flat["class_labels"] = torch.where(condition.keep["label"], condition.values["label"], null)
        return nested(flat, own)

    def _text(self, condition: Condition, name: str) -> Tensor:
        """The embeddings of a condition, null where it is not kept."""
        value, keep = condition.values[name], condition.keep[name]
        if bool(keep.all()):
            return value
        assert self.texts is not None
        null = condition.null[name] if name in condition.null else self.texts([None]).values[name]
        null = null.to(value)
        return torch.where(keep.to(value.device).reshape(-1, *([1] * (value.ndim - 1))), value, null)
