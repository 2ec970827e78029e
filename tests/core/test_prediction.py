"""The four objectives are one prediction: target and output are inverse, and x_t = alpha x0 + sigma eps always."""

from typing import get_args

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser, counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction, check_pair, target
from fairlead.core.schedule import VE, RectifiedFlow, TableSchedule, VPCosine, vp_linear

OBJECTIVES = get_args(Objective)
SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(3.0), "ve": VE()}
TIMES = torch.tensor([0.05, 0.3, 0.62, 0.97], dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def draw(schedule, times: torch.Tensor = TIMES):
    x0, eps = torch.randn(2, len(times), 3, 2, dtype=torch.float64)
    alpha, sigma = (value.reshape(-1, 1, 1) for value in schedule.alpha_sigma(times))
    return x0, eps, alpha, sigma, alpha * x0 + sigma * eps


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_network_that_hits_its_target_recovers_x0_and_eps(objective, label: str) -> None:
    x0, eps, alpha, sigma, x_t = draw(SCHEDULES[label])
    prediction = Prediction.from_output(target(x0, eps, objective, alpha, sigma), objective, x_t, alpha, sigma)
    worst = float((1 / torch.minimum(alpha, sigma)).max())  # x0 of an eps network loses alpha's digits
    close(prediction.x0, x0, 1e-14 * worst**2 + 1e-12)
    close(prediction.eps, eps, 1e-14 * worst**2 + 1e-12)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_output_is_tied_to_x_t_and_output_is_the_inverse(objective, label: str) -> None:
    _, output, alpha, sigma, x_t = draw(SCHEDULES[label])
    prediction = Prediction.from_output(output, objective, x_t, alpha, sigma)
    close(alpha * prediction.x0 + sigma * prediction.eps, x_t)
    close(prediction.output(objective, alpha, sigma), output)
    tied = Prediction.from_x0(prediction.x0, x_t, alpha, sigma)
    close(tied.eps, prediction.eps, 1e-6)


@pytest.mark.parametrize("objective", ["v", "x0", "flow"])
def test_pure_noise_gives_a_finite_x0(objective) -> None:
    x0, eps, alpha, sigma, x_t = draw(RectifiedFlow(), torch.ones(2, dtype=torch.float64))
    prediction = Prediction.from_output(target(x0, eps, objective, alpha, sigma), objective, x_t, alpha, sigma)
    close(prediction.x0, x0)
    close(prediction.eps, eps)


def test_v_on_a_variance_exploding_schedule_is_edm_preconditioning() -> None:
    """2206.00364, table 1 with sigma_data = 1: D = c_skip x + c_out F(c_in x), c_skip = 1 / (1 + sigma^2),
    c_out = sigma / sqrt(1 + sigma^2), c_in = 1 / sqrt(1 + sigma^2). The sign: F = -v."""
    schedule = VE()
    _, _, _, sigma, x_t = draw(schedule)
    seen = []

    def network(x, time, condition):
        seen.append((x, time))
        return (3 * x).sin()

    prediction = NetworkDenoiser(network, schedule, "v")(x_t, TIMES, Condition(len(x_t)))
    (inputs, time), f = seen[0], -(3 * x_t / (1 + sigma**2).sqrt()).sin()
    close(inputs, x_t / (1 + sigma**2).sqrt())
    # float32, as a network gets it; the schedule keeps log(0) away by stopping at 1e-6
    close(time.double(), 1000 * sigma.flatten().clamp(min=1e-6).log() / 4, 1e-6)
    close(prediction.x0, x_t / (1 + sigma**2) + sigma / (1 + sigma**2).sqrt() * f)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_network_denoiser(objective) -> None:
    """Rows are counted once per call, one time serves the batch, and the network is given the table index."""
    schedule, x_t = vp_linear(), torch.randn(3, 2, dtype=torch.float64)
    output, times = torch.randn(3, 2, dtype=torch.float64), []

    def network(x, time, condition):
        times.append(time)
        assert torch.equal(x, x_t)
        return output

    denoiser = NetworkDenoiser(network, schedule, objective)
    t = torch.tensor(0.4, dtype=torch.float64)
    with counting() as cost:
        prediction = denoiser(x_t, t, Condition(3))
        each = denoiser(x_t, t.expand(3), Condition(3))
    assert (cost.rows, cost.calls) == (6, 2)
    assert all(torch.equal(time, torch.full((3,), 399.0)) for time in times)
    alpha, sigma = schedule.alpha_sigma(t)
    expected = Prediction.from_output(output, objective, x_t, alpha, sigma)
    for given in (prediction, each):
        close(given.x0, expected.x0)
        close(given.eps, expected.eps)


ENDING_IN_NOISE = [RectifiedFlow(), VPCosine(log_snr_min=-torch.inf), TableSchedule((0.5, 0.0))]


@pytest.mark.parametrize("schedule", ENDING_IN_NOISE)
def test_an_eps_network_needs_signal_at_the_start(schedule) -> None:
    with pytest.raises(UsageError, match=r"'eps' cannot be used .* use objective 'v', 'x0' or 'flow'"):
        check_pair("eps", schedule)
    with pytest.raises(UsageError, match="alpha is 0 at t = 1"):
        NetworkDenoiser(lambda x, t, c: x, schedule, "eps")
    for objective in ("v", "x0", "flow"):
        check_pair(objective, schedule)


def test_unknown_objectives_are_refused_everywhere() -> None:
    x = torch.ones(1)
    for call in (
        lambda: check_pair("epsilon", vp_linear()),
        lambda: target(x, x, "epsilon", x, x),  # type: ignore[arg-type]
        lambda: Prediction.from_output(x, "epsilon", x, x, x),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=r"unknown objective 'epsilon' \(known: eps, v, x0, flow\)|did you mean"):
            call()
