"""What the tests guide: the exact mixture, an untrained network, and helpers to call them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, NetworkDenoiser, counting
from fairlead.core.prediction import Mixing, Objective, Prediction
from fairlead.core.schedule import NoiseSchedule, RectifiedFlow, vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.moment import Moment, NoiseSource, Seen
from fairlead.guide.step import Step
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import LabelEncoder, Model, Spec, identity
from fairlead.models.noisy_classifier_model import NoisyClassifierModel
from fairlead.models.toy import toy_model
from fairlead.nets.noisy_classifier import NoisyClassifier
from fairlead.nets.unet import UNet
from fairlead.sample.noise import NoiseStream

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
    model = replace(MODEL, data_range=data_range)
    x_t, one = points(), torch.ones((), dtype=torch.float64)

    def never(branch, x_t):
        raise AssertionError("no network here")

    return Seen(
        model=model,
        condition=null(),
        step=Step(float(T), 1.0, 0.0),
        x_t=x_t,
        t=T,
        mixing=Mixing(one, one),
        predictions={},
        evaluate=never,
    )


def moment(
    step: Step, condition: Condition | None = None, model: Model = MODEL, draws: NoiseSource | None = None
) -> Moment:
    """A step as a term sees it."""
    return Moment(model=model, condition=null() if condition is None else condition, step=step, draws=draws)


def null(n: int = N) -> Condition:
    return MODEL.encode([None] * n)


def _network(seed: int, reads: bool) -> UNet:
    """A small U-Net with attention at both of its sizes and no zero weights, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8, 4), "embed": 16}
        text = {"width": 8, "length": 3, "vocabulary": 8, "depth": 1, "heads": 2}
        network: UNet = UNet(1, 8, 4, **shape, text=text if reads else None, internal=True, scale=(-1, 8)).double()
        for parameter in network.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.3)
    network.eval().requires_grad_(False)
    return network


class NamedLabels(LabelEncoder):
    """Labels, and their names as a text of one word and an end."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        labels = super().__call__(specs)
        label, keep = labels.values["label"], labels.keep["label"]
        words = torch.stack([label + 2, torch.ones_like(label), torch.zeros_like(label)], 1)
        return Condition(labels.n, {"label": label, "text": words}, {"label": keep, "text": keep})


CLASSES = ("zero", "one", "two", "three")


def network_model(
    seed: int = 0, objective: Objective = "v", schedule: NoiseSchedule | None = None, reads: bool = True
) -> Model:
    """An untrained network as a Model of 1 x 8 x 8 images with 4 classes, of any dtype. Where it ``reads``, it is
    conditioned on their names too."""
    schedule, network = schedule or RectifiedFlow(), _network(seed, reads)

    def in_float64(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output: Tensor = network(x.double(), time.double(), condition)
        return output.to(x.dtype)

    return Model(
        denoiser=NetworkDenoiser(in_float64, schedule, objective),
        schedule=schedule,
        shape=(1, 8, 8),
        encode=NamedLabels(CLASSES) if reads else LabelEncoder(CLASSES),
        decode=identity,
        classes=CLASSES,
        data_range=(-1.0, 1.0),
        objective=objective,
        layers=network.layers(),
        embed=network.embed,
        scale_range=(-1, 8),
        null_tokens=network.null_tokens,
    )


NETWORK, WEAK = network_model(0), network_model(1)
ONLY_LABELS = network_model(0, reads=False)


def noisy_classifier(schedule: NoiseSchedule | None = None) -> NoisyClassifierModel:
    """An untrained classifier of the images of :func:`network_model`, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = NoisyClassifier(1, 8, 4, channels=8, embed=16).double()
        for parameter in network.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.3)
    network.eval().requires_grad_(False)
    return NoisyClassifierModel(network, schedule or NETWORK.schedule, NETWORK.shape, NETWORK.classes)


RESOURCES = {"weak": WEAK, "clf": noisy_classifier()}


def steered(
    text: Guidance | Term | str,
    specs: list,
    order: list[int] | None = None,
    model: Model = NETWORK,
    draws_of: list[int] | None = None,
    **options,
) -> GuidedDenoiser:
    """A model under guidance for a run of these specs; ``order`` picks the samples of the run that are in the batch,
    ``draws_of`` the streams of others."""
    guidance = to_guidance(text)
    order = list(range(len(specs))) if order is None else order
    resources = {r.name: RESOURCES[r.name] for r in guidance.resources()}

    def draw(number: int, shape: tuple[int, ...]) -> Tensor:
        return NoiseStream(tuple(order if draws_of is None else draws_of), shape).extra(number)

    condition = model.encode([specs[i] for i in order])
    return GuidedDenoiser.of(model, guidance, condition, resources=resources, draw=draw, samples=order, **options)


def images(model: Model = NETWORK, n: int = N, t: Tensor = T) -> Tensor:
    """x_t of something like data of a network model, float64 [n, 1, 8, 8]."""
    alpha, sigma = model.schedule.alpha_sigma(t)
    generator = torch.Generator().manual_seed(5)
    x0 = torch.rand(n, *model.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return alpha * x0 + sigma * torch.randn(n, *model.shape, generator=generator, dtype=torch.float64)
