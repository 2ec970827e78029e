"""A classifier's checkpoint: what it says, what it refuses, what it answers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, RectifiedFlow
from fairlead.models.load import load
from fairlead.models.noisy_classifier_model import NoisyClassifierModel, load_classifier
from fairlead.models.resources import load_resources
from fairlead.nets.build import CLASSIFIER_PRESETS, build_net, net_config
from fairlead.nets.noisy_classifier import NoisyClassifier
from fairlead.train.config import CLASSIFIER_RECIPES, TrainConfig
from tests.train.tiny import tiny_config, trained

NET = net_config("8x8", 1, 8, 10, presets=CLASSIFIER_PRESETS, channels=8, embed=16)


def classifier_config(**changes) -> TrainConfig:
    fixed = {"net": NET, "objective": "label", "drop": 0.0}
    return tiny_config(**{**fixed, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier")
    trained(classifier_config(), out)
    return out


def test_training_minimises_cross_entropy(tmp_path: Path) -> None:
    """A fresh network that answers anything starts near log 10; it learns 64 digits by heart."""
    plain = {**NET, "anchor": 0}
    _, records = trained(classifier_config(net=plain, steps=60, lr=1e-2, batch_size=32), None)
    assert records[0].loss == pytest.approx(math.log(10), abs=0.3)
    assert sum(record.loss for record in records[-10:]) / 10 < 2.0


def test_an_anchored_one_starts_from_the_gaussians_and_learns() -> None:
    """64 digits of at most 10 a class are distinguished by their moments alone."""
    _, records = trained(classifier_config(steps=60, lr=1e-2, batch_size=32), None)
    assert records[0].loss < 1.5
    assert sum(record.loss for record in records[-10:]) / 10 < 1.0


def test_the_first_loss_is_the_cross_entropy_of_the_networks_own_answer() -> None:
    from fairlead.core.denoiser import expand_like
    from fairlead.core.schedule import VPCosine
    from fairlead.data.batches import Batches
    from fairlead.train.loop import Training
    from fairlead.train.moments import class_moments
    from fairlead.train.objective import Draw, level_of
    from tests.train.tiny import digits

    config = classifier_config(seed=3)
    loss, _, _ = Training(digits(), config, None).take_step()
    torch.manual_seed(3)
    network: Any = build_net(config.net)
    network.gaussians.set_moments(class_moments(digits(), 32))
    (x0, label), draw = Batches(digits(), 8, 3).batch(0), Draw.of(8, (1, 8, 8), {}, 3, 0)
    alpha, sigma = (expand_like(value, x0) for value in VPCosine().alpha_sigma(draw.t))
    with torch.no_grad():
        logits = network(alpha * x0 + sigma * draw.eps, (draw.t * 1000).float(), level_of(VPCosine(), draw.t))
    expected = -logits.log_softmax(1)[torch.arange(8), label].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_three_and_three_steps_are_six_to_the_bit(tmp_path: Path) -> None:
    from tests.train.tiny import same_bits, tensors_of

    config = classifier_config(checkpoint_every=3, precision="bf16")
    trained(config, tmp_path / "straight")
    trained(config, tmp_path / "halves", until=3)
    trained(config, tmp_path / "halves", resume=True)
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))


def test_it_answers_with_normalised_log_probabilities_differentiable_in_x(run: Path) -> None:
    model = load_classifier(run, device="cpu")
    assert (model.shape, model.classes[7], model.schedule.config()["name"]) == ((1, 8, 8), "seven", "vp_cosine")
    x = torch.randn(3, 1, 8, 8, requires_grad=True)
    log_p = model.log_prob(x, torch.tensor(0.3))
    assert (log_p.shape, log_p.dtype) == ((3, 10), torch.float32)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3))
    assert torch.autograd.grad(log_p[:, 2].sum(), x)[0].shape == x.shape
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_prob(x, torch.tensor(0.3)), log_p)
    torch.testing.assert_close(model.log_prob(x.double(), torch.tensor([0.3, 0.3, 0.3])), log_p)
    assert model.metadata["data"] == "digits"


def test_a_double_network_answers_in_double_and_ve_is_scaled() -> None:
    network = NoisyClassifier(1, 8, 3, channels=8, embed=16).double().eval().requires_grad_(False)
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    model = NoisyClassifierModel(network, VE(), (1, 8, 8), ("a", "b", "c"))
    sigma = VE().alpha_sigma(t)[1]
    expected = network(x / (1 + sigma**2).sqrt(), (250 * sigma.log()).expand(2)).log_softmax(1)
    torch.testing.assert_close(model.log_prob(x, t), expected, rtol=1e-12, atol=1e-12)


def test_the_two_kinds_of_checkpoints_are_told_apart(run: Path, tmp_path: Path) -> None:
    trained(tiny_config(), tmp_path)
    with pytest.raises(
        UsageError, match=r"is a classifier of noisy images, expected a diffusion model; .*classifier\(2"
    ):
        load(run)
    with pytest.raises(UsageError, match="is a diffusion model, expected a classifier of noisy images; train one"):
        load_classifier(tmp_path)


def test_as_a_resource_it_is_loaded_once_and_must_fit(run: Path, tmp_path: Path) -> None:
    from fairlead.guide.expression import to_guidance

    trained(tiny_config(), tmp_path / "vp")
    trained(tiny_config(schedule={"name": "flow"}), tmp_path / "flow")
    model, flow = load(tmp_path / "vp", device="cpu"), load(tmp_path / "flow", device="cpu")
    both = to_guidance(f'classifier(1, "{run}") + energy(label("{run}"))')
    assert isinstance(load_resources(both.resources(), model)[str(run)], NoisyClassifierModel)
    with pytest.raises(UsageError, match=r"was trained on the noise schedule .*vp_cosine.* they must agree"):
        load_resources(both.resources(), flow)
    clean = to_guidance(f'energy(label("{run}"))')
    assert isinstance(flow.schedule, RectifiedFlow)
    load_resources(clean.resources(), flow)  # it is asked at t = 0 only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "v"}, "objective 'v' with kind 'classifier'"),
        ({"net": tiny_config().net}, "objective 'label' with kind 'unet'"),
        ({"drop": 0.1}, "expected drop 0 and weighting 'uniform', got 0.1"),
        ({"weighting": "min_snr"}, "got 0 and 'min_snr'"),
    ],
)
def test_settings_that_mean_nothing_for_a_classifier_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classifier_config(**change)


@pytest.mark.parametrize("name", CLASSIFIER_RECIPES)
def test_every_recipe_is_a_legal_configuration(name: str) -> None:
    recipe = CLASSIFIER_RECIPES[name]
    config = TrainConfig(net=NET, **recipe.train)
    assert 0 < config.checkpoint_every < config.steps
    assert recipe.net in CLASSIFIER_PRESETS


@pytest.mark.parametrize(("preset", "channels", "size"), [("8x8", 1, 8), ("28x28", 1, 28), ("32x32", 3, 32)])
def test_every_preset_builds_a_network_for_its_size(preset: str, channels: int, size: int) -> None:
    network = build_net(net_config(preset, channels, size, 10, presets=CLASSIFIER_PRESETS))
    assert network(torch.zeros(2, channels, size, size), torch.zeros(2)).shape == (2, 10)
