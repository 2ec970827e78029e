"""One table of everything that has a name: command-line choices, expression names, docs and contract tests read it.

A line maps ``kind -> name -> "module:attribute"``; the module is imported on first use. Other packages add lines by
entry points of the groups in :data:`GROUPS`, a program by :func:`register`. One file, since half of it is the tables.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from keyword import iskeyword
from typing import Any

from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError, note, shortened, unknown

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
        "classifier": "fairlead.nets.noisy_classifier:NoisyClassifier",
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
        "nag": "fairlead.guide.methods.nag:NAG",
        "internal": "fairlead.guide.methods.internal:Internal",
        "fbg": "fairlead.guide.methods.fbg:FBG",
        "distilled": "fairlead.guide.methods.distilled:Distilled",
        "fkc": "fairlead.guide.methods.fkc:FKC",
    },
    "reward": {
        "brightness": "fairlead.guide.rewards.appearance:Brightness",
        "color": "fairlead.guide.rewards.appearance:Color",
        "label": "fairlead.guide.rewards.label:Label",
        "match": "fairlead.guide.rewards.appearance:Match",
        "judged": "fairlead.measure.rewards.judged:Judged",
        "similarity": "fairlead.measure.rewards.text_image:Similarity",
        "preference": "fairlead.measure.rewards.text_image:Preference",
    },
    "finisher": {
        "clip": "fairlead.guide.methods.threshold:Clip",
        "threshold": "fairlead.guide.methods.threshold:Threshold",
        "rescale": "fairlead.guide.methods.rescale:Rescale",
        "history": "fairlead.guide.methods.history:History",
        "higs": "fairlead.guide.methods.higs:HiGS",
    },
    "scale": {
        "ramp": "fairlead.guide.scales:Ramp",
        "clamp": "fairlead.guide.scales:Clamp",
        "pixels": "fairlead.guide.scales:Pixels",
        "region": "fairlead.guide.region:Region",
        "levels": "fairlead.guide.levels:AtLevels",
    },
    "sampler": {
        "ddpm": "fairlead.sample.ddpm:DDPM",
        "ddim": "fairlead.sample.ddim:DDIM",
        "euler": "fairlead.sample.euler:Euler",
        "heun": "fairlead.sample.heun:Heun",
        "dpmpp_2m": "fairlead.sample.dpmpp:DPMpp2M",
        "dpmpp_2m_sde": "fairlead.sample.dpmpp:DPMpp2MSDE",
        "dpmpp_3m": "fairlead.sample.dpmpp_3m:DPMpp3M",
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
        "scenes": "fairlead.data.scenes.scene_set:load_scenes",
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
        "adapters": "fairlead.diffusers.lora:Base",
        "network": "fairlead.diffusers.networks:diffusers_config",
        "network_call": "fairlead.diffusers.network_calls:called",
    },
    "extractor": {
        "dinov2": "fairlead.measure.extractors:dinov2",
        "clip": "fairlead.measure.extractors:clip",
        "inception": "fairlead.measure.imagenet:inception",
        "efficientnet": "fairlead.measure.imagenet:efficientnet",
        "classifier": "fairlead.measure.extractors:classifier",
        "random": "fairlead.measure.extractors:random",
    },
}

PUBLIC: dict[str, str] = {
    "Attachment": "fairlead.diffusers.guiding.attach:Attachment",
    "Condition": "fairlead.core.condition:Condition",
    "Edited": "fairlead.report.edits:Edited",
    "Explanation": "fairlead.report.explanations:Explanation",
    "Finding": "fairlead.measure.run_findings:Finding",
    "GaussianMixture": "fairlead.data.toys:GaussianMixture",
    "GuidedDenoiser": "fairlead.guide.engine:GuidedDenoiser",
    "Guider": "fairlead.diffusers.guiding.guider:Guider",
    "Interpolation": "fairlead.report.interpolations:Interpolation",
    "Inversion": "fairlead.sample.edit.inverted:Inversion",
    "Model": "fairlead.models.model:Model",
    "Particles": "fairlead.sample.particles:Particles",
    "Prediction": "fairlead.core.prediction:Prediction",
    "Run": "fairlead.sample.result:Run",
    "TrainConfig": "fairlead.train.config:TrainConfig",
    "Trained": "fairlead.report.training:Trained",
    "Training": "fairlead.train.loop:Training",
    "UsageError": "fairlead.core.errors:UsageError",
    "attach": "fairlead.diffusers.guiding.attach:attach",
    "data": "fairlead.data.arrays:data",
    "denoiser": "fairlead.models.own:denoiser",
    "diffusers_config": "fairlead.diffusers.networks:diffusers_config",
    "distill": "fairlead.report.trainings.distilling:distill",
    "doctor": "fairlead.measure.examination:doctor",
    "edit": "fairlead.report.edits:edit",
    "explain": "fairlead.report.explanations:explain",
    "export": "fairlead.diffusers.exported_pipeline:export",
    "from_guider": "fairlead.diffusers.guiding.from_guider:from_guider",
    "interpolate": "fairlead.report.interpolations:interpolate",
    "invert": "fairlead.sample.edit.inversion:invert",
    "load": "fairlead.models.load:load",
    "load_autoencoder": "fairlead.diffusers.autoencoder:load_autoencoder",
    "load_data": "fairlead.data.hub:load_data",
    "measure": "fairlead.report.comparisons:measure",
    "parse": "fairlead.guide.expression:parse",
    "push": "fairlead.report.sharing:push",
    "register": "fairlead.core.registry:register",
    "report": "fairlead.report.sweeps:report",
    "sample": "fairlead.sample.run:sample",
    "reward_of": "fairlead.measure.rewards.folder_reward:reward_of",
    "sweep": "fairlead.report.sweeps:sweep",
    "toy": "fairlead.models.toy:toy_model",
    "train": "fairlead.report.training:train",
    "train_autoencoder": "fairlead.report.training:train_autoencoder",
    "train_classifier": "fairlead.report.training:train_classifier",
    "tune": "fairlead.report.searches:tune",
}
"""Names of ``fl.`` beside those of expressions."""

EXPRESSIONS = ("term", "finisher", "scale", "reward")
"""Kinds whose names share the expression language and ``fl.``."""
GROUPS = {
    "term": "fairlead.terms",
    "finisher": "fairlead.finishers",
    "scale": "fairlead.scales",
    "reward": "fairlead.rewards",
    "sampler": "fairlead.samplers",
    "extractor": "fairlead.extractors",
    "data": "fairlead.data",
}
"""Kinds that others may add to -> the group of their entry points."""
_BASES = {
    "term": "fairlead.guide.terms:Term",
    "finisher": "fairlead.guide.terms:Finisher",
    "scale": "fairlead.guide.scales:ScaleSchedule",
    "reward": "fairlead.guide.rewards.reward:Reward",
    "sampler": "fairlead.sample.sampler:Sampler",
}
_TAKES = {"extractor": ("argument", "data", "device"), "data": ("split",), "reward": ("x0", "t", "condition")}
"""What the functions of a kind are called with."""


@dataclass(frozen=True)
class Added:
    """A name that another package or the running program added.

    Attributes:
        target: the thing, where it is ("module:attribute"), an entry point, or None if several packages have the name.
        owner: who added it: "package signs 0.1", or "register(...)".
    """

    target: Any
    owner: str


_REGISTERED: dict[str, dict[str, Added]] = {kind: {} for kind in GROUPS}


def names(kind: str) -> list[str]:
    """The known names of a kind: those of the table in its order, then what others added."""
    return [*REGISTRY[kind], *added(kind)]


def lookup(kind: str, name: object) -> Any:
    """The object of that name.

    Raises:
        UsageError: if the name is unknown, with those that are known; if somebody else's thing cannot be imported or
            is none of that kind, with the name of the package.
    """
    if isinstance(name, str) and name in REGISTRY[kind]:
        return imported(REGISTRY[kind][name])
    others = added(kind)
    if not isinstance(name, str) or name not in others:
        raise unknown(kind, name, [*REGISTRY[kind], *others])
    target, owner = others[name].target, others[name].owner
    if target is None:
        raise UsageError(f"{kind} {name!r} is registered by {owner}; remove one of them")
    try:
        thing = target.load() if isinstance(target, EntryPoint) else target
        thing = imported(thing) if isinstance(thing, str) else thing
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{kind} {name!r} of {owner} cannot be imported ({shortened(what, 200)[1:-1]}); repair or remove it"
        ) from error
    if problem := _problem(kind, name, thing):
        raise UsageError(f"{kind} {name!r} of {owner} {problem}")
    return thing


def kind_of(name: str) -> str | None:
    """The kind of a name of the expression language."""
    return next((kind for kind in EXPRESSIONS if name in REGISTRY[kind] or name in added(kind)), None)


def added(kind: str) -> dict[str, Added]:
    """What is not in the table: of installed packages, read once, and of this program."""
    return {**_of_packages()[kind], **_REGISTERED[kind]} if kind in GROUPS else {}


def register(name: str, thing: Any, *, kind: str | None = None) -> None:
    """Register a method, a sampler, features or data of your own by name, for the rest of this process: expressions,
    ``fl.NAME``, sweeps and reports then know it. A package gives it to every process by an entry point (CONTRIBUTING).

    Args:
        name: how it is written; a class says the same as its ``name``.
        thing: a frozen dataclass that derives from ``Term``, ``Finisher``, ``ScaleSchedule``, ``Reward`` or
            ``Sampler``; a function ``(argument, data, device) -> Extractor``, ``(split, ...) -> ImageData`` or, for a
            reward, ``(x0, t, condition) -> [n]``; or ``"module:attribute"``, imported on first use.
        kind: "term", "finisher", "scale", "reward", "sampler", "extractor" or "data"; needed unless a class says it.

    Raises:
        UsageError: if it is no name or somebody has it, an earlier version of the same thing excepted; if the thing is
            none of that kind.
    """
    own = next((k for k, path in _BASES.items() if path in map(_path, getattr(thing, "__mro__", ()))), None)
    kind = own if kind is None else kind
    if kind not in GROUPS:
        raise UsageError(
            f"register {shortened(str(name))}: expected kind to be one of {', '.join(GROUPS)}, got {kind!r}"
        )
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name) or name in ("none", "inf", "during"):
        raise UsageError(f"register: expected a name such as my_{kind}, got {shortened(str(name))}")
    if isinstance(thing, str) and thing.count(":") != 1:
        raise UsageError(
            f"register {name!r}: expected a class, a function or 'module:attribute', got {shortened(thing)}"
        )
    if not isinstance(thing, str) and (problem := _problem(kind, name, thing)):
        raise UsageError(f"register: {kind} {name!r} {problem}")
    before = _REGISTERED[kind].get(name)
    if (before is None or _path(before.target) != _path(thing)) and (has := _holder(kind, name)):
        raise UsageError(f"register {name!r}: {has} has that name already; choose another")
    _REGISTERED[kind][name] = Added(thing, "register(...)")


def _path(thing: Any) -> str:
    return thing if isinstance(thing, str) else f"{thing.__module__}:{getattr(thing, '__qualname__', '')}"


def imported(target: str) -> Any:
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


def _problem(kind: str, name: str, thing: Any) -> str:
    """Why it cannot be a thing of that kind and name; "" if it can."""
    if kind in _TAKES and not (kind in _BASES and inspect.isclass(thing)):
        try:
            inspect.signature(thing).bind(*_TAKES[kind])
        except (TypeError, ValueError):
            return f"is {shown(thing)}; expected a function of ({', '.join(_TAKES[kind])})"
        return ""
    if _BASES[kind] not in map(_path, getattr(thing, "__mro__", ())) or not is_dataclass(thing):
        return f"is {shown(thing)}; expected a dataclass that derives from {_BASES[kind].replace(':', '.')}"
    called = getattr(thing, "name", None)
    return "" if called == name else f"calls itself {called!r}; write name: ClassVar[str] = {name!r} in its class"


def _holder(kind: str, name: str) -> str:
    """Who has a name that would then mean two things; "" for nobody."""
    if kind in EXPRESSIONS and (name in PUBLIC or find_spec(f"fairlead.{name}") is not None):
        return f"fl.{name}"
    for other in EXPRESSIONS if kind in EXPRESSIONS else (kind,):
        if name in REGISTRY[other] or name in added(other):
            return f"the {other} {name!r} of {added(other)[name].owner if name in added(other) else 'fairlead'}"
    return ""


@cache
def _of_packages() -> dict[str, dict[str, Added]]:
    """What installed packages add. A name of fairlead is left out, which is said once; one of two packages is an error
    when it is asked for."""
    found: dict[str, dict[str, Added]] = {kind: {} for kind in GROUPS}
    points = entry_points()
    for kind, group in GROUPS.items():
        alike = EXPRESSIONS if kind in EXPRESSIONS else (kind,)
        for point in points.select(group=group):
            name, owner = point.name, f"package {point.dist.name} {point.dist.version}" if point.dist else point.value
            if any(name in REGISTRY[other] for other in alike) or (kind in EXPRESSIONS and name in PUBLIC):
                note(f"the {kind} {name!r} of {owner} is left out: fairlead has that name; give it another")
                continue
            for other in alike:
                if name in found[other]:
                    found[other][name] = Added(None, f"{found[other][name].owner} and of {owner}")
                    break
            else:
                found[kind][name] = Added(point, owner)
    return found
