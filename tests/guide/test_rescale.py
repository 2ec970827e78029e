"""Rescaled guidance."""

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg

from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective
from fairlead.core.schedule import RectifiedFlow, vp_linear
from fairlead.guide.expression import parse
from tests.guide.stored import output, random, stored
from tests.guide.toy import N, T, call, close

X_T, COND, NULL = (random(N, 3, 4, seed=seed) for seed in range(3))
GUIDED = NULL + 4 * (COND - NULL)


def test_by_hand() -> None:
    """c = (1, -1) has std 1, g = (5, -1) has std 3: phi = 1 gives g / 3, phi = 0.6 gives 0.6 g / 3 + 0.4 g."""
    cond, null = (torch.tensor([v], dtype=torch.float64) for v in ([1.0, -1.0], [-3.0, -1.0]))
    guided, x_t = torch.tensor([[5.0, -1.0]]).double(), torch.ones(1, 2).double()
    for phi, factor in ((1, 1 / 3), (0.6, 0.6)):
        close(call(stored(f"cfg(2) | rescale({phi})", cond, null, n=1), x_t)[0].x0, guided * factor)


@pytest.mark.parametrize("objective", ["x0", "eps", "v", "flow"])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_the_same_as_diffusers_on_the_output_of_the_network(objective: Objective, phi: float) -> None:
    denoiser = stored(f"cfg(4) | rescale({phi})", COND, NULL, objective=objective)
    prediction, cost = call(denoiser, X_T)
    close(output(prediction, denoiser, X_T, T), rescale_noise_cfg(GUIDED, COND, phi), 1e-6)
    alpha, sigma = denoiser.schedule.alpha_sigma(T)
    close(alpha * prediction.x0 + sigma * prediction.eps, X_T)
    assert cost.rows == 2 * N


@pytest.mark.parametrize("space", ["x0", "eps", "v", "flow"])
def test_a_space_by_name_is_that_space_whatever_the_network_returns(space: Objective) -> None:
    by_name = stored(f'cfg(4) | rescale(0.7, "{space}")', COND, NULL, objective="v")
    plain, guided = (call(stored(text, COND, NULL, objective="v"), X_T)[0] for text in ("none", "cfg(4)"))
    scale = stored("none", COND, NULL, objective=space)
    expected = rescale_noise_cfg(*(output(p, scale, X_T, T) for p in (guided, plain)), 0.7)
    close(output(call(by_name, X_T)[0], scale, X_T, T), expected)


def test_the_std_of_a_fully_rescaled_prediction_is_the_conditional_one() -> None:
    denoiser = stored("cfg(9) | rescale(1)", COND, NULL, objective="eps")
    rescaled = output(call(denoiser, X_T)[0], denoiser, X_T, T)
    close(rescaled.flatten(1).std(1), COND.flatten(1).std(1))


def test_phi_0_is_nothing_and_asks_for_nothing() -> None:
    prediction, cost = call(stored("cfg(0) | rescale(0)", COND, NULL), X_T)
    assert torch.equal(prediction.x0, NULL)
    assert cost.rows == N
    assert call(stored("cfg(0) | rescale(0.5)", COND, NULL), X_T)[1].rows == 2 * N


@pytest.mark.parametrize("objective", ["x0", "eps", "v", "flow"])
def test_what_is_not_guided_does_not_change(objective: Objective) -> None:
    plain, rescaled = (
        call(stored(text, COND, NULL, objective=objective), X_T)[0] for text in ("none", "none | rescale(0.7)")
    )
    close(rescaled.x0, plain.x0, 1e-12)


def test_a_prediction_without_deviation_is_left_alone_where_diffusers_gives_nan() -> None:
    """Sample 0 is guided to a constant; sample 1 has a constant for its condition, so its std goes to 0."""
    cond, null = torch.stack([NULL[0], 0 * NULL[1] + 2]), torch.stack([NULL[0] * 4 / 3 - 1, NULL[1]])
    x_t = X_T[:2]
    prediction, _ = call(stored("cfg(4) | rescale(1)", cond, null, n=2), x_t)
    guided = null + 4 * (cond - null)
    close(prediction.x0[0], guided[0])
    close(prediction.x0[1], 0 * guided[1])
    constant = torch.full((1, 3, 4), 2.0)
    assert bool(rescale_noise_cfg(constant, constant, 0.7).isnan().all())
    one, _ = call(stored("cfg(4) | rescale(0.7)", constant.double(), constant.double(), n=1), X_T[:1])
    close(one.x0, constant.double())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfg(4) | rescale(1.5)", r"phi in \[0, 1\]"),
        ('cfg(4) | rescale(0.5, "latent")', "unknown space 'latent'"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_eps_is_no_space_of_a_schedule_that_ends_in_pure_noise() -> None:
    with pytest.raises(UsageError, match="alpha is 0 at t = 1"):
        stored('cfg(4) | rescale(0.7, "eps")', COND, NULL, schedule=RectifiedFlow())
    stored('cfg(4) | rescale(0.7, "eps")', COND, NULL, schedule=vp_linear())
