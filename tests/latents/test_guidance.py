"""Guidance that needs pixels decodes or refuses; guidance of predictions works in latent pixels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.diffusers.autoencoder import autoencoder_of
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from fairlead.models.model import Model, encode_nothing
from tests.latents.conftest import floats, untrained

T = torch.tensor(0.4, dtype=torch.float64)
PIXELS = {"clip()", "threshold(0.99)"}


def exact(channels: int = 1) -> Model:
    """A denoiser in closed form on latents 2 x 4x4 of a decoder with random weights, all float64."""
    codec = autoencoder_of(untrained(channels=channels, scaling_factor=0.5).double(), "memory")

    def network(x: Tensor, time: Tensor, condition: Any) -> Tensor:
        return torch.sin(x) + 0.3 * x.roll(1, -1)

    return Model(
        NetworkDenoiser(network, VPCosine(), "x0"), VPCosine(), (2, 4, 4), encode_nothing, codec.decode,
        objective="x0", image_shape=(channels, 8, 8),
    )  # fmt: skip


class Bright:
    """A classifier of images, its logits linear in them."""

    schedule, shape, classes = VPCosine(), (1, 8, 8), ("dark", "bright")

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([-x.flatten(1).sum(1), x.flatten(1).sum(1)], 1).log_softmax(1)


def shift(model: Model, guidance: str, x_t: Tensor, resources: dict[str, Any] | None = None) -> Tensor:
    condition = model.encode([None] * len(x_t))
    if resources:
        condition = fl.Condition.of(label=torch.ones(len(x_t), dtype=torch.int64))
    guided = GuidedDenoiser.of(model, to_guidance(guidance), condition, resources=resources)
    return guided(x_t, T, condition).x0 - model.denoiser(x_t, T, condition).x0


@pytest.mark.parametrize("guidance", ["brightness(0.8)", "color('red')", 'label("clf")'])
@pytest.mark.parametrize("through", [True, False])
def test_an_energy_of_images_is_the_gradient_through_the_decoder(guidance: str, through: bool) -> None:
    """Against central differences, float64."""
    model = exact(3 if "color" in guidance else 1)
    x_t = floats(2, 2, 4, 4).double()
    alpha, sigma = (float(value) for value in model.schedule.alpha_sigma(T))
    none = encode_nothing([None] * 2)

    def score(x0: Tensor) -> Tensor:
        images = model.decode(x0)
        if "brightness" in guidance:
            return -0.5 * 64 * (images.flatten(1).mean(1) - 0.6) ** 2
        if "color" in guidance:
            wanted = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
            return -0.5 * 64 * ((images.mean((2, 3)) - wanted) ** 2).sum(1)
        return Bright().log_prob(images, T)[:, 1]

    def of(x: Tensor) -> Tensor:
        return score(model.denoiser(x, T, none).x0) if through else score(x)

    at = x_t if through else model.denoiser(x_t, T, none).x0
    gradient, h = torch.zeros_like(at), 1e-5
    for index in [(c, i, j) for c in range(2) for i in range(4) for j in (0, 3)]:
        step = torch.zeros_like(at)
        step[(slice(None), *index)] = h
        gradient[(slice(None), *index)] = (of(at + step) - of(at - step)) / (2 * h)
    factor = sigma**2 / alpha if through else sigma**2 / (alpha**2 + sigma**2)
    resources = {"clf": Bright()} if "label" in guidance else None
    text = f"energy({guidance}, 2)" if through else f"energy({guidance}, 2, through=False)"
    got = shift(model, text, x_t, resources)
    known = gradient != 0
    assert int(known.sum()) == 32
    assert torch.allclose(got[known], 2 * factor * gradient[known], rtol=1e-5, atol=1e-9)


def test_a_colour_of_grey_images_is_refused_at_the_door() -> None:
    with pytest.raises(UsageError, match=r"needs RGB images, this model's are \[1, 8, 8\]"):
        shift(exact(), "energy(color('red'))", floats(1, 2, 4, 4).double())


def test_a_function_sees_latents_unless_it_asks_for_pixels() -> None:
    seen = []

    def score(x0: Tensor, t: Tensor, condition: Any) -> Tensor:
        seen.append(tuple(x0.shape))
        return x0.flatten(1).sum(1)

    model, x_t = exact(), floats(1, 2, 4, 4).double()
    for pixels in (False, True):
        score.pixels = pixels  # type: ignore[attr-defined]
        condition = model.encode([None])
        GuidedDenoiser.of(model, fl.energy(score, 1), condition)(x_t, T, condition)
    assert seen == [(1, 2, 4, 4), (1, 1, 8, 8)]


@pytest.mark.parametrize("finisher", sorted(PIXELS))
def test_thresholding_refuses_latents_with_a_reason(run: Path, finisher: str) -> None:
    model = fl.load(run)
    with pytest.raises(UsageError, match=r"this model's data has no fixed range .*; thresholding is for pixels"):
        fl.sample(model, "one", guidance=f"cfg(2) | {finisher}", steps=2)


def test_regions_are_of_latent_pixels(run: Path) -> None:
    """The upper half guided, the lower not: each half is that of the run with this scale, at one step."""
    model = fl.load(run)
    x_t, condition = floats(2, 4, 4, 4), model.encode(["one", "two"])

    def x0(guidance: str) -> Tensor:
        return GuidedDenoiser.of(model, to_guidance(guidance), condition)(x_t, T, condition).x0

    mixed, strong, off = x0("cfg(region(4, 1, [0, 0, 0.5, 1]))"), x0("cfg(4)"), x0("cfg(1)")
    assert torch.allclose(mixed[:, :, :2], strong[:, :, :2], atol=1e-5)
    assert torch.allclose(mixed[:, :, 2:], off[:, :, 2:], atol=1e-5)
    with pytest.raises(UsageError, match="the map is 8 x 8, the model's samples are 4 x 4"):
        fl.sample(model, "one", guidance=f"cfg(pixels({[[2.0] * 8] * 8}))", steps=2)
