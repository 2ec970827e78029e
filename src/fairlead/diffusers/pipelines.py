"""Pipelines of diffusers: what their text encoders and autoencoders make of prompts and images, and what their configs
say of both."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating, gradients_of
from fairlead.diffusers.network_calls import (
    CALLED,
    check_differentiable,
    computes_in,
    null_label,
)
from fairlead.diffusers.pretrained import inner_network, setting
from fairlead.models.model import LabelEncoder
from fairlead.models.negatives import expanded

EXAMPLES = ("a photograph of a red cat", "a drawing of a house", "a green square on a white background", "two dogs")
"""Prompts that any pipeline of text can be asked for."""


def diffusers() -> ModuleType:
    """The library, imported on first use."""
    try:
        library = import_module("diffusers")
    except ImportError as error:
        raise UsageError("diffusers is not installed; run: pip install 'fairlead[diffusers]'") from error
    return library


def check_pipeline_object(pipe: Any) -> None:
    """Raises UsageError for anything that is not a pipeline with a call of its own."""
    modular = getattr(diffusers(), "ModularPipeline", None)
    if modular is not None and isinstance(pipe, modular):
        raise UsageError(
            f"{type(pipe).__name__[:60]} is a modular pipeline, which takes a guider: "
            "pipe.update_components(guider=fl.Guider(GUIDANCE, pipe.scheduler))"
        )
    if not isinstance(pipe, diffusers().DiffusionPipeline):
        raise UsageError(f"expected a diffusers pipeline, got {type(pipe).__name__}; guide any other denoiser with "
                         "fl.GuidedDenoiser")  # fmt: skip


def label_encoder_of(pipe: Any, network: Any) -> LabelEncoder | None:
    """Class names or indices of a class-conditional pipeline; its names are those that it has, else the indices. None
    where its network is of a class that is not known to take any."""
    called = CALLED.get(type(inner_network(network)).__name__)
    if called is None or not setting(network, called.labels):
        return None
    known = {index: name for name, index in reversed(list((getattr(pipe, "labels", None) or {}).items()))}
    return LabelEncoder(tuple(known.get(i, str(i)) for i in range(null_label(inner_network(network)))))


def has_text_encoder(pipe: Any) -> bool:
    return any(name.startswith("text_encoder") and part is not None for name, part in pipe.components.items())


_CARRIED = ("clip_skip", "max_sequence_length", "clean_caption", "complex_human_instruction")


def encoded(pipe: Any, prompts: Sequence[str], given: Mapping[str, Any] | None = None, **more: Any) -> Sequence[Any]:
    """What the pipeline's own ``encode_prompt`` returns for these prompts (or presets, "@portrait"), one image each.

    Args:
        given: arguments of the pipeline's call, of which those that change the encoding are passed on.
        more: arguments of ``encode_prompt``.
    """
    given = given or {}
    parameters = inspect.signature(pipe.encode_prompt).parameters
    scale = next((given[k] or {} for k in ("cross_attention_kwargs", "joint_attention_kwargs") if k in given), {})
    values = {
        "prompt": [expanded(prompt) for prompt in prompts],
        "prompt_2": None,
        "prompt_3": None,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        "lora_scale": scale.get("scale"),
        **{name: given[name] for name in _CARRIED if name in given},
        **more,
    }
    readers = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    with torch.no_grad(), evaluating(*readers):
        answer: Sequence[Any] = pipe.encode_prompt(**{k: v for k, v in values.items() if k in parameters})
    return answer


IMAGE_AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
"""Classes of those that :func:`decoded` can undo the scale and shift of."""


def image_scale(pipe: Any) -> int:
    """Pixels of an image over those of its latents; 1 for pixels."""
    vae = getattr(pipe, "vae", None)
    levels = setting(vae, "block_out_channels") or setting(vae, "encoder_block_out_channels") or (1,)
    return int(2 ** (len(levels) - 1))


def latents_of(pipe: Any, images: Tensor) -> Tensor:
    """Images [n, 3, h, w] in [-1, 1] -> latents, the other way than :func:`decoded`: the mean of the VAE's code."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return images
    dtype = computes_in(vae)
    with evaluating(vae), gradients_of(images):
        answer = _called(vae, "encode", images.to(vae.device, dtype), raised=_upcasts(pipe))
    code = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer.latent
    code = code.to(images) - (setting(vae, "shift_factor") or 0.0)
    mean, std = setting(vae, "latents_mean"), setting(vae, "latents_std")
    if mean is not None and std is not None and len(mean) == code.shape[1]:
        by_channel = [torch.tensor(v, device=code.device, dtype=code.dtype).reshape(1, -1, 1, 1) for v in (mean, std)]
        code = (code - by_channel[0]) / by_channel[1]
    latents: Tensor = code * setting(vae, "scaling_factor", 1.0)
    return latents


def decoded(pipe: Any, x0: Tensor) -> Tensor:
    """Latents [n, c, h, w] -> images [n, 3, ...] in [-1, 1], through the pipeline's VAE; pixels as they are."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return x0
    mean, std = setting(vae, "latents_mean"), setting(vae, "latents_std")
    latents = x0 / setting(vae, "scaling_factor", 1.0)
    if mean is not None and std is not None and len(mean) == x0.shape[1]:
        by_channel = [torch.tensor(v, device=x0.device, dtype=x0.dtype).reshape(1, -1, 1, 1) for v in (mean, std)]
        latents = latents * by_channel[1] + by_channel[0]
    latents = latents + (setting(vae, "shift_factor") or 0.0)
    with evaluating(vae), gradients_of(x0):
        images: Tensor = _called(vae, "decode", latents.to(computes_in(vae)), raised=_upcasts(pipe)).sample
    return images.to(x0.dtype)


def decoders_of(pipe: Any) -> list[Any]:
    """Parts of a pipeline that decode its latents; none where it makes pixels."""
    return [part for part in pipe.components.values() if hasattr(part, "decode") and isinstance(part, nn.Module)]


def decoded_picture(pipe: Any, kind: str, x0: Tensor) -> Tensor:
    """:func:`decoded` of samples [n, c, h, w], where the pipeline has an autoencoder of images, or makes pixels.

    Raises:
        UsageError: for others; ``kind`` is the name of its class.
    """
    if x0.ndim == 4 and (not decoders_of(pipe) or type(getattr(pipe, "vae", None)).__name__ in IMAGE_AUTOENCODERS):
        return decoded(pipe, x0)
    raise UsageError(
        f"how {kind} decodes its latents is not known, so scores of images cannot guide it; use other terms"
    )


def _upcasts(pipe: Any) -> bool:
    """Whether the pipeline itself has its VAE compute in float32 where its weights are half precision."""
    return any(base.__name__.startswith("StableDiffusionXL") for base in type(pipe).__mro__)


def _called(vae: Any, method: str, x: Tensor, raised: bool) -> Any:
    """What the VAE returns for x. One that overflows in float16 (``force_upcast``) computes with float32 copies of its
    weights: always if ``raised``, else where it has overflowed. The VAE stays as it is.

    Raises:
        UsageError: where a gradient is wanted that does not get through.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        check_differentiable(vae)
    fragile = x.dtype == torch.float16 and setting(vae, "force_upcast")
    if not (fragile and raised):
        answer = getattr(vae, method)(x)
        if not fragile or bool(_tensor(answer).isfinite().all()):
            return answer
    wide = {f"part.{name}": value.float() for name, value in _weights(vae) if value.is_floating_point()}
    return functional_call(_Method(vae, method), wide, (x.float(),))


def _weights(vae: Any) -> Iterator[tuple[str, Tensor]]:
    yield from vae.named_parameters()
    yield from vae.named_buffers()


def _tensor(answer: Any) -> Tensor:
    """Of a VAE's answer, decoded or encoded."""
    found = next(getattr(answer, name) for name in ("sample", "latent_dist", "latent") if name in answer)
    tensor: Tensor = found if isinstance(found, Tensor) else found.mean
    return tensor


class _Method(nn.Module):
    """A method of a module as a module of its own."""

    def __init__(self, part: nn.Module, method: str) -> None:
        super().__init__()
        self.part, self.method = part, method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.part, self.method)(x)
