import dataclasses
import json

import pytest

from fairlead.core.errors import UsageError
from fairlead.train.config import RECIPES, TrainConfig
from fairlead.train.loop import Training
from fairlead.train.optimizer import learning_rate
from tests.train.tiny import digits, tiny_config, tiny_net


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schedule", {"name": "vp_cosin"}, "unknown schedule 'vp_cosin'; did you mean 'vp_cosine'"),
        ("objective", "epsilon", "unknown objective 'epsilon'"),
        ("weighting", "snr", "unknown weighting 'snr'"),
        ("precision", "fp16", "unknown precision 'fp16'"),
        ("steps", 0, "steps: expected at least 1, got 0"),
        ("batch_size", 0, "batch_size: expected at least 1, got 0"),
        ("warmup", -1, "warmup: expected at least 0, got -1"),
        ("snapshot_every", -2, "snapshot_every: expected at least 0, got -2"),
        ("checkpoint_every", -2, "checkpoint_every: expected at least 0, got -2"),
        ("seed", -1, "seed: expected at least 0, got -1"),
        ("seed", 2**63, r"seed: expected a number below 2\*\*63, got 9223372036854775808"),
        ("decay", "linear", r"unknown decay 'linear' \(known: cosine, constant\)"),
        ("betas", (0.9, 1.0), r"betas: expected two numbers from 0 to below 1, got \(0.9, 1.0\)"),
        ("betas", (0.9,), r"betas: expected two numbers from 0 to below 1, got \(0.9,\)"),
        ("drop", 1.5, "drop: expected a number from 0 to 1, got 1.5"),
        ("drop", -0.1, "drop: expected a number from 0 to 1, got -0.1"),
        ("ema", 1.01, "ema: expected a number from 0 to 1, got 1.01"),
        ("ema", float("nan"), "ema: expected a number from 0 to 1, got nan"),
        ("lr", 0.0, "lr: expected a positive number, got 0.0"),
        ("lr", float("nan"), "lr: expected a positive number, got nan"),
        ("clip", 0.0, "clip: expected a positive number, got 0.0"),
        ("weight_decay", -0.1, "weight_decay: expected 0 or more, got -0.1"),
    ],
)
def test_every_field_is_checked_at_the_door(field, value, message):
    with pytest.raises(UsageError, match=message):
        tiny_config(**{field: value})


def test_eps_on_a_schedule_without_signal_at_the_end_is_refused():
    with pytest.raises(UsageError, match="objective 'eps' cannot be used with schedule 'flow': alpha is 0 at t = 1"):
        tiny_config(objective="eps", schedule={"name": "flow"})


def test_a_configuration_survives_json():
    config = tiny_config(schedule={"name": "flow", "shift": 2.0}, objective="flow", betas=(0.8, 0.95))
    again = TrainConfig(**json.loads(json.dumps(config.to_json())))
    assert again.betas == (0.8, 0.95)
    assert json.dumps(again.to_json()) == json.dumps(config.to_json())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_legal_configuration(name):
    recipe = RECIPES[name]
    config = TrainConfig(net=tiny_net(), **recipe.train)
    assert {key: getattr(config, key) for key in recipe.train} == recipe.train
    assert 0 < config.checkpoint_every < config.steps


@pytest.mark.parametrize(("name", "images"), [("lesson-mnist", 60_000), ("lesson-cifar10", 50_000)])
def test_a_lesson_is_fifty_epochs_of_128(name, images):
    config = TrainConfig(net=tiny_net(), **RECIPES[name].train)
    assert config.steps // 50 in (images // 128, -(-images // 128))  # with or without the last, smaller batch
    assert (config.steps % 50, config.batch_size) == (0, 128)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"size": 16}, r"data 'digits' has images 1x8x8, the network is made for 1x16x16"),
        ({"channels_in": 3}, r"data 'digits' has images 1x8x8, the network is made for 3x8x8"),
        ({"classes": 3}, r"data 'digits' has 10 classes, the network is made for 3"),
    ],
)
def test_a_network_for_other_data_is_refused(net, message):
    with pytest.raises(UsageError, match=message):
        Training(digits(), tiny_config(net={**tiny_net(), **net}), None)


def test_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_zero():
    config = tiny_config(lr=2.0, warmup=4, steps=12)
    rates = [learning_rate(config, step) for step in (0, 1, 2, 3, 4, 6, 8, 10, 12)]
    assert rates == pytest.approx([0.5, 1, 1.5, 2, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0], abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate_and_a_constant_one_stays():
    assert learning_rate(tiny_config(lr=3.0, warmup=0, steps=5), 0) == 3.0
    assert [learning_rate(tiny_config(lr=3.0, decay="constant", steps=5), step) for step in range(5)] == [1.5] + [3] * 4


def test_warm_up_takes_at_most_half_of_a_short_run():
    short = tiny_config(lr=4.0, warmup=100, steps=4)
    assert [learning_rate(short, step) for step in range(4)] == pytest.approx([2, 4, 4, 2], abs=1e-12)
    assert learning_rate(tiny_config(lr=4.0, warmup=100, steps=1), 0) == 4


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().lr = 1.0  # type: ignore[misc]
