"""One table of everything that has a name: command-line choices, expression names, docs and contract tests read it.

A line maps ``kind -> name -> "module:attribute"``; the module is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fairlead.core.errors import unknown

REGISTRY: dict[str, dict[str, str]] = {
    "schedule": {
        "vp_linear": "fairlead.core.schedule:vp_linear",
        "vp_scaled_linear": "fairlead.core.schedule:vp_scaled_linear",
        "vp_cosine": "fairlead.core.schedule:VPCosine",
        "flow": "fairlead.core.schedule:RectifiedFlow",
        "ve": "fairlead.core.schedule:VE",
        "table": "fairlead.core.schedule:TableSchedule",
    },
    "net": {
        "unet": "fairlead.nets.unet:UNet",
        "dit": "fairlead.nets.dit:DiT",
        "lesson-mnist": "fairlead.nets.lessons:LessonMNIST",
        "lesson-cifar10": "fairlead.nets.lessons:LessonCIFAR10",
    },
    "term": {
        "cfg": "fairlead.guide.cfg:CFG",
        "compose": "fairlead.guide.compose:Compose",
    },
    "finisher": {
        "clip": "fairlead.guide.threshold:Clip",
        "threshold": "fairlead.guide.threshold:Threshold",
    },
    "scale": {
        "ramp": "fairlead.guide.scales:Ramp",
        "clamp": "fairlead.guide.scales:Clamp",
    },
    "sampler": {
        "ddpm": "fairlead.sample.ddpm:DDPM",
        "ddim": "fairlead.sample.ddim:DDIM",
        "euler": "fairlead.sample.euler:Euler",
        "heun": "fairlead.sample.heun:Heun",
        "dpmpp_2m": "fairlead.sample.dpmpp:DPMpp2M",
        "dpmpp_2m_sde": "fairlead.sample.dpmpp:DPMpp2MSDE",
    },
    "grid": {
        "trailing": "fairlead.sample.grids:trailing",
        "leading": "fairlead.sample.grids:leading",
        "linspace": "fairlead.sample.grids:linspace",
        "karras": "fairlead.sample.grids:karras",
        "log_snr": "fairlead.sample.grids:uniform_log_snr",
    },
    "data": {
        "digits": "fairlead.data.digits:load_digits",
        "mnist": "fairlead.data.hub:load_mnist",
        "cifar10": "fairlead.data.hub:load_cifar10",
    },
}


def names(kind: str) -> list[str]:
    """The registered names of a kind, in the order of the table."""
    return list(REGISTRY[kind])


def lookup(kind: str, name: object) -> Any:
    """The registered object.

    Raises:
        UsageError: if ``name`` is not registered; the message lists the names that are.
    """
    if not isinstance(name, str) or name not in REGISTRY[kind]:
        raise unknown(kind, name, REGISTRY[kind])
    module, attribute = REGISTRY[kind][name].split(":")
    return getattr(import_module(module), attribute)
