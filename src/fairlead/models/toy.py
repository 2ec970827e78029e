"""An exact toy distribution as a Model like any other: its denoiser is a closed form."""

from __future__ import annotations

from torch import Tensor

from fairlead.core.arguments import shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_schedule, as_time
from fairlead.data.toys import Gaussian, GaussianMixture
from fairlead.models.model import LabelEncoder, Model, encode_nothing, identity


class ToyDenoiser:
    """The posterior mean of a toy distribution, of a mixture conditional on the class where the label is kept."""

    counts = True

    def __init__(self, toy: Gaussian | GaussianMixture, schedule: NoiseSchedule) -> None:
        self.toy, self.schedule = toy, schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = (expand_like(value, x_t) for value in self.schedule.alpha_sigma(as_time(t)))
        if isinstance(self.toy, Gaussian):
            x0 = self.toy.denoise(x_t, alpha, sigma).to(x_t.dtype)
        else:
            label, keep = condition.values["label"], condition.keep["label"]
            x0 = self.toy.denoise(x_t, alpha, sigma, label, keep=keep).to(x_t.dtype)
        tally(len(x_t))
        return Prediction.from_x0(x0, x_t, alpha, sigma)


def toy_model(toy: Gaussian | GaussianMixture, schedule: NoiseSchedule | str) -> Model:
    """Make a Model of a toy distribution on a schedule (a name or an object), sampled and guided like a network: a
    mixture with classes "0", "1", ..., or one Gaussian without conditions."""
    if not isinstance(toy, Gaussian | GaussianMixture):
        raise UsageError(f"toy: expected a distribution such as fl.GaussianMixture.random(3, 2, 8), got {shown(toy)}")
    schedule = as_schedule(schedule)
    mixture = isinstance(toy, GaussianMixture)
    classes = tuple(map(str, range(toy.n_classes))) if isinstance(toy, GaussianMixture) else ()
    return Model(
        denoiser=ToyDenoiser(toy, schedule),
        schedule=schedule,
        shape=tuple(toy.means.shape[1:] if isinstance(toy, GaussianMixture) else toy.mean.shape),
        encode=LabelEncoder(classes) if mixture else encode_nothing,
        decode=identity,
        classes=classes,
        conditions=("label",) if classes else (),
        examples=classes,
        metadata={"toy": "gaussian mixture" if mixture else "gaussian", "schedule": schedule.config()},
    )
