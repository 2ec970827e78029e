"""What is left of scale 1 = the conditional model when the unconditional model is no error of its own.

Classifier guidance of scale 1 adds D_c - D_u to an unconditional prediction. Here that prediction is made of the
conditional model, D_u = sum over c of p(c | x_t) D_c(x_t), so that what differs from the conditional model is the
classifier's error alone.

    python -m benchmarks.bayes RUN CLASSIFIER --n 300
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
import tyro
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, x0_of
from fairlead.core.prediction import Prediction
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.references import evaluator_for
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.models.model import Model, encode_nothing
from fairlead.models.noisy_classifier_model import NoisyClassifierModel, load_classifier


@dataclass(frozen=True)
class Options:
    model: Annotated[str, tyro.conf.Positional]
    """A run of a model conditioned on the class."""
    classifier: Annotated[str, tyro.conf.Positional]
    scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    n: int = 300
    sampler: str = "dpmpp_2m"
    steps: int = 10


def mixed(model: Model, classifier: NoisyClassifierModel) -> Model:
    """The unconditional model that ``model`` and ``classifier`` imply."""
    conditional = x0_of(model.denoiser)

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        with torch.no_grad():
            share = classifier.log_prob(x_t, t).exp().to(x_t.dtype)
            each = [conditional(x_t, t, model.encode([c] * len(x_t))) for c in range(len(model.classes))]
        x0 = torch.einsum("nk,knchw->nchw", share, torch.stack(each))
        mixing = level_at(model.schedule, t, x_t).mixing
        return Prediction.from_x0(x0, x_t, mixing.alpha, mixing.sigma)

    return replace(model, denoiser=denoise, classes=(), conditions=(), examples=(), encode=encode_nothing)


def score(evaluator: Evaluator, model: Model, guidance: str, options: Options, resources: dict[str, object]) -> Score:
    labels = [i % len(evaluator.reference.classes) for i in range(options.n)]
    run = fl.sample(
        model, labels, guidance=guidance, sampler=options.sampler, steps=options.steps, batch_size=128,
        resources=resources,
    )  # fmt: skip
    assert run.images is not None
    return evaluator.score(run.images, torch.tensor(labels), run.x0, run.seeds)


def main(options: Options) -> None:
    model, classifier = load(options.model, device="cpu"), load_classifier(options.classifier, device="cpu")
    evaluator = evaluator_for(options.model, None)
    plain = score(evaluator, model, "cfg(1)", options, {})
    rows = {"conditional": plain}
    for scale in options.scales:
        guidance = f'classifier({scale:g}, "C")'
        rows[guidance] = score(evaluator, mixed(model, classifier), guidance, options, {"C": classifier})
    for name, found in rows.items():
        apart = found.compare(plain)
        shown = ("distance_debiased", "accuracy", "diversity")
        print(name, *(f"{metric} {found.metrics[metric]} ({apart[metric]})" for metric in shown), sep="  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options, description=__doc__))
