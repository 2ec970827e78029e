"""Guidance of predictions that are given as tensors, so that expectations can be written down."""

from collections.abc import Callable

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like, tally
from fairlead.core.prediction import Objective, Prediction
from fairlead.core.schedule import NoiseSchedule
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from tests.guide.toy import SCHEDULE

Given = Tensor | Callable[[float], Tensor]


class Stored:
    """A denoiser whose outputs [n, ...] are given, of t where they are functions; the label is the row to return."""

    def __init__(self, schedule: NoiseSchedule, objective: Objective, cond: Given, null: Given, negative: Given | None):
        self.schedule, self.objective = schedule, objective
        self.outputs = cond, null, null if negative is None else negative

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        label, keep = condition.values["label"], condition.keep["label"]
        cond, null, negative = (value(float(t)) if callable(value) else value for value in self.outputs)
        rows = [
            (negative[i % 100] if i >= 100 else cond[i]) if kept else null[i % 100]
            for i, kept in zip(label.tolist(), keep.tolist(), strict=True)
        ]
        alpha, sigma = (expand_like(value, x_t) for value in self.schedule.alpha_sigma(t))
        tally(len(x_t))
        return Prediction.from_output(torch.stack(rows), self.objective, x_t, alpha, sigma)


def stored(
    guidance,
    cond: Given,
    null: Given,
    negative: Given | None = None,
    *,
    objective: Objective = "x0",
    schedule: NoiseSchedule = SCHEDULE,
    n: int = 5,
    conditioned: list[bool] | bool = True,
    **options,
) -> GuidedDenoiser:
    """Guidance of stored outputs; its specs are "cond" and "negative"."""

    def encode(specs) -> Condition:
        return Condition.of(label=torch.arange(len(specs)) + (100 if specs[0] == "negative" else 0))

    kept = torch.tensor([conditioned] * n if isinstance(conditioned, bool) else conditioned)
    denoiser = Stored(schedule, objective, cond, null, negative)
    condition = encode(["cond"] * n).drop(~kept)
    return GuidedDenoiser(denoiser, to_guidance(guidance), schedule, condition, encode=encode, **options)


def output(prediction: Prediction, denoiser: GuidedDenoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """What a network of the denoiser's objective would have returned for the prediction."""
    alpha, sigma = (expand_like(value, x_t) for value in denoiser.schedule.alpha_sigma(t))
    return prediction.output(denoiser.context.model.objective, alpha, sigma)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
