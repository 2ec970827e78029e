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
        "classifier": "fairlead.nets.classifier:NoisyClassifier",
        "autoencoder": "fairlead.diffusers.kl_autoencoder:KLAutoencoder",
        "diffusers": "fairlead.diffusers.networks:DiffusersNet",
        "lora": "fairlead.diffusers.lora:LoraNet",
        "lesson-mnist": "fairlead.nets.lessons:LessonMNIST",
        "lesson-cifar10": "fairlead.nets.lessons:LessonCIFAR10",
    },
    "term": {
        "cfg": "fairlead.guide.methods.cfg:CFG",
        "compose": "fairlead.guide.methods.compose:Compose",
        "classifier": "fairlead.guide.methods.classifier:Classifier",
        "energy": "fairlead.guide.methods.energy:Energy",
        "apg": "fairlead.guide.methods.apg:APG",
        "bands": "fairlead.guide.methods.bands:Bands",
        "cfgpp": "fairlead.guide.methods.cfgpp:CFGpp",
        "mambo": "fairlead.guide.methods.mambo:Mambo",
        "perp_neg": "fairlead.guide.methods.perp_neg:PerpNeg",
        "tcfg": "fairlead.guide.methods.tcfg:TCFG",
        "zero_star": "fairlead.guide.methods.zero_star:ZeroStar",
        "auto": "fairlead.guide.methods.auto:Auto",
        "pag": "fairlead.guide.methods.pag:PAG",
        "seg": "fairlead.guide.methods.seg:SEG",
        "slg": "fairlead.guide.methods.slg:SLG",
        "icg": "fairlead.guide.methods.icg:ICG",
        "cads": "fairlead.guide.methods.cads:CADS",
        "adaptive": "fairlead.guide.methods.adaptive:Adaptive",
        "cached": "fairlead.guide.methods.cached:Cached",
        "sag": "fairlead.guide.methods.sag:SAG",
        "s2": "fairlead.guide.methods.s2:S2",
    },
    "score": {
        "brightness": "fairlead.guide.scores:Brightness",
        "color": "fairlead.guide.scores:Color",
        "label": "fairlead.guide.scores:Label",
        "match": "fairlead.guide.scores:Match",
    },
    "finisher": {
        "clip": "fairlead.guide.methods.threshold:Clip",
        "threshold": "fairlead.guide.methods.threshold:Threshold",
        "rescale": "fairlead.guide.methods.rescale:Rescale",
    },
    "scale": {
        "ramp": "fairlead.guide.scales:Ramp",
        "clamp": "fairlead.guide.scales:Clamp",
        "pixels": "fairlead.guide.scales:Pixels",
        "region": "fairlead.guide.region:Region",
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
        "scenes": "fairlead.data.scenes:load_scenes",
    },
    "degradation": {
        "superres": "fairlead.data.degrade:SuperResolution",
        "inpaint": "fairlead.data.degrade:Inpaint",
    },
    "text": {
        "words": "fairlead.data.words:Words",
        "clip": "fairlead.diffusers.text_encoders:clip",
        "t5": "fairlead.diffusers.text_encoders:t5",
        "sd3": "fairlead.diffusers.text_encoders:SD3Text",
        "sentence": "fairlead.diffusers.text_encoders:sentence",
    },
    "loader": {
        "autoencoder": "fairlead.diffusers.autoencoder:load_autoencoder",
        "pipeline": "fairlead.diffusers.loading:load_pipeline",
    },
    "extractor": {
        "dinov2": "fairlead.measure.extractors:dinov2",
        "clip": "fairlead.measure.extractors:clip",
        "inception": "fairlead.measure.extractors:inception",
        "classifier": "fairlead.measure.extractors:classifier",
        "random": "fairlead.measure.extractors:random",
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
