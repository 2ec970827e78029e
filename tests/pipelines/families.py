"""One case for every family of pipelines and every scheduler: how to make it, and a call of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.pipelines import made

PROMPTS = ("a cat", "red", "blue dog")
NEGATIVES = ("blurry", "a", "green square")


def picture() -> Image.Image:
    return Image.fromarray((np.random.default_rng(0).random((16, 16, 3)) * 255).astype("uint8"))


def half_mask() -> Image.Image:
    return Image.fromarray(((np.arange(256).reshape(16, 16) % 16 > 7) * 255).astype("uint8"))


@dataclass(frozen=True)
class Case:
    """A pipeline and a call of it for one sample or several.

    Attributes:
        make: the pipeline.
        call: further arguments; what is a list there is repeated for every sample.
        scale: the pipeline's own argument for the scale.
        text: whether it takes prompts.
        negative: whether its own guidance needs a negative prompt.
    """

    make: Callable[..., Any]
    call: dict[str, Any] = field(default_factory=dict)
    scale: str = "guidance_scale"
    text: bool = True
    negative: bool = False

    def arguments(self, n: int = 2, negatives: bool = False) -> dict[str, Any]:
        one = {k: v * n if isinstance(v, list) else v for k, v in self.call.items()}
        if not self.text:
            return {"output_type": "pt", **one}
        words: dict[str, Any] = {"prompt": list(PROMPTS[:n])}
        if negatives or self.negative:
            words["negative_prompt"] = list(NEGATIVES[:n])
        return {"output_type": "latent", **words, **one}


def run(pipe: Any, arguments: dict[str, Any], steps: Any = 4, **more: Any) -> Tensor:
    """A call with fixed seeds -> latents or images."""
    torch.manual_seed(7)  # some pipelines encode their image with the default generator
    answer = pipe(generator=made.seeded(3), num_inference_steps=steps, **{**arguments, **more})[0]
    return torch.as_tensor(np.asarray(answer) if isinstance(answer, list) else answer)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of b."""
    return float((a - b).abs().max() / b.abs().max())


SMALL = {"height": 8, "width": 8}
LARGER = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 8}
PLAIN = {"use_resolution_binning": False, "clean_caption": False}


def _control(kind: str, **more: Any) -> Callable[..., Any]:
    return lambda **parts: made.sd(kind, controlnet=made.controlnet(), **{**more, **parts})


def _xl_control(**parts: Any) -> Any:
    shape: dict[str, Any] = {key: value for key, value in made.XL.items() if key != "up_block_types"}
    return made.sdxl("StableDiffusionXLControlNetPipeline", controlnet=made.controlnet(cross=32, **shape), **parts)


def _sd3_control(**parts: Any) -> Any:
    return made.sd3("StableDiffusion3ControlNetPipeline", controlnet=made.sd3_controlnet(), **parts)


def _of(make: Callable[..., Any], kind: str, **more: Any) -> Callable[..., Any]:
    return lambda **parts: make(kind, **{**more, **parts})


FAMILIES: dict[str, Case] = {
    "sd": Case(made.sd, SMALL),
    "sd img2img": Case(_of(made.sd, "StableDiffusionImg2ImgPipeline"), {"image": [picture()], "strength": 0.6}),
    "sd inpaint": Case(
        _of(made.sd, "StableDiffusionInpaintPipeline"), {"image": picture(), "mask_image": half_mask(), **LARGER}
    ),
    "sd inpaint, 9 channels": Case(
        _of(made.sd, "StableDiffusionInpaintPipeline", network=made.unet(inputs=9)),
        {"image": picture(), "mask_image": half_mask(), **LARGER},
    ),
    "sd controlnet": Case(_control("StableDiffusionControlNetPipeline"), {"image": [picture()], **LARGER}),
    "sd controlnet, guess mode": Case(
        _control("StableDiffusionControlNetPipeline"), {"image": [picture()], "guess_mode": True, **LARGER}
    ),
    "sd controlnet img2img": Case(
        _control("StableDiffusionControlNetImg2ImgPipeline"),
        {"image": [picture()], "control_image": [picture()], **LARGER},
    ),
    "sd controlnet inpaint": Case(
        _control("StableDiffusionControlNetInpaintPipeline"),
        {"image": picture(), "mask_image": half_mask(), "control_image": picture(), **LARGER},
    ),
    "sdxl": Case(made.sdxl, SMALL),
    "sdxl img2img": Case(_of(made.sdxl, "StableDiffusionXLImg2ImgPipeline"), {"image": [picture()], "strength": 0.6}),
    "sdxl inpaint": Case(
        _of(made.sdxl, "StableDiffusionXLInpaintPipeline"), {"image": picture(), "mask_image": half_mask(), **LARGER}
    ),
    "sdxl controlnet": Case(_xl_control, {"image": [picture()], **LARGER}),
    "sd3": Case(made.sd3, {**SMALL, **SHORT}),
    "sd3 img2img": Case(_of(made.sd3, "StableDiffusion3Img2ImgPipeline"), {"image": [picture()], **SMALL, **SHORT}),
    "sd3 inpaint": Case(
        _of(made.sd3, "StableDiffusion3InpaintPipeline", channels=16),
        {"image": picture(), "mask_image": half_mask(), **LARGER, **SHORT},
    ),
    "sd3 controlnet": Case(_sd3_control, {"control_image": picture(), **SMALL, **SHORT}),
    "flux": Case(made.flux, {**SMALL, **SHORT}, "true_cfg_scale", negative=True),
    "flux without embedded guidance": Case(
        lambda **parts: made.flux(embedded=False, **parts), {**SMALL, **SHORT}, "true_cfg_scale", negative=True
    ),
    "flux img2img": Case(
        _of(made.flux, "FluxImg2ImgPipeline"),
        {"image": [picture()], **LARGER, **SHORT},
        "true_cfg_scale",
        negative=True,
    ),
    "flux inpaint": Case(
        _of(made.flux, "FluxInpaintPipeline"),
        {"image": picture(), "mask_image": half_mask(), **LARGER, **SHORT},
        "true_cfg_scale",
        negative=True,
    ),
    "pixart alpha": Case(made.pixart, {**SMALL, **PLAIN}),
    "pixart sigma": Case(_of(made.pixart, "PixArtSigmaPipeline"), {**SMALL, **PLAIN}),
    "sana": Case(made.sana, {"height": 64, "width": 64, "complex_human_instruction": None, **PLAIN}),
    "dit": Case(made.dit, {"class_labels": [1]}, text=False),
}

ACCELERATED = {"use_karras_sigmas": True}
V = {"prediction_type": "v_prediction"}
DARK = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def _vp(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(diffusers, kind)(**{**made.BETAS, "steps_offset": 1, **more})


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": made.ddim,
    "euler": _vp("EulerDiscreteScheduler"),
    "euler ancestral": _vp("EulerAncestralDiscreteScheduler"),
    "dpm++": _vp("DPMSolverMultistepScheduler"),
    "unipc": _vp("UniPCMultistepScheduler"),
    "ddpm": _vp("DDPMScheduler", clip_sample=False),
    "pndm": _vp("PNDMScheduler", skip_prk_steps=True),
    "lms": _vp("LMSDiscreteScheduler"),
    "heun": _vp("HeunDiscreteScheduler"),
    "kdpm2": _vp("KDPM2DiscreteScheduler"),
    "kdpm2 ancestral": _vp("KDPM2AncestralDiscreteScheduler"),
    "deis": _vp("DEISMultistepScheduler"),
    "dpm++ single": lambda: diffusers.DPMSolverSinglestepScheduler(**made.BETAS),
    "dpm++ sde": _vp("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    "sa": _vp("SASolverScheduler"),
    "tcd": _vp("TCDScheduler"),
    "lcm": _vp("LCMScheduler"),
    "ddim x0": lambda: made.ddim(prediction_type="sample"),
    "ddim v": lambda: made.ddim(**V),
    "ddim v, zero terminal SNR": lambda: made.ddim(**DARK),
    "euler v": _vp("EulerDiscreteScheduler", **V),
    "euler v, zero terminal SNR": _vp("EulerDiscreteScheduler", **DARK),
    "euler ancestral v": _vp("EulerAncestralDiscreteScheduler", **V),
    "dpm++ v": _vp("DPMSolverMultistepScheduler", **V),
    "unipc v": _vp("UniPCMultistepScheduler", **V),
    "euler karras": _vp("EulerDiscreteScheduler", **ACCELERATED),
    "dpm++ karras": _vp("DPMSolverMultistepScheduler", **ACCELERATED),
}
FLOW_SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow euler": made.flow,
    "flow euler, stochastic": lambda: made.flow(stochastic_sampling=True),
    "flow euler, karras": lambda: made.flow(use_karras_sigmas=True),
    "flow heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "flow dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW),
    "flow unipc": lambda: diffusers.UniPCMultistepScheduler(**FLOW),
}


def ratios(scheduler: Any) -> Sequence[float]:
    """sigma / alpha at each of the scheduler's timesteps, by hand for those that tests count steps of."""
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return [float(s / (1 - s)) if s < 1 else float("inf") for s in scheduler.sigmas[:-1].double()]
    table = scheduler.alphas_cumprod.double()
    return [float(((1 - table[int(k)]) / table[int(k)]).sqrt()) for k in scheduler.timesteps]
