"""Classifier guidance on the exact mixture, with its exact class posterior as the classifier."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.denoiser import counting, expand_like
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.classifier import Classifier, gradient_of
from fairlead.guide.step import Step
from fairlead.models.model import LabelEncoder, Model, encode_nothing
from fairlead.models.toy import toy_model
from fairlead.sample.run import sample
from tests.guide.toy import (
    LABELS,
    MIXTURE,
    NETWORK,
    SPECS,
    N,
    T,
    call,
    close,
    exact,
    images,
    moment,
    network_model,
    noisy_classifier,
    points,
    steered,
)

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}


@dataclass(eq=False)
class Posterior:
    """p(class | x_t) of the mixture in closed form; what it was asked is kept."""

    schedule: NoiseSchedule
    shape: tuple[int, ...] = (2,)
    classes: tuple[str, ...] = ("0", "1", "2", "3")
    asked: int = 0
    dtype: torch.dtype | None = None

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked, self.dtype = self.asked + len(x_t), x_t.dtype
        alpha, sigma = (expand_like(value, x_t.double()) for value in self.schedule.alpha_sigma(t))
        return MIXTURE.class_log_posterior(x_t, alpha, sigma)


def unconditional(schedule: NoiseSchedule) -> Model:
    """The mixture without labels: its denoiser never sees one."""
    model = toy_model(MIXTURE, schedule)

    def denoise(x_t: Tensor, t: Tensor, condition):
        return model.denoiser(x_t, t, model.encode([None] * len(x_t)))

    return replace(model, denoiser=denoise, classes=(), encode=encode_nothing)


def guided(text: str, specs: list, schedule: NoiseSchedule, **options) -> tuple[GuidedDenoiser, Posterior]:
    posterior = Posterior(schedule)
    condition = LabelEncoder(posterior.classes)(specs)
    resources = {"clf": posterior}
    return GuidedDenoiser.of(unconditional(schedule), parse(text), condition, resources=resources, **options), posterior


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("time", [0.1, 0.45, 0.9])
def test_scale_1_with_the_exact_classifier_turns_the_unconditional_model_into_the_conditional_one(
    label: str, time: float
) -> None:
    schedule, t = SCHEDULES[label], torch.tensor(time, dtype=torch.float64)
    x_t = points(schedule, t)
    prediction, cost = call(guided('classifier(1, "clf")', SPECS, schedule)[0], x_t, t)
    close(prediction.x0, exact(x_t, LABELS, t, schedule))
    assert (cost.rows, cost.calls) == (2 * N, 2)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0, 10.0])
def test_scale_s_is_the_closed_form_of_classifier_free_guidance(scale: float) -> None:
    """On exact models D_u + s (D_c - D_u), and eps moves by - s sigma grad (2105.05233, algorithm 2)."""
    x_t, schedule = points(), SCHEDULES["vp"]
    alpha, sigma = schedule.alpha_sigma(T)
    plain = exact(x_t, None)
    prediction, _ = call(guided(f'classifier({scale}, "clf")', SPECS, schedule)[0], x_t)
    close(prediction.x0, plain + scale * (exact(x_t, LABELS) - plain))

    def chosen(x: Tensor) -> Tensor:
        return MIXTURE.class_log_posterior(x, alpha, sigma).gather(1, LABELS[:, None])[:, 0]

    close(prediction.eps, (x_t - alpha * plain) / sigma - scale * sigma * gradient_of(chosen, x_t))


def test_on_a_conditional_model_the_label_counts_twice() -> None:
    """p(x) p(y | x)^2: the direction of the exact classifier is D_c - D_u once more."""
    model, x_t = toy_model(MIXTURE, SCHEDULES["vp"]), points()
    posterior = Posterior(model.schedule)
    denoiser = GuidedDenoiser.of(
        model, parse('classifier(1, "clf")'), model.encode(SPECS), resources={"clf": posterior}
    )
    close(call(denoiser, x_t)[0].x0, 2 * exact(x_t, LABELS) - exact(x_t, None))


def test_samples_without_a_label_or_with_scale_0_get_nothing_and_cost_nothing() -> None:
    x_t, specs = points(), [2, None, 3, None, 1]
    denoiser, posterior = guided('classifier([1, 1, 0, 0, 2], "clf")', specs, SCHEDULES["vp"])
    prediction, cost = call(denoiser, x_t)
    plain = exact(x_t, None)
    expected = torch.stack([exact(x_t, 2)[0], plain[1], plain[2], plain[3], (2 * exact(x_t, 1) - plain)[4]])
    close(prediction.x0, expected)
    assert posterior.asked == 2
    assert cost.rows == N + 2


@pytest.mark.parametrize("text", ['classifier(0, "clf")', 'classifier(3, "clf").during(sigma=(0, 1e-3))'])
def test_off_is_the_plain_model_to_the_bit(text: str) -> None:
    x_t, schedule = points(), SCHEDULES["vp"]
    denoiser, posterior = guided(text, SPECS, schedule)
    prediction, cost = call(denoiser, x_t)
    plain, one = call(guided("none", SPECS, schedule)[0], x_t)
    assert torch.equal(prediction.x0, plain.x0)
    assert torch.equal(prediction.eps, plain.eps)
    assert posterior.asked == 0
    assert cost == one


def test_schedules_and_maps_over_pixels_are_scales() -> None:
    x_t, ramp = images(), Classifier(2, "clf")
    plain = call(steered("none", SPECS), x_t)[0].x0
    shift = call(steered(ramp, SPECS), x_t)[0].x0 - plain
    scheduled = call(steered('classifier(ramp(2, 2), "clf")', SPECS), x_t)[0].x0 - plain
    close(scheduled, shift, 1e-12)
    left = torch.zeros(8, 8)
    left[:, :4] = 1
    mapped = call(steered(fl.classifier(left, "clf"), SPECS), x_t)[0].x0 - plain
    close(mapped, shift / 2 * left, 1e-12)


def test_without_signal_it_is_off() -> None:
    """At alpha = 0 sigma^2 / alpha is infinite: the flow model's first step is not guided."""
    schedule, one = SCHEDULES["flow"], torch.ones((), dtype=torch.float64)
    x_t = torch.randn(N, 2, dtype=torch.float64)
    denoiser, posterior = guided('classifier(3, "clf")', SPECS, schedule)
    close(call(denoiser, x_t, one)[0].x0, exact(x_t, None, one, schedule))
    assert posterior.asked == 0
    (term,) = denoiser.guidance.terms
    assert term.ask(moment(Step(1.0, math.inf, -math.inf))).rows == 0
    assert term.ask(moment(Step(0.9, 9.0, -2.0))).rows == 1


def test_it_adds_to_classifier_free_guidance() -> None:
    model, x_t = toy_model(MIXTURE, SCHEDULES["vp"]), points()
    denoiser = GuidedDenoiser.of(
        model, parse('cfg(3) + classifier(2, "clf")'), model.encode(SPECS), resources={"clf": Posterior(model.schedule)}
    )
    delta = exact(x_t, LABELS) - exact(x_t, None)
    close(call(denoiser, x_t)[0].x0, exact(x_t, LABELS) + (2 + 2) * delta)


def test_the_gradient_is_in_float32_under_no_grad_and_autocast() -> None:
    """Where a bf16 gradient would have 8 bits; float64 stays float64."""
    schedule = SCHEDULES["vp"]
    x_t = points()
    denoiser, posterior = guided('classifier(1, "clf")', SPECS, schedule)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        full = call(denoiser, x_t)[0].x0
        assert posterior.dtype == torch.float64
        close(full, exact(x_t, LABELS))
        half = call(denoiser, x_t.bfloat16())[0].x0
        assert (posterior.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    clf, x = noisy_classifier(), images().float()

    def first(leaf: Tensor) -> Tensor:
        return clf.log_prob(leaf, T)[:, 0]

    with torch.autocast("cpu", torch.bfloat16):
        inside = gradient_of(first, x)
    assert torch.equal(inside, gradient_of(first, x))


def test_sampling_an_unconditional_model_in_the_classifiers_words() -> None:
    """DDIM on the exact pair lands on the chosen class of the ring, as the conditional model does."""
    schedule = SCHEDULES["vp"]
    steering = sample(
        unconditional(schedule), "2", n=20, guidance='classifier(1, "clf")', resources={"clf": Posterior(schedule)}
    )
    conditional = sample(toy_model(MIXTURE, schedule), "2", n=20)
    close(steering.x0, conditional.x0, 1e-4)
    assert steering.conds == ("2",) * 20
    assert steering.provenance(3)["guidance"] == 'classifier(1, "clf")'
    assert steering.cost.rows == 2 * 20 * 20


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    schedule, model = SCHEDULES["vp"], unconditional(SCHEDULES["vp"])

    def run(posterior: object, cond: str | None = "2", guidance: str = 'classifier(1, "clf")') -> None:
        sample(model, cond, guidance=guidance, resources={"clf": posterior})

    with pytest.raises(UsageError, match=r"noise schedule .*'flow'.* they must agree"):
        run(Posterior(RectifiedFlow()))
    with pytest.raises(UsageError, match=r"classifier 'clf' has shape \[3\], the model \[2\]"):
        run(Posterior(schedule, shape=(3,)))
    with pytest.raises(UsageError, match="expected 'clf' to be a classifier, with log_prob, schedule, shape, classes"):
        run(object())
    with pytest.raises(UsageError, match="unknown class 'seven'"):
        run(Posterior(schedule), "seven")
    with pytest.raises(UsageError, match="steers towards the run's condition, but none was given"):
        run(Posterior(schedule), None)
    with pytest.raises(UsageError, match=r"cfg\(3\) needs a conditional model"):
        run(Posterior(schedule), "2", 'cfg(3) + classifier(1, "clf")')
    with pytest.raises(UsageError, match="expected scale to be a finite number"):
        Classifier("high", "clf")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected the path of a trained classifier"):
        Classifier(2, Posterior(schedule))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"has classes \['0', '1', '2', '3'\], the model \['zero', 'one'"):
        sample(
            network_model(), "one", guidance='classifier(1, "clf")', resources={"clf": Posterior(schedule, (1, 8, 8))}
        )


def test_an_interval_does_not_make_it_need_a_conditional_model() -> None:
    schedule = SCHEDULES["vp"]
    text = 'classifier(1, "clf").during(t=(0.2, 0.8))'
    run = sample(unconditional(schedule), "2", n=2, guidance=text, resources={"clf": Posterior(schedule)})
    assert run.cost.rows == 2 * (20 + 12)


def test_a_classifier_network_is_tallied_once_for_each_row() -> None:
    with counting() as cost:
        denoiser = steered('classifier(2, "clf")', SPECS)
        denoiser(images(), T, denoiser.condition)
    assert (cost.rows, cost.calls) == (2 * N, 2)
    assert NETWORK.shape == (1, 8, 8)
