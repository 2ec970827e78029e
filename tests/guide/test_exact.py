"""Guidance on the exact mixture, float64: every rule against its closed form."""

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.cfg import CFG
from fairlead.models.toy import ToyDenoiser, toy_model
from tests.guide.toy import LABELS, MIXTURE, MODEL, SCHEDULE, SPECS, N, T, call, close, exact, guided, null, points

SCALES = (-2.0, -0.5, 0.3, 1.7, 4.0, 15.0)
SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("time", [0.1, 0.45, 0.9])
def test_the_classifier_gradient_at_scale_1_turns_unconditional_into_conditional(label: str, time: float) -> None:
    """D_u + (sigma^2 / alpha) grad log p(y | x_t) = D_c: Bayes' rule in x0 (2105.05233)."""
    schedule, t = SCHEDULES[label], torch.tensor(time, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    x_t = points(schedule, t).requires_grad_()
    log_p = MIXTURE.class_log_posterior(x_t, alpha, sigma).gather(1, LABELS[:, None]).sum()
    (gradient,) = torch.autograd.grad(log_p, x_t)
    x_t = x_t.detach()
    close(exact(x_t, None, t, schedule) + sigma**2 / alpha * gradient, exact(x_t, LABELS, t, schedule))


@pytest.mark.parametrize("text", ["none", "cfg(1)", "cfg([1, 1, 1, 1, 1])", "cfg(ramp(1, 1))"])
def test_scale_1_is_the_conditional_model_to_the_bit_for_one_row(text: str) -> None:
    x_t, condition = points(), MODEL.encode(SPECS)
    prediction, cost = call(guided(text), x_t)
    plain = MODEL.denoiser(x_t, T, condition)
    assert torch.equal(prediction.x0, plain.x0)
    assert torch.equal(prediction.eps, plain.eps)
    assert (cost.rows, cost.calls) == (N, 1)
    close(prediction.x0, exact(x_t, LABELS))


@pytest.mark.parametrize("text", ["cfg(0)", "cfg([0, 0, 0, 0, 0])", "cfg(-1) + cfg(2)"])
def test_scale_0_is_the_unconditional_model_to_the_bit_for_one_row(text: str) -> None:
    x_t = points()
    prediction, cost = call(guided(text), x_t)
    plain = MODEL.denoiser(x_t, T, null())
    assert torch.equal(prediction.x0, plain.x0)
    assert torch.equal(prediction.eps, plain.eps)
    assert (cost.rows, cost.calls) == (N, 1)
    close(prediction.x0, exact(x_t, None))


@pytest.mark.parametrize("scale", SCALES)
def test_cfg(scale: float) -> None:
    x_t = points()
    prediction, cost = call(guided(CFG(scale)), x_t)
    alpha, sigma = SCHEDULE.alpha_sigma(T)
    close(prediction.x0, exact(x_t, None) + scale * (exact(x_t, LABELS) - exact(x_t, None)))
    close(prediction.x0, MIXTURE.guided_denoise(x_t, alpha, sigma, LABELS, scale))
    close(alpha * prediction.x0 + sigma * prediction.eps, x_t)
    assert (cost.rows, cost.calls) == (2 * N, 1)


@pytest.mark.parametrize("omega", [-1.0, 0.0, 0.5, 3.0])
def test_the_other_convention(omega: float) -> None:
    """(1 + omega) D_c - omega D_u (2207.12598, eq. 6)."""
    x_t = points()
    prediction, _ = call(guided(CFG.from_omega(omega)), x_t)
    close(prediction.x0, (1 + omega) * exact(x_t, LABELS) - omega * exact(x_t, None))
    assert CFG.from_omega(omega) == CFG(1 + omega)


@pytest.mark.parametrize("scale", SCALES)
def test_negative(scale: float) -> None:
    x_t = points()
    prediction, cost = call(guided(CFG(scale, negative=1), [2] * N), x_t)
    close(prediction.x0, exact(x_t, 1) + scale * (exact(x_t, 2) - exact(x_t, 1)))
    assert cost.rows == 2 * N


def test_a_negative_alone_moves_the_unconditional_model_away() -> None:
    x_t = points()
    prediction, _ = call(guided('cfg(3, negative="1")', [None] * N), x_t)
    close(prediction.x0, exact(x_t, 1) + 3 * (exact(x_t, None) - exact(x_t, 1)))


@pytest.mark.parametrize("scale", SCALES)
def test_compose_of_one_condition_is_cfg(scale: float) -> None:
    x_t = points()
    composed, cost = call(guided(f"compose({{2: {scale}}})", [None] * N), x_t)
    close(composed.x0, call(guided(CFG(scale), [2] * N), x_t)[0].x0)
    assert cost.rows == 2 * N


def test_compose_is_the_sum_of_directions_and_not_is_a_negative_weight() -> None:
    """D_u + sum_i w_i (D_i - D_u) (2206.01714, eq. 11 and 12)."""
    x_t = points()
    prediction, cost = call(guided('compose({"2": 4, "0": 1.5, "1": -2})', [None] * N), x_t)
    unconditional = exact(x_t, None)
    directions = [w * (exact(x_t, label) - unconditional) for label, w in ((2, 4), (0, 1.5), (1, -2))]
    close(prediction.x0, unconditional + sum(directions))
    assert cost.rows == 4 * N


def test_compose_whose_weights_add_to_one_never_asks_for_null() -> None:
    x_t = points()
    prediction, cost = call(guided("compose({2: 1.5, 1: -0.5})", [None] * N), x_t)
    close(prediction.x0, 1.5 * exact(x_t, 2) - 0.5 * exact(x_t, 1))
    assert cost.rows == 2 * N
    alone, cost = call(guided("compose({2: 1, 1: 0})", [None] * N), x_t)
    assert torch.equal(alone.x0, MODEL.denoiser(x_t, T, MODEL.encode([2] * N)).x0)
    assert cost.rows == N


def test_compose_in_an_interval_leaves_the_run_its_own_condition_outside() -> None:
    x_t = points()
    for interval, expected in (("(0, 0.5)", exact(x_t, 1)), ("(0.5, 1)", exact(x_t, LABELS))):
        close(call(guided(f"compose({{1: 1}}).during(t={interval})"), x_t)[0].x0, expected)


def test_not_points_away() -> None:
    """Far out on the axis between classes 0 and 2 of the ring, NOT 2 is a shift to 0's side."""
    x_t = torch.zeros(1, 2, dtype=torch.float64)
    away, _ = call(guided("compose({2: -1})", [None]), x_t)
    close(away.x0, 2 * exact(x_t, None) - exact(x_t, 2))
    assert float(away.x0[0, 0]) > 0 > float(exact(x_t, 2)[0, 0])


def test_terms_add_their_directions() -> None:
    x_t = points()
    prediction, _ = call(guided("cfg(3) + cfg(2, negative=0)", [2] * N), x_t)
    conditional, unconditional, negative = exact(x_t, 2), exact(x_t, None), exact(x_t, 0)
    close(prediction.x0, conditional + 2 * (conditional - unconditional) + (conditional - negative))


@pytest.mark.parametrize("text", ["cfg(4)", "cfg([0, 1, 3, -2, 7])", "cfg(3) + cfg(2, negative=0)"])
@pytest.mark.parametrize("label", ["vp", "cosine", "ve"])
def test_guidance_is_the_same_whatever_the_network_was_trained_to_output(label: str, text: str) -> None:
    """Affine rules whose coefficients sum to one commute with the change between eps, v, x0 and flow."""
    schedule = SCHEDULES[label]
    model, x_t = toy_model(MIXTURE, schedule), points(schedule)
    alpha, sigma = (value.reshape(1, 1) for value in schedule.alpha_sigma(T))
    reference = guided(text, model=model)
    expected = call(reference, x_t)[0]
    for objective in ("eps", "v", "x0", "flow"):

        def network(inputs, time, condition, objective=objective):
            x = inputs / schedule.input_scale(T)
            return ToyDenoiser(MIXTURE, schedule)(x, T, condition).output(objective, alpha, sigma)

        denoiser = GuidedDenoiser(
            NetworkDenoiser(network, schedule, objective),
            parse(text),
            schedule,
            reference.condition,
            encode=model.encode,
        )
        prediction = denoiser(x_t, T, reference.condition)
        close(prediction.x0, expected.x0)
        close(prediction.eps, expected.eps)


def test_any_function_can_be_guided() -> None:
    """No model, no network: f(x, t, condition), here a linear one, so the guided value is a number by hand."""

    def denoise(x_t, t, condition):
        shift = torch.where(condition.keep["label"], condition.values["label"], 0)[:, None]
        return Prediction(x_t + shift, x_t)

    condition = Condition.of(label=torch.tensor([5, 7]))
    denoiser = GuidedDenoiser(denoise, CFG(3), SCHEDULE, condition)
    assert denoiser(torch.tensor([[1.0], [2.0]]), T, condition).x0.tolist() == [[16.0], [23.0]]
