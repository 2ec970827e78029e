# Written by docs/build_methods.py from core/registry.py.

from fairlead.core.condition import Condition as Condition
from fairlead.core.errors import UsageError as UsageError
from fairlead.core.prediction import Prediction as Prediction
from fairlead.core.registry import register as register
from fairlead.data.arrays import data as data
from fairlead.data.hub import load_data as load_data
from fairlead.data.toys import GaussianMixture as GaussianMixture
from fairlead.diffusers.autoencoder import load_autoencoder as load_autoencoder
from fairlead.diffusers.exported_pipeline import export as export
from fairlead.diffusers.guiding.attach import Attachment as Attachment
from fairlead.diffusers.guiding.attach import attach as attach
from fairlead.diffusers.guiding.from_guider import from_guider as from_guider
from fairlead.diffusers.guiding.guider import Guider as Guider
from fairlead.diffusers.networks import diffusers_config as diffusers_config
from fairlead.guide.engine import GuidedDenoiser as GuidedDenoiser
from fairlead.guide.expression import parse as parse
from fairlead.guide.levels import AtLevels as levels
from fairlead.guide.methods.adaptive import Adaptive as adaptive
from fairlead.guide.methods.apg import APG as apg
from fairlead.guide.methods.auto import Auto as auto
from fairlead.guide.methods.bands import Bands as bands
from fairlead.guide.methods.cached import Cached as cached
from fairlead.guide.methods.cads import CADS as cads
from fairlead.guide.methods.cfg import CFG as cfg
from fairlead.guide.methods.cfgpp import CFGpp as cfgpp
from fairlead.guide.methods.classifier import Classifier as classifier
from fairlead.guide.methods.compose import Compose as compose
from fairlead.guide.methods.distilled import Distilled as distilled
from fairlead.guide.methods.energy import Energy as energy
from fairlead.guide.methods.fbg import FBG as fbg
from fairlead.guide.methods.fkc import FKC as fkc
from fairlead.guide.methods.higs import HiGS as higs
from fairlead.guide.methods.history import History as history
from fairlead.guide.methods.icg import ICG as icg
from fairlead.guide.methods.internal import Internal as internal
from fairlead.guide.methods.mambo import Mambo as mambo
from fairlead.guide.methods.nag import NAG as nag
from fairlead.guide.methods.pag import PAG as pag
from fairlead.guide.methods.perp_neg import PerpNeg as perp_neg
from fairlead.guide.methods.rescale import Rescale as rescale
from fairlead.guide.methods.s2 import S2 as s2
from fairlead.guide.methods.sag import SAG as sag
from fairlead.guide.methods.seg import SEG as seg
from fairlead.guide.methods.slg import SLG as slg
from fairlead.guide.methods.tcfg import TCFG as tcfg
from fairlead.guide.methods.threshold import Clip as clip
from fairlead.guide.methods.threshold import Threshold as threshold
from fairlead.guide.methods.zero_star import ZeroStar as zero_star
from fairlead.guide.region import Region as region
from fairlead.guide.rewards.appearance import Brightness as brightness
from fairlead.guide.rewards.appearance import Color as color
from fairlead.guide.rewards.appearance import Match as match
from fairlead.guide.rewards.label import Label as label
from fairlead.guide.scales import Clamp as clamp
from fairlead.guide.scales import Pixels as pixels
from fairlead.guide.scales import Ramp as ramp
from fairlead.measure.examination import doctor as doctor
from fairlead.measure.rewards.folder_reward import reward_of as reward_of
from fairlead.measure.rewards.judged import Judged as judged
from fairlead.measure.rewards.text_image import Preference as preference
from fairlead.measure.rewards.text_image import Similarity as similarity
from fairlead.measure.run_findings import Finding as Finding
from fairlead.models.load import load as load
from fairlead.models.model import Model as Model
from fairlead.models.own import denoiser as denoiser
from fairlead.models.toy import toy_model as toy
from fairlead.report.comparisons import measure as measure
from fairlead.report.edits import Edited as Edited
from fairlead.report.edits import edit as edit
from fairlead.report.explanations import Explanation as Explanation
from fairlead.report.explanations import explain as explain
from fairlead.report.interpolations import Interpolation as Interpolation
from fairlead.report.interpolations import interpolate as interpolate
from fairlead.report.searches import tune as tune
from fairlead.report.sharing import push as push
from fairlead.report.sweeps import report as report
from fairlead.report.sweeps import sweep as sweep
from fairlead.report.training import Trained as Trained
from fairlead.report.training import train as train
from fairlead.report.training import train_autoencoder as train_autoencoder
from fairlead.report.training import train_classifier as train_classifier
from fairlead.report.trainings.distilling import distill as distill
from fairlead.sample.edit.inversion import invert as invert
from fairlead.sample.edit.inverted import Inversion as Inversion
from fairlead.sample.particles import Particles as Particles
from fairlead.sample.result import Run as Run
from fairlead.sample.run import sample as sample
from fairlead.train.config import TrainConfig as TrainConfig
from fairlead.train.loop import Training as Training

__version__: str
__all__ = [
    "Attachment",
    "Condition",
    "Edited",
    "Explanation",
    "Finding",
    "GaussianMixture",
    "GuidedDenoiser",
    "Guider",
    "Interpolation",
    "Inversion",
    "Model",
    "Particles",
    "Prediction",
    "Run",
    "TrainConfig",
    "Trained",
    "Training",
    "UsageError",
    "__version__",
    "adaptive",
    "apg",
    "attach",
    "auto",
    "bands",
    "brightness",
    "cached",
    "cads",
    "cfg",
    "cfgpp",
    "clamp",
    "classifier",
    "clip",
    "color",
    "compose",
    "data",
    "denoiser",
    "diffusers_config",
    "distill",
    "distilled",
    "doctor",
    "edit",
    "energy",
    "explain",
    "export",
    "fbg",
    "fkc",
    "from_guider",
    "higs",
    "history",
    "icg",
    "internal",
    "interpolate",
    "invert",
    "judged",
    "label",
    "levels",
    "load",
    "load_autoencoder",
    "load_data",
    "mambo",
    "match",
    "measure",
    "nag",
    "pag",
    "parse",
    "perp_neg",
    "pixels",
    "preference",
    "push",
    "ramp",
    "region",
    "register",
    "report",
    "rescale",
    "reward_of",
    "s2",
    "sag",
    "sample",
    "seg",
    "similarity",
    "slg",
    "sweep",
    "tcfg",
    "threshold",
    "toy",
    "train",
    "train_autoencoder",
    "train_classifier",
    "tune",
    "zero_star",
]
