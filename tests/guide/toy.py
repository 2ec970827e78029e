"""The exact mixture to guide: a random one, so that nothing is equal to anything else, and helpers to call it."""

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, counting
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.guide.algebra import Guidance, Term
from fairlead.guide.executor import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.seen import Seen, Surroundings
from fairlead.guide.step import Step
from fairlead.models.model import Model
from fairlead.models.toy import toy_model

MIXTURE = GaussianMixture.ring(classes=4, radius=1.5, std=0.6)
SCHEDULE = vp_linear()
MODEL = toy_model(MIXTURE, SCHEDULE)
LABELS = torch.tensor([2, 0, 3, 2, 1])
SPECS = [int(label) for label in LABELS]
N = len(LABELS)
T = torch.tensor(0.45, dtype=torch.float64)


def points(schedule: NoiseSchedule = SCHEDULE, t: Tensor = T) -> Tensor:
    """x_t of the mixture, float64 [5, 2]."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha * MIXTURE.sample(N, seed=3) + sigma * torch.randn(N, 2, dtype=torch.float64)


def exact(x_t: Tensor, label: int | Tensor | None, t: Tensor = T, schedule: NoiseSchedule = SCHEDULE) -> Tensor:
    """E[x0 | x_t, label] of the oracle; None is unconditional."""
    alpha, sigma = schedule.alpha_sigma(t)
    label = torch.full((len(x_t),), label) if isinstance(label, int) else label
    return MIXTURE.denoise(x_t, alpha, sigma, label)


def guided(
    guidance: Guidance | Term | str, specs: list | None = None, model: Model = MODEL, **options
) -> GuidedDenoiser:
    guidance = parse(guidance) if isinstance(guidance, str) else guidance
    condition = model.encode(SPECS if specs is None else specs)
    options = {"encode": model.encode, "data_range": model.data_range, **options}
    return GuidedDenoiser(model.denoiser, guidance, model.schedule, condition, **options)


def call(denoiser: GuidedDenoiser, x_t: Tensor, t: Tensor = T) -> tuple[Prediction, Cost]:
    with counting() as cost:
        prediction = denoiser(x_t, t, denoiser.condition)
    return prediction, cost


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def looking(data_range: tuple[float, float] | None = None) -> Seen:
    """What a finisher that needs only the data's range is shown."""
    around = Surroundings(SCHEDULE, data_range=data_range)
    x_t, one = points(), torch.ones((), dtype=torch.float64)

    def never(branch, x_t):
        raise AssertionError("no network here")

    return Seen(Step(float(T), 1.0, 0.0), x_t, T, one, one, null(), around, {}, never)


def null(n: int = N) -> Condition:
    return MODEL.encode([None] * n)
