"""An exact toy distribution as a Model like any other: its denoiser is a closed form."""

from __future__ import annotations

from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like, tally
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.data.toys import GaussianMixture
from fairlead.models.model import LabelEncoder, Model, identity


class ToyDenoiser:
    """The posterior mean of a Gaussian mixture, conditional on the class where the label is kept."""

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule) -> None:
        self.mixture, self.schedule = mixture, schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = (expand_like(value, x_t) for value in self.schedule.alpha_sigma(as_time(t)))
        label, keep = condition.values["label"], condition.keep["label"]
        x0 = self.mixture.denoise(x_t, alpha, sigma, label, keep=keep).to(x_t.dtype)
        tally(len(x_t))
        return Prediction.from_x0(x0, x_t, alpha, sigma)


def toy_model(mixture: GaussianMixture, schedule: NoiseSchedule) -> Model:
    """A mixture with classes "0", "1", ... on a schedule, to be sampled and guided like a network."""
    classes = tuple(map(str, range(mixture.n_classes)))
    return Model(
        denoiser=ToyDenoiser(mixture, schedule),
        schedule=schedule,
        shape=tuple(mixture.means.shape[1:]),
        encode=LabelEncoder(classes),
        decode=identity,
        classes=classes,
        metadata={"toy": "gaussian mixture", "schedule": schedule.config()},
    )
