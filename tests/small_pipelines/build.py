"""A small random pipeline of any class by its name, and a call of it: components by the annotations of its constructor,
arguments by the names of its call's. What a class needs beside is in ``table.py``."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.pipelines import made
from tests.pipelines.families import NEGATIVES, PROMPTS
from tests.small_pipelines.encoders import PARTS
from tests.small_pipelines.networks import CONFIGS, network

SCALES = ("true_cfg_scale", "guidance_scale", "prior_guidance_scale")


@dataclass(frozen=True)
class Small:
    """What a class of pipelines needs beside what its signatures say.

    Attributes:
        parts: component -> the thing; a dict changes the configuration of its network; a name is another class.
        call: arguments of the call; what is a list there is repeated for every sample.
        own: the pipeline's own scale that is our ``cfg(5)``; None: it has a guider in the place of a scale.
        refused: words of the reason for which no guidance is attached, "" where it is.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    own: float | None = 5.0
    refused: str = ""


class Unchecked(torch.nn.Module):
    """A safety checker that finds everything safe."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, text: Any) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def picture(size: int = 16) -> Image.Image:
    return Image.fromarray((np.random.default_rng(0).random((size, size, 3)) * 255).astype("uint8"))


def half_mask(size: int = 16) -> Image.Image:
    return Image.fromarray(((np.arange(size * size).reshape(size, size) % size >= size // 2) * 255).astype("uint8"))


def pictures(n: int, size: int = 16) -> list[Image.Image]:
    return [picture(size)] * n


SCHEDULERS: dict[str, Any] = {
    "FlowMatchEulerDiscreteScheduler": made.flow,
    "DDIMScheduler": made.ddim,
    "DDPMScheduler": lambda: diffusers.DDPMScheduler(clip_sample=False, **made.BETAS),
    "DPMSolverMultistepScheduler": lambda: diffusers.DPMSolverMultistepScheduler(**made.BETAS),
    "EulerDiscreteScheduler": lambda: diffusers.EulerDiscreteScheduler(steps_offset=1, **made.BETAS),
    "LCMScheduler": lambda: diffusers.LCMScheduler(**made.BETAS),
    "UniPCMultistepScheduler": lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
    "UnCLIPScheduler": lambda: diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
}


def _scheduler(kind: str) -> Any:
    return SCHEDULERS[kind]() if kind in SCHEDULERS else getattr(diffusers, kind)()


def class_of(name: str) -> Any:
    """The class of a small pipeline, called as it is, or as it is with what is special about it after a comma."""
    return getattr(diffusers, name.split(",")[0])


def kinds_of(annotation: Any) -> list[str]:
    """Names of the classes that an annotation allows."""
    names = [part for part in typing.get_args(annotation) if part is not type(None)] or [annotation]
    return [getattr(name, "__name__", str(name)) for name in names]


def component(name: str, kinds: list[str], change: Mapping[str, Any], seed: int = 0) -> Any:
    """A component of a pipeline of one of the classes."""
    if name.endswith("scheduler"):
        known = [kind for kind in kinds if kind in SCHEDULERS]
        return _scheduler(
            "DDIMScheduler" if not known and "KarrasDiffusionSchedulers" in kinds else (known or kinds)[0]
        )
    for kind in kinds:
        if kind in CONFIGS:
            return network(kind, seed, **change)
        if kind in PARTS:
            return PARTS[kind]()
    raise KeyError(f"{name}: no small {' or '.join(kinds)}")


def make(kind: str, small: Small, **more: Any) -> Any:
    """A pipeline of the class; ``more`` adds to the parts."""
    cls = class_of(kind)
    parts: dict[str, Any] = {}
    given: dict[str, Any] = {"requires_safety_checker": False, "add_watermarker": False, **small.parts, **more}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        change = given.get(name, {})
        if name == "self" or (name not in given and parameter.default is not inspect.Parameter.empty):
            continue
        if isinstance(change, str):
            parts[name] = component(name, [change], {}, len(parts))
        elif name not in given and name in ("safety_checker", "feature_extractor", "watermarker"):
            parts[name] = None
        elif isinstance(change, Mapping):
            parts[name] = component(name, kinds_of(parameter.annotation), change, len(parts))
        else:
            parts[name] = change() if isinstance(change, FunctionType | partial) else change
    module = vars(sys.modules[cls.__module__])
    module.setdefault("ftfy", SimpleNamespace(fix_text=str))  # some call it whether it is installed or not
    return made.quiet(cls(**parts))


def scale_of(kind: str) -> str | None:
    """The argument of the call that is the pipeline's own scale."""
    parameters = inspect.signature(class_of(kind).__call__).parameters
    return next((name for name in SCALES if name in parameters), None)


def arguments(kind: str, small: Small, n: int = 1) -> dict[str, Any]:
    """A call for n samples, guided at the scale that is our 5."""
    parameters = inspect.signature(class_of(kind).__call__).parameters
    usual: dict[str, Any] = {
        "prompt": [PROMPTS[i % len(PROMPTS)] for i in range(n)] if n > 1 else PROMPTS[0],
        "negative_prompt": [NEGATIVES[i % len(NEGATIVES)] for i in range(n)] if n > 1 else NEGATIVES[0],
        "height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "max_sequence_length": 8,
        "output_type": "latent", "clean_caption": False, "use_resolution_binning": False,
        "complex_human_instruction": None, "pag_scale": 0.0, "strength": 1.0, "video": pictures(5),
    }  # fmt: skip
    usual["image"], usual["control_image"], usual["mask_image"] = picture(), picture(), half_mask()
    wanted = ("image", "control_image", "mask_image", "video")
    if not kind.startswith("Auto"):
        usual = {k: v for k, v in usual.items() if k not in wanted or _needs(kind, k)}
    found = {name: value for name, value in usual.items() if name in parameters}
    repeated = {k: v * n if isinstance(v, list) and len(v) == 1 else v for k, v in small.call.items()}
    name = scale_of(kind)
    scale = {} if small.own is None or name is None else {name: small.own}
    return {k: v for k, v in {**found, **scale, **repeated}.items() if v is not ...}


def _needs(kind: str, argument: str) -> bool:
    """Whether a class wants a picture."""
    words = {
        "image": ("Img2Img", "ImageToVideo", "Image2Video", "Inpaint", "ControlNetPipeline", "ControlNetPAGPipeline",
                  "Pix2Pix", "Edit", "I2V", "I2I", "Adapter", "Upscale", "Depth2Img", "SuperRes", "Kontext", "Fill",
                  "ImageVariation", "VideoDiffusion", "UnCLIPImg", "VideoToWorld", "Redux"),
        "mask_image": ("Inpaint", "Fill"),
        "control_image": ("ControlNet", "Control"),
        "video": ("VideoToVideo", "Video2Video", "V2V"),
    }  # fmt: skip
    return any(word in kind for word in words[argument])


def flat(answer: Any) -> Tensor:
    """All numbers of a pipeline's answer."""
    value = answer[0] if not isinstance(answer, Tensor | np.ndarray | list) else answer
    if isinstance(value, list):
        return torch.cat([flat(torch.as_tensor(np.asarray(v))) for v in value])
    return torch.as_tensor(np.asarray(value)).double().flatten()


def run(pipe: Any, call: Mapping[str, Any], **more: Any) -> Tensor:
    """A call with fixed seeds -> all numbers of its answer."""
    torch.manual_seed(7)
    given = {k: list(v) if isinstance(v, list) else v for k, v in {**call, **more}.items()}
    if "generator" in inspect.signature(type(pipe).__call__).parameters:
        given.setdefault("generator", made.seeded(3))
    with torch.no_grad():
        return flat(pipe(**given))
