"""What every registered network owes: independent samples, a null token that is its own, a label that arrives."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.nets.build import PRESETS, build_net, net_config, parameter_count
from fairlead.nets.inputs import condition_names
from fairlead.nets.noisy_classifier import NoisyClassifier
from tests.nets.tiny import CHANNELS, CLASSES, SIZE, TINY, inputs, labels, shaken, tiny

every = pytest.mark.parametrize("name", TINY)


def test_every_registered_network_is_tested_here():
    """The classifier takes no condition; it is tested below. Networks of diffusers are tested with their pipelines."""
    elsewhere = {"classifier", "autoencoder", "diffusers", "lora"}
    assert {config["kind"] for config in TINY.values()} == set(names("net")) - elsewhere


@pytest.mark.parametrize(
    ("preset", "shape", "parameters", "flops"),
    [("lesson-mnist", (1, 28), 2_358_849, 324e6), ("lesson-cifar10", (3, 32), 13_395_331, 5.97e9)],
)
def test_the_lessons_networks_have_their_parameters_and_flops(preset, shape, parameters, flops):
    channels, size = shape
    network = build_net(net_config(preset, channels, size, 10))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, size, size), torch.zeros(1), labels(3))
    assert parameter_count(network) == parameters
    assert counter.get_total_flops() == pytest.approx(flops, rel=1e-3)


def test_narrow_saves_what_the_wide_convolutions_after_the_upsampling_cost():
    """Widths a at 14x14 and b at 7x7: one 3x3 from b to a instead of b, and a block that reads 2a instead of a + b."""

    def flops(narrow):
        network = build_net(net_config("28x28", 1, 28, 10, multipliers=(1, 4), narrow=narrow))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, 28, 28), torch.zeros(1), labels(3))
        return counter.get_total_flops()

    a, b, pixels = 32, 128, 14 * 14
    convolution, block, skip = 9 * b * (b - a), 9 * (b - a) * a, (b - a) * a
    assert flops(False) - flops(True) == 2 * pixels * (convolution + block + skip)


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("lesson")])
def test_a_fresh_network_returns_exactly_zero(name):
    """Our own start at zero output: the first loss is that of the zero predictor."""
    x, time = inputs(3, torch.float32)
    assert torch.equal(tiny(name)(x, time, labels(0, 4, None)), torch.zeros_like(x))


@every
def test_samples_do_not_influence_each_other(name):
    network, (x, time), condition = shaken(tiny(name)), inputs(4), labels(1, None, 4, 0)
    with torch.no_grad():
        together = network(x, time, condition)
        alone = torch.cat([network(x[i : i + 1], time[i : i + 1], condition[i : i + 1]) for i in range(4)])
        order = torch.tensor([2, 0, 3, 1])
        permuted = network(x[order], time[order], condition[order])
    assert float(together.std()) > 0.01
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)
    torch.testing.assert_close(permuted, together[order], rtol=0, atol=1e-11)


@every
def test_a_dropped_label_is_not_read_and_stands_for_the_null_token(name):
    network, (x, time) = shaken(tiny(name)), inputs(3)
    with torch.no_grad():
        first = network(x, time, labels(0, 3, 4).drop())
        second = network(x, time, labels(2, 1, 1).drop())
        network.label.table[3] = network.label.null
        as_class = network(x, time, labels(3, 3, 3))
    assert torch.equal(first, second)
    assert torch.equal(first, as_class)


@every
def test_gradients_go_to_the_null_token_where_dropped_and_to_the_class_row_where_kept(name):
    network, (x, time) = shaken(tiny(name)), inputs(3)
    table, null = network.label.table.requires_grad_(True), network.label.null
    dropped = torch.autograd.grad(network(x, time, labels(0, 3, 4).drop()).square().sum(), (table, null))
    assert torch.equal(dropped[0], torch.zeros_like(table))
    assert float(dropped[1].norm()) > 1e-6
    kept = torch.autograd.grad(network(x, time, labels(1, 3, 3)).square().sum(), (table, null))
    assert (kept[0].norm(dim=1) > 1e-6).tolist() == [False, True, False, True, False]
    assert torch.equal(kept[1], torch.zeros_like(null))


def test_concat_appends_frozen_one_hot_planes_and_a_zero_null():
    network = tiny("unet-concat")
    seen = []
    network.stem.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x, time = inputs(2, torch.float32)
    network(x, time, labels(3, None))
    planes = seen[0][:, CHANNELS * 4 :]
    expected = torch.zeros(2, CLASSES, 4, 4)
    expected[0, 3] = 1
    assert torch.equal(planes, expected)
    assert not network.label.table.requires_grad
    assert network.label.null.requires_grad


@pytest.mark.parametrize(("fused", "summed"), [("unet-fuse", "unet-adaptive"), ("dit-fuse", "dit")])
def test_fuse_reads_time_and_label_side_by_side_and_their_sum_is_a_special_case(fused, summed):
    """silu(z + 60) - 60 = z to rounding: an MLP of weights [1 1] and 1 adds the two halves of its input."""
    plain, network = shaken(tiny(summed)), tiny(fused).double().eval()
    found = network.load_state_dict(plain.state_dict(), strict=False)
    assert set(found.missing_keys) == {f"fusion.mlp.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    first, _, second = network.fusion.mlp
    one = torch.eye(16, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in (
            (first.weight, torch.cat([one, one], dim=1)), (first.bias, torch.full((16,), 60.0)),
            (second.weight, one), (second.bias, torch.full((16,), -60.0)),
        ):  # fmt: skip
            parameter.copy_(value)
        (x, time), condition = inputs(3), labels(1, None, 4)
        torch.testing.assert_close(network(x, time, condition), plain(x, time, condition), rtol=0, atol=1e-11)
        first.weight[:, 16:] = 0  # the half of the label
        torch.testing.assert_close(network(x, time, labels(1, 2, 3)), network(x, time, condition), rtol=0, atol=0)


def test_unet_patches_fold_pixels_into_channels_and_back():
    """Channel 4 c + 2 i + j of the inside is pixel (i, j) of every 2x2 patch of channel c."""
    network = shaken(tiny("unet-adaptive", patch=2, attention=()))
    seen = []
    network.stem.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    network.out.register_forward_hook(lambda module, arguments, output: seen.append(output))
    x, time = inputs(2)
    out = network(x, time, labels(0, 1))
    for image, folded in ((x, seen[0]), (out, seen[1])):
        for c in range(CHANNELS):
            for i in range(2):
                for j in range(2):
                    assert torch.equal(image[:, c, i::2, j::2], folded[:, 4 * c + 2 * i + j])


def test_dit_tokens_are_the_patches_in_reading_order():
    network = shaken(tiny("dit"))
    seen = []
    network.tokens.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    network.out.register_forward_hook(lambda module, arguments, output: seen.append(output))
    x, time = inputs(2)
    out = network(x, time, labels(0, 1))
    for image, tokens in ((x, seen[0]), (out, seen[1])):
        for row in range(4):
            for column in range(4):
                patch = image[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(tokens[:, 4 * row + column], patch.flatten(1))


def test_dit_knows_rows_from_columns():
    """Positions are features of the row, then of the column; all are different."""
    positions = tiny("dit").positions[0].reshape(4, 4, 2, 8)
    assert torch.equal(positions[:, :1, 0].expand(4, 4, 8), positions[:, :, 0])
    assert torch.equal(positions[:1, :, 1].expand(4, 4, 8), positions[:, :, 1])
    assert len(positions.reshape(16, 16).unique(dim=0)) == 16


@pytest.mark.parametrize("name", ["unet-adaptive", "dit"])
def test_without_classes_there_is_nothing_to_condition_on(name):
    network = shaken(tiny(name, classes=0))
    x, time = inputs(2)
    assert not [key for key in network.state_dict() if "label" in key]
    assert torch.equal(network(x, time, Condition(2)), network(x, time, labels(1, 2)))


@every
def test_the_configuration_survives_json(name):
    config = {**TINY[name], "channels_in": CHANNELS, "size": SIZE, "classes": CLASSES}
    network, again = shaken(build_net(config)), build_net(json.loads(json.dumps(config))).double().eval()
    again.load_state_dict(network.state_dict())
    (x, time), condition = inputs(2), labels(4, None)
    assert torch.equal(network(x, time, condition), again(x, time, condition))


@every
def test_initialisation_is_a_function_of_the_global_seed(name):
    torch.manual_seed(3)
    first = tiny(name).state_dict()
    torch.manual_seed(3)
    second = tiny(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every
def test_a_missing_condition_is_refused_by_name(name):
    x, time = inputs(2, torch.float32)
    with pytest.raises(UsageError, match=r"conditioned on 'label', the condition given has no names; .*encode"):
        tiny(name)(x, time, Condition(2))
    with pytest.raises(UsageError, match=r"conditioned on 'label', the condition given has \['text'\]"):
        tiny(name)(x, time, Condition.of(text=torch.zeros(2)))


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match=r"unknown network preset '8x9'; did you mean '8x8'\?"):
        net_config("8x9", 1, 8, 10)
    with pytest.raises(UsageError, match=r"'8x8' \(unet\) takes no 'depth' \(it takes: attention, attributes, blocks"):
        net_config("8x8", 1, 8, 10, depth=3)
    with pytest.raises(UsageError, match=r"unknown network kind 'unett'; did you mean 'unet'\?"):
        build_net({"kind": "unett"})
    with pytest.raises(
        UsageError, match=r"image size 9x9 cannot be halved 1 times after patches of 1: .* multiple of 2"
    ):
        tiny("unet-adaptive", size=9)
    with pytest.raises(UsageError, match=r"size divisible by the patch .* got size 9x9, patch 2"):
        tiny("dit", size=9)
    with pytest.raises(UsageError, match=r"divisible by 4 and the heads, .* dim 18, heads 2"):
        tiny("dit", dim=18)
    for lesson in ("lesson-mnist", "lesson-cifar10"):
        with pytest.raises(UsageError, match="expected multiples of 4, got 30x30"):
            tiny(lesson, size=30)
    with pytest.raises(UsageError, match=r"unknown conditioning 'film' \(known: adaptive, add, concat, fuse\)"):
        tiny("unet-adaptive", conditioning="film")
    with pytest.raises(UsageError, match=r"unknown conditioning 'add' \(known: adaptive, fuse\)"):
        tiny("dit", conditioning="add")
    for name in ("unet-fuse", "dit-fuse"):
        with pytest.raises(UsageError, match=r"conditioning 'fuse' .* is not conditioned on a label; add label"):
            tiny(name, classes=0)
    with pytest.raises(
        UsageError, match=r"network \{'kind': 'unet', 'channels': -8, .* cannot be built: .* at least 1, got -8"
    ):
        build_net(net_config("8x8", 1, 8, 10, channels=-8))
    with pytest.raises(UsageError, match=r"network \{.*\} cannot be built: .* negative dimension -3"):
        build_net({**net_config("8x8", 1, 8, 10), "embed": -3})
    with pytest.raises(UsageError, match=r"network \{.*\} cannot be built: num_channels \(12\) must be divisible by"):
        build_net(net_config("lesson-mnist", 1, 28, 10, channels=12))
    with pytest.raises(UsageError, match=r"network \{.*\} cannot be built: .*unexpected keyword argument 'novelty'"):
        build_net({**net_config("8x8", 1, 8, 10), "novelty": 1})


def test_changes_replace_what_the_preset_says():
    config = net_config("32x32", 3, 16, 7, channels=24, attention=())
    assert config == {**PRESETS["32x32"], "channels_in": 3, "size": 16, "classes": 7, "channels": 24, "attention": ()}


def test_the_classifiers_gradient_of_the_summed_log_probability_is_per_sample():
    network = shaken(NoisyClassifier(CHANNELS, SIZE, CLASSES, channels=8, embed=16))
    (x, time), label = inputs(4), torch.tensor([0, 3, 3, 1])

    def gradient(rows: slice) -> torch.Tensor:
        part = x[rows].clone().requires_grad_(True)
        chosen = network(part, time[rows]).log_softmax(dim=1).gather(1, label[rows, None])
        return torch.autograd.grad(chosen.sum(), part)[0]

    alone = torch.cat([gradient(slice(i, i + 1)) for i in range(4)])
    assert float(alone.abs().amax(dim=(1, 2, 3)).min()) > 1e-6
    torch.testing.assert_close(gradient(slice(None)), alone, rtol=0, atol=1e-12)


def test_the_noisy_classifier_refuses_a_size_it_cannot_halve() -> None:
    with pytest.raises(UsageError, match="divisible by 2, got 9"):
        NoisyClassifier(1, 9, 3)


def test_counts_of_attributes_are_by_name() -> None:
    assert condition_names({"classes": 3, "attributes": {"ink": 2}}) == ["label", "ink"]
    with pytest.raises(UsageError, match="attributes is 7, expected the number of values of each, by name"):
        condition_names({"attributes": 7})
