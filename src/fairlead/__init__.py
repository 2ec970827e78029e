"""fairlead: train, guide, measure and tune conditional diffusion models.

For example::

    import fairlead as fl

    model = fl.load("runs/digits")
    run = fl.sample(model, "seven", guidance=fl.cfg(3), n=8)
    run.save("sevens")
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fairlead.core.registry import REGISTRY

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from fairlead.core.condition import Condition as Condition
    from fairlead.core.errors import UsageError as UsageError
    from fairlead.core.prediction import Prediction as Prediction
    from fairlead.data.hub import load_data as load_data
    from fairlead.data.toys import GaussianMixture as GaussianMixture
    from fairlead.diffusers.autoencoder import load_autoencoder as load_autoencoder
    from fairlead.diffusers.export import export as export
    from fairlead.diffusers.guiding.attach import Attachment as Attachment
    from fairlead.diffusers.guiding.attach import attach as attach
    from fairlead.diffusers.guiding.from_guider import from_guider as from_guider
    from fairlead.diffusers.guiding.guider import Guider as Guider
    from fairlead.diffusers.networks import diffusers_config as diffusers_config
    from fairlead.guide.engine import GuidedDenoiser as GuidedDenoiser
    from fairlead.guide.expression import parse as parse
    from fairlead.guide.methods.adaptive import Adaptive
    from fairlead.guide.methods.apg import APG
    from fairlead.guide.methods.auto import Auto
    from fairlead.guide.methods.bands import Bands
    from fairlead.guide.methods.cached import Cached
    from fairlead.guide.methods.cads import CADS
    from fairlead.guide.methods.cfg import CFG
    from fairlead.guide.methods.cfgpp import CFGpp
    from fairlead.guide.methods.classifier import Classifier
    from fairlead.guide.methods.compose import Compose
    from fairlead.guide.methods.energy import Energy
    from fairlead.guide.methods.icg import ICG
    from fairlead.guide.methods.mambo import Mambo
    from fairlead.guide.methods.pag import PAG
    from fairlead.guide.methods.perp_neg import PerpNeg
    from fairlead.guide.methods.rescale import Rescale
    from fairlead.guide.methods.s2 import S2
    from fairlead.guide.methods.sag import SAG
    from fairlead.guide.methods.seg import SEG
    from fairlead.guide.methods.slg import SLG
    from fairlead.guide.methods.tcfg import TCFG
    from fairlead.guide.methods.threshold import Clip, Threshold
    from fairlead.guide.methods.zero_star import ZeroStar
    from fairlead.guide.region import Region
    from fairlead.guide.scales import Clamp, Pixels, Ramp
    from fairlead.guide.scores import Brightness, Color, Label, Match
    from fairlead.measure.examination import doctor as doctor
    from fairlead.measure.run_findings import Finding as Finding
    from fairlead.models.load import load as load
    from fairlead.models.model import Model as Model
    from fairlead.models.toy import toy_model
    from fairlead.report.comparisons import measure as measure
    from fairlead.report.explanations import Explanation as Explanation
    from fairlead.report.explanations import explain as explain
    from fairlead.report.interpolations import Interpolation as Interpolation
    from fairlead.report.interpolations import interpolate as interpolate
    from fairlead.report.searches import tune as tune
    from fairlead.report.sweeps import report as report
    from fairlead.report.sweeps import sweep as sweep
    from fairlead.sample.run import Run as Run
    from fairlead.sample.run import sample as sample
    from fairlead.train.config import TrainConfig as TrainConfig
    from fairlead.train.loop import Training as Training

    cfg = CFG
    clamp = Clamp
    clip = Clip
    compose = Compose
    classifier = Classifier
    energy = Energy
    brightness = Brightness
    color = Color
    label = Label
    match = Match
    ramp = Ramp
    threshold = Threshold
    auto = Auto
    cads = CADS
    icg = ICG
    pag = PAG
    pixels = Pixels
    region = Region
    seg = SEG
    slg = SLG
    apg = APG
    bands = Bands
    cfgpp = CFGpp
    mambo = Mambo
    perp_neg = PerpNeg
    rescale = Rescale
    tcfg = TCFG
    zero_star = ZeroStar
    adaptive = Adaptive
    cached = Cached
    sag = SAG
    s2 = S2
    toy = toy_model

_PUBLIC = {
    **REGISTRY["term"],
    **REGISTRY["finisher"],
    **REGISTRY["scale"],
    **REGISTRY["score"],
    "Attachment": "fairlead.diffusers.guiding.attach:Attachment",
    "Condition": "fairlead.core.condition:Condition",
    "Explanation": "fairlead.report.explanations:Explanation",
    "Finding": "fairlead.measure.run_findings:Finding",
    "GaussianMixture": "fairlead.data.toys:GaussianMixture",
    "GuidedDenoiser": "fairlead.guide.engine:GuidedDenoiser",
    "Guider": "fairlead.diffusers.guiding.guider:Guider",
    "Interpolation": "fairlead.report.interpolations:Interpolation",
    "Model": "fairlead.models.model:Model",
    "Prediction": "fairlead.core.prediction:Prediction",
    "Run": "fairlead.sample.run:Run",
    "TrainConfig": "fairlead.train.config:TrainConfig",
    "Training": "fairlead.train.loop:Training",
    "UsageError": "fairlead.core.errors:UsageError",
    "attach": "fairlead.diffusers.guiding.attach:attach",
    "diffusers_config": "fairlead.diffusers.networks:diffusers_config",
    "doctor": "fairlead.measure.examination:doctor",
    "explain": "fairlead.report.explanations:explain",
    "from_guider": "fairlead.diffusers.guiding.from_guider:from_guider",
    "export": "fairlead.diffusers.export:export",
    "interpolate": "fairlead.report.interpolations:interpolate",
    "load": "fairlead.models.load:load",
    "load_autoencoder": "fairlead.diffusers.autoencoder:load_autoencoder",
    "load_data": "fairlead.data.hub:load_data",
    "measure": "fairlead.report.comparisons:measure",
    "parse": "fairlead.guide.expression:parse",
    "report": "fairlead.report.sweeps:report",
    "sample": "fairlead.sample.run:sample",
    "sweep": "fairlead.report.sweeps:sweep",
    "toy": "fairlead.models.toy:toy_model",
    "tune": "fairlead.report.searches:tune",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``fairlead --help`` does not wait for torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fairlead' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PUBLIC[name].split(":")
    return getattr(import_module(module), attribute)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Importing the folder ``sample`` would put that module in the place of the function ``fl.sample``."""
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
