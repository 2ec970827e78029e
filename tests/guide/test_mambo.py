"""Magnitude-aware guidance."""

import math

import pytest
import torch
from diffusers.guiders import MagnitudeAwareGuidance

from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow, VPCosine
from fairlead.guide.expression import parse
from tests.guide.stored import output, random, stored
from tests.guide.toy import N, T, call, close

FLOW = RectifiedFlow()
X_T, NULL = random(N, 3, 4), random(N, 3, 4, seed=1)
COND = NULL + 0.1 * random(N, 3, 4, seed=2)


def velocity(text: str, cond=COND, null=NULL, x_t=X_T):
    denoiser = stored(text, cond, null, objective="flow", schedule=FLOW, n=len(x_t))
    return output(call(denoiser, x_t)[0], denoiser, x_t, T)


def test_by_hand() -> None:
    """|v_c - v_u| / |v_u| = 1 / 5, so scale 11 becomes 1 + 10 exp(-8 / 5)."""
    cond, null = (torch.tensor([v], dtype=torch.float64) for v in ([3.6, 4.8], [3.0, 4.0]))
    scale = 1 + 10 * math.exp(-8 / 5)
    close(velocity("mambo(cfg(11))", cond, null, torch.ones(1, 2).double()), null + scale * (cond - null))
    scale = 1 + 10 * math.exp(-0.5 / 5)
    close(velocity("mambo(cfg(11), 0.5)", cond, null, torch.ones(1, 2).double()), null + scale * (cond - null))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 2.5, 12.0])
@pytest.mark.parametrize("alpha", [0.0, 3.0, 8.0])
def test_the_same_as_diffusers_on_velocities(scale: float, alpha: float) -> None:
    theirs = MagnitudeAwareGuidance(scale, alpha=alpha).forward(COND, NULL).pred
    close(velocity(f"mambo(cfg({scale}), {alpha})"), theirs, 1e-6)


def test_other_outputs_are_converted_where_diffusers_takes_them_for_velocities() -> None:
    """From x0 of the same predictions; there its ratio would be |D_c - D_u| / |D_u|."""
    denoiser = stored("none", COND, NULL, objective="flow", schedule=FLOW)
    x0 = [call(stored(text, COND, NULL, objective="flow", schedule=FLOW), X_T)[0].x0 for text in ("none", "cfg(0)")]
    same, _ = call(stored("mambo(cfg(12))", *x0, schedule=FLOW), X_T)
    close(output(same, denoiser, X_T, T), velocity("mambo(cfg(12))"))
    ratio = ((x0[0] - x0[1]).flatten(1).norm(dim=1) / x0[1].flatten(1).norm(dim=1))[:, None, None]
    theirs = MagnitudeAwareGuidance(12.0).forward(*x0).pred
    close(theirs, x0[0] + 11 * torch.exp(-8 * ratio) * (x0[0] - x0[1]), 1e-6)


def test_other_schedules_are_the_same_flow() -> None:
    schedule = VPCosine()
    alpha, sigma = schedule.alpha_sigma(T)
    vp, flow = (
        stored("mambo(cfg(4))", COND, NULL, schedule=schedule),
        stored("mambo(cfg(4))", COND, NULL, schedule=FLOW),
    )
    close(call(vp, X_T)[0].x0, call(flow, X_T / (alpha + sigma), sigma / (alpha + sigma))[0].x0)


def test_an_unconditional_velocity_of_0_is_not_guided_where_diffusers_gives_nan() -> None:
    """A ratio of infinity; and where both are 0, 0."""
    close(velocity("mambo(cfg(4))", COND, 0 * NULL), COND)
    close(velocity("mambo(cfg(4))", 0 * COND, 0 * NULL), 0 * COND)
    assert bool(MagnitudeAwareGuidance(4.0).forward(0 * COND, 0 * NULL).pred.isnan().all())


def test_alpha_0_is_the_method_inside() -> None:
    close(velocity("mambo(cfg(4), 0)"), velocity("cfg(4)"))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="alpha of at least 0"):
        parse("mambo(cfg(4), -1)")
