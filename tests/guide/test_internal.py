"""Internal guidance: a head in the middle of the network, its training and its term (2512.24176)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser, counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective
from fairlead.core.schedule import RectifiedFlow
from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.guide.engine import GuidedDenoiser
from fairlead.models.load import load
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.nets.blocks import INTERNAL, attention_mass, record_internal
from fairlead.nets.build import build_net, net_config
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.objective import Draw, diffusion_loss
from tests.guide.toy import MODEL, NETWORK, N, T, call, close, images, network_model, steered

SPECS = [2, 0, 3, 2, 1]
NETS = {
    "unet": net_config("8x8", 1, 8, 10, channels=8, internal=True),
    "unet of patches": net_config("32x32", 3, 16, 10, channels=8, internal=True),
    "dit": net_config("dit-small", 1, 8, 10, dim=16, depth=3, heads=2, internal=True),
}


def shaken(config: dict) -> nn.Module:
    """Without zero weights, float64."""
    torch.manual_seed(0)
    network = build_net(config).double().eval()
    for parameter in network.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


def asked(network: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
    """What the network returns, and its head."""
    with attention_mass((INTERNAL,)) as recorded:
        output = network(*inputs)
    guess = recorded[INTERNAL]
    assert guess is not None
    return output, guess


def halfway(model: Model, x_t: Tensor, specs: list) -> Tensor:
    """What the head guesses, as x0."""
    _, guess = asked(model.denoiser, x_t, T, model.encode(specs))
    alpha, sigma = model.schedule.alpha_sigma(T)
    assert model.objective == "v"
    x0: Tensor = (alpha * x_t - sigma * (alpha**2 + sigma**2).sqrt() * guess) / (alpha**2 + sigma**2)
    return x0


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("batching", ["fused", "sequential"])
def test_the_rule_at_one_row(scale: float, batching: str) -> None:
    x_t = images()
    plain, _ = call(steered("none", SPECS), x_t)
    guided, cost = call(steered(f"internal({scale})", SPECS, batching=batching), x_t)
    guess = halfway(NETWORK, x_t, SPECS)
    close(guided.x0, guess + scale * (plain.x0 - guess), 1e-10)
    assert cost.rows == N


@pytest.mark.parametrize("objective", ["eps", "x0", "flow"])
def test_the_head_guesses_what_the_network_was_trained_for(objective: Objective) -> None:
    """D_i follows from the guess as D does from the output: of a head that repeats the output, nothing is added."""
    model = network_model(0, objective, MODEL.schedule)
    assert isinstance(model.denoiser, NetworkDenoiser)
    network = model.denoiser.network

    def echo(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output = network(x, time, condition)
        record_internal(lambda: output)
        return output

    echoing = replace(model, denoiser=NetworkDenoiser(echo, model.schedule, objective))
    x_t, condition = images(model), model.encode(SPECS)
    guided = GuidedDenoiser.of(echoing, "internal(3)", condition)(x_t, T, condition)
    close(guided.x0, model.denoiser(x_t, T, condition).x0, 1e-10)


def test_beside_other_methods_its_head_is_that_of_the_conditional_row() -> None:
    x_t = images()
    cfg, internal, plain = (call(steered(text, SPECS), x_t)[0].x0 for text in ("cfg(3)", "internal(2)", "none"))
    both, cost = call(steered("cfg(3) + internal(2) + pag(1)", SPECS), x_t)
    pag = call(steered("pag(1)", SPECS), x_t)[0].x0
    close(both.x0, cfg + internal + pag - 2 * plain, 1e-10)
    assert cost.rows == 3 * N
    unconditional, one = call(steered("cfg(0) + internal(2)", SPECS), x_t)
    close(unconditional.x0, call(steered("cfg(0)", SPECS), x_t)[0].x0 + internal - plain, 1e-10)
    assert one.rows == 2 * N


@pytest.mark.parametrize("name", NETS)
def test_a_head_changes_no_bit_of_the_network_and_has_few_weights(name: str) -> None:
    config = NETS[name]
    without = {key: value for key, value in config.items() if key != "internal"}
    torch.manual_seed(3)
    headed: Any = build_net(config)
    torch.manual_seed(3)
    plain: Any = build_net(without)
    mine, own = plain.state_dict(), headed.state_dict()
    assert all(torch.equal(own[key], value) for key, value in mine.items())
    extra = {key for key in own if key not in mine}
    assert extra
    assert all(key.startswith("internal.") for key in extra)
    assert headed.layers()["internal"] == ("internal",)
    assert "internal" not in plain.layers()


@pytest.mark.parametrize("name", NETS)
def test_the_guess_depends_on_the_first_half_only(name: str) -> None:
    network, config = shaken(NETS[name]), NETS[name]
    x = torch.randn(2, config["channels_in"], config["size"], config["size"], dtype=torch.float64)
    time, condition = torch.tensor([100.0, 700.0]).double(), Condition.of(label=[1, 2])
    later = [p for n, p in network.named_parameters() if n.startswith(("up.", "out.", "norm.", "blocks.2"))]
    guesses = []
    for _ in range(2):
        output, guess = asked(network, x, time, condition)
        assert guess.shape == output.shape
        guesses.append(guess)
        for parameter in later:
            parameter.add_(1)
    assert torch.equal(*guesses)


# --- training -----------------------------------------------------------------------------------------------------


def digits() -> ImageData:
    data = load_digits("train")
    return ImageData(data.images[:64], data.labels[:64], data.classes, "digits", "train", False)


def config(**changes) -> TrainConfig:
    given = {"steps": 4, "batch_size": 8, "warmup": 0, "precision": "fp32", "internal": 0.5, **changes}
    net = {key: value for key, value in NETS["unet"].items() if key != "internal" or given["internal"]}
    return TrainConfig(net, **given)


def test_the_loss_is_that_of_the_output_and_its_share_of_the_heads() -> None:
    training = Training(digits(), config(), None)
    for _ in range(2):
        training.take_step()  # the last layers start at 0
    x0, _ = training.batches.batch(2, 0, 1)
    draw = Draw.of(8, (1, 8, 8), training.drops, 0, 2)
    condition = training.conditions.drawn(training.batches.index(2, 0, 1), x0, config(), 2, 0, 1)  # type: ignore[union-attr]
    inputs = training.task.inputs(x0, draw, condition.drop(draw.dropped["label"]), training.schedule)
    with torch.no_grad():
        both = asked(training.network.train(), *inputs)
    parts = [diffusion_loss(each, x0, draw, training.schedule, "v", "uniform") for each in both]
    loss, _, _ = training.take_step()
    assert float(parts[1]) != float(parts[0])
    close(loss, parts[0] + 0.5 * parts[1], 1e-6)


def test_a_run_is_loaded_and_guided(tmp_path) -> None:
    list(Training(digits(), config(), tmp_path / "run").run())
    model = load(tmp_path / "run")
    assert model.layers["internal"] == ("internal",)
    condition, x_t = model.encode(["seven", "one"]), torch.randn(2, 1, 8, 8)
    with counting() as cost:
        prediction = GuidedDenoiser.of(model, "internal(2)", condition)(x_t, T, condition)
    assert bool(prediction.x0.isfinite().all())
    assert cost.rows == 2


def test_models_without_a_head_are_refused() -> None:
    plain = build_net({key: value for key, value in NETS["unet"].items() if key != "internal"})
    model = Model(
        NetworkDenoiser(plain, RectifiedFlow(), "v"), RectifiedFlow(), (1, 8, 8), LabelEncoder(tuple("0123456789")),
        identity, layers=plain.layers(),  # type: ignore[operator]
    )  # fmt: skip
    with pytest.raises(
        UsageError, match=r"internal\(1.5\): this model has no head in its middle; train one with --int"
    ):
        GuidedDenoiser.of(model, "internal(1.5)", model.encode(["1"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config(internal=-0.5), "internal: expected 0 or more .*, such as 0.5, got -0.5"),
        (lambda: TrainConfig(NETS["unet"]), "internal: a weight above 0 and a network with internal=True go together"),
        (lambda: TrainConfig(net_config("8x8", 1, 8, 10), internal=0.5), "go together, got 0.5 with internal=False"),
        (lambda: config(objective="label"), "objective 'label' and a network of kind 'classifier' go together"),
        (lambda: net_config("lesson-mnist", 1, 28, 10, internal=True), "takes no 'internal'"),
    ],
)
def test_settings_that_contradict_each_other(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
