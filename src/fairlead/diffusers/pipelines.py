"""How diffusers' pipelines call their networks: a table of families, and the facts it cannot hold, read from configs.

A pipeline that guides by itself assembles a batch of two halves, null and conditional, and combines the two answers.
``Wiring`` says which half is which and which arguments carry the text; everything else is read off the call itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating, gradients_of
from fairlead.diffusers.network_calls import MASK, POOLED, POOLED_XL, STATES, check_differentiable, computes_in
from fairlead.diffusers.pretrained import setting
from fairlead.models.model import LabelEncoder
from fairlead.models.negatives import expanded

Texts = Mapping[str, tuple[int, int | None]]
"""Argument of the network -> where ``encode_prompt`` returns it for the prompt and for the negative prompt (None: it
encodes one at a time)."""


@dataclass(frozen=True)
class Wiring:
    """How one family of pipelines calls its network.

    Attributes:
        network: name of the component that denoises.
        null_half: which half of a guided batch is the null one, 0 or 1; None if the pipeline never doubles its batch.
        texts: arguments made from the prompt; empty where there are none.
        labels: whether ``class_labels`` is an argument.
        packed: whether latents are patches in a row, [n, h w / 4, 4 c] (Flux).
        distilled: whether the network may be one without a null condition, so that guidance has to be given a negative.
        control: arguments that a ``controlnet`` component makes.
    """

    network: str
    null_half: int | None = None
    texts: Texts | None = None
    labels: bool = False
    packed: bool = False
    distilled: bool = False
    control: tuple[str, ...] = ()


_SD = Wiring("unet", 0, {STATES: (0, 1)})
_XL = Wiring("unet", 0, {STATES: (0, 1), POOLED_XL: (2, 3)})
_SD3 = Wiring("transformer", 0, {STATES: (0, 1), POOLED: (2, 3)})
_MASKED = Wiring("transformer", 0, {STATES: (0, 2), MASK: (1, 3)})
_FLUX = Wiring(
    "transformer",
    None,
    {STATES: (0, None), POOLED: (1, None)},
    packed=True,
    distilled=True,
)
_RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")

FAMILIES: dict[str, Wiring] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": replace(_SD, control=_RESIDUALS),
    "StableDiffusionControlNetImg2ImgPipeline": replace(_SD, control=_RESIDUALS),
    "StableDiffusionControlNetInpaintPipeline": replace(_SD, control=_RESIDUALS),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
    "StableDiffusionXLControlNetPipeline": replace(_XL, control=_RESIDUALS),
    "StableDiffusionXLControlNetImg2ImgPipeline": replace(_XL, control=_RESIDUALS),
    "StableDiffusionXLControlNetInpaintPipeline": replace(_XL, control=_RESIDUALS),
    "StableDiffusion3Pipeline": _SD3,
    "StableDiffusion3Img2ImgPipeline": _SD3,
    "StableDiffusion3InpaintPipeline": _SD3,
    "StableDiffusion3ControlNetPipeline": replace(_SD3, control=("block_controlnet_hidden_states",)),
    "PixArtAlphaPipeline": _MASKED,
    "PixArtSigmaPipeline": _MASKED,
    "SanaPipeline": _MASKED,
    "FluxPipeline": _FLUX,
    "FluxImg2ImgPipeline": _FLUX,
    "FluxInpaintPipeline": _FLUX,
    "DiTPipeline": Wiring("transformer", 1, labels=True),
    "DDPMPipeline": Wiring("unet"),
    "DDIMPipeline": Wiring("unet"),
    "LatentConsistencyModelPipeline": replace(_SD, null_half=None, distilled=True),
    "LatentConsistencyModelImg2ImgPipeline": replace(_SD, null_half=None, distilled=True),
}


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


def known_wiring(kind: Any) -> Wiring | None:
    """The wiring of pipelines of class ``kind``; None if it is in no table, or has a ``__call__`` of its own."""
    for base in kind.__mro__:
        if base.__name__ in FAMILIES and base.__module__.startswith("diffusers."):
            return FAMILIES[base.__name__] if kind.__call__ is base.__call__ else None
    return None


def unpacked(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Flux's [n, h w / 4, 4 c] -> [n, c, h, w]."""
    h, w = size
    return x.reshape(len(x), h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, h, w)


def packed(x: Tensor) -> Tensor:
    """The inverse of :func:`unpacked`."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def label_encoder(pipe: Any, network: Any) -> LabelEncoder:
    """Class names or indices of a class-conditional pipeline; its names are those that it has, else the indices."""
    count = int(setting(network, "num_embeds_ada_norm"))
    known = {index: name for name, index in reversed(list((getattr(pipe, "labels", None) or {}).items()))}
    return LabelEncoder(tuple(known.get(i, str(i)) for i in range(count)))


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
