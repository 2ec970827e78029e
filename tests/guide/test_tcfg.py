"""Tangential damping: of the unconditional eps only what lies on the leading singular vector of the two."""

import pytest
import torch
from diffusers.guiders import TangentialClassifierFreeGuidance
from torch import Tensor

from fairlead.core.prediction import Objective
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.per_sample import dot
from tests.guide.stored import output, random, stored
from tests.guide.toy import N, T, call, close

X_T, COND = random(N, 3, 4), random(N, 3, 4, seed=1)
NULL = COND + 0.4 * random(N, 3, 4, seed=2)
SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}


def damped(cond: Tensor, null: Tensor) -> Tensor:
    """By a singular value decomposition."""
    pair = torch.stack([cond.flatten(1), null.flatten(1)], 1)
    leading: Tensor = torch.linalg.svd(pair, full_matrices=False).Vh[:, 0]
    return ((null.flatten(1) * leading).sum(1, keepdim=True) * leading).reshape(null.shape)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("null", [NULL, -NULL, 3 * NULL, random(N, 3, 4, seed=7)], ids=["near", "far", "long", "any"])
def test_it_is_the_projection_on_the_leading_singular_vector_of_the_eps(label: str, null: Tensor) -> None:
    denoiser = stored("tcfg(cfg(4))", COND, null, objective="eps", schedule=SCHEDULES[label])
    prediction, cost = call(denoiser, X_T)
    u = damped(COND, null)
    close(output(prediction, denoiser, X_T, T), u + 4 * (COND - u))
    assert cost.rows == 2 * N


def test_by_hand() -> None:
    """c = (2, 1), u = (1, 2): equally long, so the leading vector is (1, 1) / sqrt 2 and u' = (1.5, 1.5)."""
    cond, null = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
    x_t = torch.ones(1, 2).double()
    denoiser = stored("tcfg(cfg(3))", cond, null, objective="eps", n=1)
    close(output(call(denoiser, x_t)[0], denoiser, x_t, T), torch.tensor([[3.0, 0.0]]).double())


@pytest.mark.parametrize("scale", [-1.0, 0.0, 2.5, 7.5])
def test_the_same_as_diffusers_for_an_eps_network(scale: float, monkeypatch) -> None:
    """It decomposes in float32, here for once in float64."""
    denoiser = stored(f"tcfg(cfg({scale}))", COND, NULL, objective="eps")
    ours = output(call(denoiser, X_T)[0], denoiser, X_T, T)
    close(ours, TangentialClassifierFreeGuidance(scale).forward(COND, NULL).pred, 2e-5)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    close(ours, TangentialClassifierFreeGuidance(scale).forward(COND, NULL).pred)


@pytest.mark.parametrize("objective", ["x0", "v", "flow"])
def test_it_is_in_eps_whatever_the_network_returns(objective: Objective) -> None:
    """diffusers decomposes the raw outputs, so that the same two predictions give another result in each."""
    denoiser = stored("tcfg(cfg(4))", COND, NULL, objective="eps")
    expected, _ = call(denoiser, X_T)
    outputs = [
        output(call(stored(text, COND, NULL, objective="eps"), X_T)[0], _as(objective), X_T, T)
        for text in ("none", "cfg(0)")
    ]
    same, _ = call(stored("tcfg(cfg(4))", *outputs, objective=objective), X_T)
    close(same.x0, expected.x0)
    theirs = TangentialClassifierFreeGuidance(4.0).forward(*outputs).pred
    u = damped(*outputs)
    close(theirs, u + 4 * (outputs[0] - u), 1e-4)


def _as(objective: Objective):
    return stored("none", COND, NULL, objective=objective)


def test_equal_predictions_and_predictions_without_a_leading_direction_lose_nothing() -> None:
    """c = u; and two orthogonal eps of one length, whose singular values are equal."""
    denoiser = stored("tcfg(cfg(4))", COND, COND, objective="eps")
    close(output(call(denoiser, X_T)[0], denoiser, X_T, T), COND)
    cond, null = torch.tensor([[3.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([[0.0, 3.0], [0.0, 0.0]]).double()
    x_t = torch.ones(2, 2).double()
    denoiser = stored("tcfg(cfg(4))", cond, null, objective="eps", n=2)
    close(output(call(denoiser, x_t)[0], denoiser, x_t, T), null + 4 * (cond - null))


def test_where_alpha_is_0_the_part_of_the_difference_across_x_t_is_halved() -> None:
    """The first step of a flow model: the limit of t to 1, and finite."""
    flow, one = RectifiedFlow(), torch.ones((), dtype=torch.float64)
    denoiser = stored("tcfg(cfg(4))", COND, NULL, schedule=flow)
    delta = COND - NULL
    along = dot(delta, X_T) / dot(X_T, X_T) * X_T
    at_1 = call(denoiser, X_T, one)[0].x0
    close(at_1, COND + 3 * (along + (delta - along) / 2))
    for gap in (1e-4, 1e-7, 1e-10):
        assert float((call(denoiser, X_T, one - gap)[0].x0 - at_1).abs().max()) < 50 * gap
    close(call(denoiser, X_T.float(), one - 1e-4)[0].x0.double(), call(denoiser, X_T, one - 1e-4)[0].x0, 1e-4)
