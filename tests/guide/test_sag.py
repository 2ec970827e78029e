"""Self-attention guidance: the mask, the blur, the second evaluation and whose attention it is (2210.00939)."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.sag import degraded
from fairlead.guide.observation import Observation
from fairlead.nets.blocks import attention_mass
from tests.guide.toy import NETWORK, N, T, call, close, guided, images, network_model, steered

SPECS = [2, 0, 3, 2, 1]
X_T = images()
TEXTS = ["sag(0.7)", 'sag([0.5, 0, 2, 1, -1], blur=2, layers="down.0.0")', 'sag(1, layers=["middle.0", "up.1.0"])']


def attention_of(x_t: Tensor, condition: Condition, layers: list[str]) -> list[Tensor]:
    with attention_mass(layers) as mass:
        NETWORK.denoiser(x_t, T, condition)
    return [received for received in mass.values() if received is not None]


@pytest.mark.parametrize("schedule", [vp_linear(), VPCosine(), RectifiedFlow()], ids=lambda s: s.config()["name"])
def test_the_rule_of_the_paper_step_by_step(schedule) -> None:
    """x0 and mask from the prediction, blurred, re-noised with its eps, evaluated, eps + s (eps - eps of that)."""
    model = network_model(0, "v", schedule)
    x_t, condition = images(model), model.encode(SPECS)
    alpha, sigma = schedule.alpha_sigma(T)
    with attention_mass(["middle.0"]) as mass:
        plain = model.denoiser(x_t, T, condition)
    received = mass["middle.0"]
    assert received is not None
    mask = (received > 1).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    assert 0.2 < float(mask.double().mean()) < 0.8
    position = torch.arange(8, dtype=torch.float64)
    gauss = torch.exp(-0.5 * ((position[:, None] - position) / 1.5) ** 2)
    gauss = gauss / gauss.sum(1, keepdim=True)
    blurred = gauss @ plain.x0 @ gauss.T
    worse = alpha * torch.where(mask, blurred, plain.x0) + sigma * plain.eps
    eps = plain.eps + 0.7 * (plain.eps - model.denoiser(worse, T, condition).eps)
    prediction, _ = call(steered('sag(0.7, blur=1.5, layers="middle.0")', SPECS, model=model), x_t)
    close(prediction.eps, eps, 1e-9)
    close(prediction.x0, (x_t - sigma * eps) / alpha, 1e-8)


def test_diffusers_degrades_the_same_latents() -> None:
    """StableDiffusionSAGPipeline.sag_masking: mask above 1 of heads averaged and queries summed, nearest upsampling,
    Gaussian blur of 1 with 9 taps. Away from the border, which it reflects; its taps end at 4 standard deviations."""
    from diffusers import StableDiffusionSAGPipeline as pipeline

    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.zeros(2, 4, 24, 24, dtype=torch.float64), torch.randn(2, 4, 24, 24, generator=generator).double()
    x0[:, :, 8:16, 8:16] = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, 3, 36, 36, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    alpha, sigma = vp_linear().alpha_sigma(T)

    def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return alpha * latents + sigma * noise

    own = SimpleNamespace(
        unet=SimpleNamespace(config=SimpleNamespace(attention_head_dim=3)),
        scheduler=SimpleNamespace(add_noise=add_noise),
    )
    expected = pipeline.sag_masking(own, x0, weights.reshape(6, 36, 36), (6, 6), torch.tensor(3), noise)
    received = weights.mean(1).sum(1).reshape(2, 6, 6)
    found = alpha * degraded(x0, [received], 1.0) + sigma * noise
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert float((found - alpha * x0 - sigma * noise).abs().max()) > 0.1


def test_degraded_by_hand() -> None:
    """Two rows of two positions over 4 x 4 pixels; the mean of the image where the attention is above 1 only."""
    x0 = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = degraded(x0, [torch.tensor([[[1.5, 0.5], [1.0, 1.0]]])], math.inf)
    expected = x0.clone()
    expected[..., :2, :2] = 7.5
    assert torch.equal(found, expected)
    mixed = degraded(x0, [torch.tensor([[[1.5, 0.5], [1.0, 1.0]]]), torch.full((1, 4, 4), 1.1)], math.inf)
    assert (mixed == 7.5).sum() == 12  # the mean of the two maps is above 1 everywhere but in one quarter


@pytest.mark.parametrize("batching", ["fused", "sequential"])
@pytest.mark.parametrize(
    "beside", ["cfg(3) + ", "pag(2) + cfg([3, 0, 1, 1, -1]) + ", "cfg(0) + ", "compose({1: 2}).during(t=(0, 1)) + "]
)
def test_the_attention_is_that_of_the_conditional_rows_whatever_shares_the_call(batching: str, beside: str) -> None:
    seen: list[Observation] = []
    call(steered(beside + 'sag(1, layers=["middle.0", "up.1.0"])', SPECS, batching=batching, observe=seen.append), X_T)
    expected = attention_of(X_T, NETWORK.encode(SPECS), ["middle.0", "up.1.0"])
    for found, own in zip(seen[0].seen.attention.values(), expected, strict=True):
        close(found, own, 1e-12)
        close(found.mean((1, 2)), torch.ones(N, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("text", ["sag(0.7)", "cfg(3) + sag(0.7)"])
def test_a_call_in_pieces_hands_over_the_same_rows(text: str, most: int) -> None:
    """Also after a call that ran out of memory with some layers already recorded."""

    def small(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        prediction = NETWORK.denoiser(x_t, t, condition)
        if len(x_t) > most:
            raise torch.OutOfMemoryError("no room")
        return prediction

    whole = steered(text, SPECS)
    pieces = GuidedDenoiser.of(replace(NETWORK, denoiser=small), whole.guidance, whole.condition)
    expected = call(whole, X_T)[0]
    for _ in range(2):
        close(pieces(X_T, T, pieces.condition).x0, expected.x0, 1e-10)


def test_beside_a_method_that_differentiates_the_attention_is_recorded_all_the_same() -> None:
    class Gradient(type(parse("sag(1)"))):  # type: ignore[misc]
        def ask(self, at) -> Any:
            return replace(super().ask(at), graph=True)

    plain, through = steered("sag(0.7)", SPECS), steered(Gradient(0.7), SPECS)
    close(call(through, X_T)[0].x0, call(plain, X_T)[0].x0, 1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_one_further_row_a_sample_in_a_call_of_its_own(text: str) -> None:
    _, cost = call(steered(text, SPECS), X_T)
    assert (cost.rows, cost.calls) == (2 * N, 2)
    _, cost = call(steered(f"cfg(3) + {text}", SPECS), X_T)
    assert (cost.rows, cost.calls) == (3 * N, 2)


def test_scale_is_linear_and_0_among_others_is_the_plain_model() -> None:
    plain, one, several = (call(steered(t, SPECS), X_T)[0].x0 for t in ("none", "sag(1)", "sag([2, 0, 1, -1, 0.5])"))
    scales = torch.tensor([2, 0, 1, -1, 0.5], dtype=torch.float64).reshape(-1, 1, 1, 1)
    close(several, plain + scales * (one - plain), 1e-10)


def test_it_is_finite_at_pure_noise() -> None:
    """alpha = 0: x_t holds nothing to blur, and the limit of the rule is D - scale M (D - blur(D))."""
    t = torch.ones((), dtype=torch.float64)
    x_t, condition = images(t=t), NETWORK.encode(SPECS)
    with attention_mass(["middle.0"]) as mass:
        x0 = NETWORK.denoiser(x_t, t, condition).x0
    received = mass["middle.0"]
    assert received is not None
    found = call(steered('sag(0.5, layers="middle.0")', SPECS), x_t, t)[0].x0
    close(found, x0 - 0.5 * (x0 - degraded(x0, [received], 1.0)), 1e-10)


def test_the_middle_is_the_default() -> None:
    default, named = (call(steered(t, SPECS), X_T)[0].x0 for t in ("sag(1)", 'sag(1, layers=["middle.0", "middle.1"])'))
    assert torch.equal(default, named)


def test_an_eps_network_gives_the_same_as_a_v_network() -> None:
    """The rule is one of the noise whatever the network returns."""
    schedule = vp_linear()
    v = network_model(0, "v", schedule)
    alpha, sigma = (value.reshape(1, 1, 1, 1) for value in schedule.alpha_sigma(T))

    def as_eps(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        assert isinstance(v.denoiser, NetworkDenoiser)
        output = v.denoiser.network(x, time, condition)
        return Prediction.from_output(output, "v", x, alpha, sigma).eps

    x_t, guide = images(v), steered("sag(0.7)", SPECS, model=v)
    as_eps_model = replace(v, denoiser=NetworkDenoiser(as_eps, schedule, "eps"))
    eps = GuidedDenoiser.of(as_eps_model, guide.guidance, guide.condition)
    close(eps(x_t, T, eps.condition).x0, call(guide, x_t)[0].x0, 1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse("sag(1, blur=0)"), "expected blur to be a number of pixels > 0, got 0"),
        (lambda: parse('sag("x")'), "expected scale to be a finite number"),
        (lambda: parse("sag(1, layers=3)"), "expected layers to be names of layers"),
        (lambda: steered('sag(1, layers="middel.0")', SPECS), "unknown attention layer 'middel.0'; did you mean"),
        (lambda: guided("sag(1)"), "names no attention layers"),
        (lambda: parse("adaptive(sag(1))"), "wraps one method of two branches"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
