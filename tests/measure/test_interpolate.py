"""Interpolation: the ends are the plain conditions, swapping them turns the strip round, and smoothness is what it says
in closed form."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.measure.judge import Classifier, ClassifierRecipe, TrainedOn
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.nets.unet import Conditioning, UNet
from fairlead.report.interpolations import interpolate, unevenness
from fairlead.sample.run import sample

NAMES = ("zero", "one", "two")


def model_of(conditioning: Conditioning = "adaptive") -> Model:
    """A small U-Net with random weights everywhere, also in the layers that start at zero."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "embed": 16}
    network = UNet(1, 8, len(NAMES), conditioning=conditioning, **sizes).eval()
    for name, parameter in network.named_parameters():
        if "label.table" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    network.requires_grad_(False)
    assert network.label is not None
    return Model(
        NetworkDenoiser(network, VPCosine(), "v"),
        VPCosine(),
        (1, 8, 8),
        LabelEncoder(NAMES),
        identity,
        NAMES,
        (-1.0, 1.0),
        embed=network.label.embed,
    )


MODEL = model_of()
STEPS: dict[str, Any] = {"steps": 4, "sampler": "ddim(eta=0.3)"}
GUIDANCE = ["none", "cfg(3)", 'cfg(3, negative="zero")', "cfg(3) | clip()", "icg(2) + cads(0.2)"]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_the_ends_are_the_plain_conditions(guidance: str) -> None:
    found = interpolate(MODEL, "two", "one", n=2, frames=3, guidance=guidance, seed=5, batch_size=4, **STEPS)
    assert found.x0.shape == (2, 3, 1, 8, 8)
    assert found.run.seeds == (5, 5, 5, 6, 6, 6)
    for frame, end in ((0, "two"), (-1, "one")):
        close(found.x0[:, frame], sample(MODEL, end, guidance=guidance, seeds=(5, 6), **STEPS).x0)


@pytest.mark.parametrize("conditioning", ["adaptive", "add", "concat", "fuse"])
def test_swapping_the_ends_turns_the_strip_round(conditioning: Conditioning) -> None:
    there = interpolate(model_of(conditioning), "zero", 2, frames=5, n=2, guidance="cfg(2)", **STEPS)
    back = interpolate(model_of(conditioning), 2, "zero", frames=5, n=2, guidance="cfg(2)", **STEPS)
    close(there.x0, back.x0.flip(1))
    assert there.weights == [0, 0.25, 0.5, 0.75, 1]
    assert float((there.x0[:, 1:] - there.x0[:, :-1]).flatten(2).norm(dim=2).min()) > 1e-3
    close(there.changes(), back.changes().flip(1), 1 / 255)


def test_any_floating_condition_is_mixed_on_a_straight_line() -> None:
    """A model whose x0 is the mean of its text embeddings: every frame is known exactly."""
    texts = {"cat": torch.tensor([[1.0, -0.5], [0.0, 0.5]]), "dog": torch.tensor([[-1.0, 0.5], [0.5, 0.0]])}

    def encode(specs: Any) -> Condition:
        keep = torch.tensor([spec is not None for spec in specs])
        value = torch.stack([texts.get(spec, torch.zeros(2, 2)) for spec in specs])
        return Condition(len(specs), {"text": value}, {"text": keep})

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return condition.values["text"].mean((1, 2)).reshape(-1, 1, 1, 1).expand_as(x)

    denoiser = NetworkDenoiser(network, VPCosine(), "x0")
    model = Model(denoiser, VPCosine(), (1, 2, 2), encode, identity, embed=lambda condition: condition)
    found = interpolate(model, "cat", "dog", frames=5, n=1, steps=2)
    ends = [texts[name].mean() for name in ("cat", "dog")]
    expected = torch.stack([(1 - weight) * ends[0] + weight * ends[1] for weight in found.weights])
    close(found.x0[0].mean((1, 2, 3)), expected)
    assert found.run.conds[1] == "0.75 cat + 0.25 dog"


def test_smoothness_in_closed_form() -> None:
    even, jump, still = [2.0, 2.0, 2.0, 2.0], [0.0, 3.0, 0.0, 0.0], [0.0] * 4
    assert unevenness(torch.tensor([even, jump, still, [1.0, 2.0, 3.0, 2.0]])).tolist() == [1, 4, 1, 1.5]


class Brightness(Classifier):
    """Its feature is the mean pixel; it sees class 0 below 1/3, 2 above 2/3, else 1."""

    def __init__(self) -> None:
        super().__init__(ClassifierRecipe(0, 1, 8, 1), TrainedOn("d", "train", "f", (1, 8, 8), NAMES, False))

    def features(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3))[:, None] / 255

    def logits(self, images: Tensor) -> Tensor:
        return -(self.features(images) - torch.tensor([[1 / 6, 1 / 2, 5 / 6]])).abs()


def test_judge_and_features_see_the_frames() -> None:
    found = interpolate(MODEL, "zero", "two", n=2, frames=5, steps=2)
    grey = torch.tensor([[0, 60, 120, 180, 240], [0, 20, 100, 180, 240]], dtype=torch.uint8)
    images = grey.reshape(10, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    painted = replace(found, run=replace(found.run, images=images))
    close(painted.changes(Brightness())[0], torch.full((4,), 60 / 255, dtype=torch.float64))
    close(painted.changes()[1], torch.tensor([20, 80, 80, 60], dtype=torch.float64) / 255)
    assert painted.smoothness(Brightness()).value == pytest.approx((1 + 80 / 60) / 2, rel=1e-5)
    assert painted.smoothness(Brightness()).n == 2
    shares = painted.recognised(Brightness())
    assert [share.value for share in shares["zero"]] == [1, 1, 0, 0, 0]
    assert [share.value for share in shares["two"]] == [0, 0, 0, 1, 1]
    assert [share.value for share in shares["another"]] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": None}, "null has no embedding"),
        ({"b": "zero"}, "same condition"),
        ({"b": 0}, "same condition"),
        ({"b": "seven"}, "unknown class 'seven'"),
        ({"frames": 2}, "at least 3 frames"),
        ({"n": 0}, "at least 1 seed"),
        ({"guidance": 'auto(2, weak="runs/x")'}, "does not know this model's embeddings"),
        ({"model": replace(MODEL, embed=None)}, "no embeddings"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change: dict[str, Any], said: str) -> None:
    given = {"model": MODEL, "a": "zero", "b": "two", **change}
    with pytest.raises(UsageError, match=said):
        interpolate(given.pop("model"), given.pop("a"), given.pop("b"), **{"steps": 2, **given})


def test_it_is_at_the_front_door() -> None:
    assert fl.interpolate is interpolate
