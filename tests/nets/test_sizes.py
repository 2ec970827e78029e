"""Networks of images of any shape: the preset by the size, rectangles, refusals that name what fits."""

from typing import Any

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.nets.build import CLASSIFIER_PRESETS, PRESETS, build_for, build_net, net_config
from fairlead.nets.dit import DiT
from fairlead.nets.embeddings import sinusoidal
from fairlead.nets.sizes import BY_SIZE, NOMINAL, check_fits, fits, preset_for
from fairlead.nets.sketch import Sketch

THIN: dict[str, Any] = {"channels": 8, "embed": 16}


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """With no parameter at zero, so that every part of it counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    ("size", "preset"),
    [(4, "8x8"), (8, "8x8"), (12, "8x8"), (28, "28x28"), (32, "32x32"), (64, "64x64"), (80, "96x96"), (96, "96x96"),
     (128, "128x128"), (160, "128x128"), ((64, 96), "64x64"), ((96, 64), "64x64"), ((64, 128), "96x96"),
     ((128, 96), "96x96"), ((32, 64), "64x64")],
)  # fmt: skip
def test_the_preset_follows_from_the_size(size: int | tuple[int, int], preset: str) -> None:
    assert preset_for(size, PRESETS) == preset
    sides = (size, size) if isinstance(size, int) else size
    network = build_net(net_config(preset, 3, size, 2, **THIN))
    out = network(torch.randn(1, 3, *sides), torch.zeros(1), Condition.of(label=torch.tensor([1])))
    assert out.shape == (1, 3, *sides)


def test_a_preset_of_the_recipe_stays_near_its_own_size() -> None:
    assert preset_for(28, PRESETS, "28x28-colour") == "28x28-colour"
    assert preset_for(64, PRESETS, "8x8") == "64x64"
    assert preset_for(32, PRESETS, "lesson-cifar10") == "lesson-cifar10"


def test_every_preset_by_size_attends_to_maps_of_sixteen_and_fits_its_own_size():
    for name in BY_SIZE:
        assert fits(PRESETS[name], NOMINAL[name])
    for name, at in (("64x64", {16, 8, 4}), ("96x96", {12, 6}), ("128x128", {16, 8, 4})):
        network = build_net(net_config(name, 3, NOMINAL[name], 0, **THIN))
        x = torch.zeros(1, 3, NOMINAL[name], NOMINAL[name])
        seen: set[int] = set()
        stages: list[Any] = [part for part in network.modules() if type(part).__name__ == "_Stage"]
        hooks = [
            stage[1].register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0].shape[-1]))
            for stage in stages
            if type(stage[1]).__name__ == "SelfAttention"
        ]
        network(x, torch.zeros(1), Condition(1))
        assert hooks
        assert seen == at


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (50, r"no network preset fits images of 50x50; pass --size 48x48 .*, or train on latents"),
        (256, r"no network preset fits images of 256x256; pass --size 128x128 .*latents: fairlead train-autoencoder"),
        ((100, 60), r"of 100x60; pass --size 96x64 \(height x width\)"),
    ],
)
def test_a_size_without_a_network_is_refused_with_what_fits(size: int | tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preset_for(size, PRESETS)


def test_a_preset_that_cannot_be_built_names_those_that_can() -> None:
    with pytest.raises(UsageError, match=r"multiples of 16, not 60x44; --net 8x8 or 28x28 .*can be built for it$"):
        net_config("64x64", 3, (60, 44), 0)
    with pytest.raises(UsageError, match=r"multiples of 16, not 60x44; --net 8x8 or 28x28 .*--size 64x48"):
        check_fits("64x64", PRESETS["64x64"], (60, 44), PRESETS, images=True)
    with pytest.raises(UsageError, match=r"'dit-128' takes .* multiples of 8, not 64x100"):
        net_config("dit-128", 3, (64, 100), 0)


@pytest.mark.parametrize("preset", ["64x64", "96x96", "dit-32", "dit-64", "dit-96"])
def test_a_rectangle_is_described_built_and_rebuilt(preset: str) -> None:
    thin: dict[str, Any] = THIN if not preset.startswith("dit") else {"dim": 16, "depth": 1, "heads": 2, "embed": 16}
    config = net_config(preset, 1, (32, 48), 3, **thin)
    assert config["size"] == [32, 48]
    assert net_config(preset, 1, (32, 32), 3, **thin)["size"] == 32
    network = shaken(build_net(config))
    again = build_for(config, network.state_dict()).eval()
    x, condition = torch.randn(2, 1, 32, 48), Condition.of(label=torch.tensor([0, 2]))
    time = torch.rand(2)
    assert network(x, time, condition).shape == x.shape
    assert torch.equal(network(x, time, condition), again(x, time, condition))


def test_a_convolution_of_a_rectangle_is_that_of_the_square_it_is_cut_from():
    """Far from the border and without attention over the whole, a wider image changes nothing."""
    config = {
        "kind": "unet",
        "channels_in": 1,
        "classes": 0,
        "channels": 8,
        "multipliers": [1],
        "blocks": 1,
        "embed": 16,
    }
    square, wide = (build_net({**config, "size": size}) for size in (16, [16, 24]))
    wide.load_state_dict(shaken(square).state_dict())
    for network in (square, wide.eval()):
        parts: list[Any] = list(network.modules())
        for part in parts:
            if type(part).__name__ == "SelfAttention":
                part.forward = lambda x, layer="", perturb=None: x
            if type(part).__name__ == "GroupNorm":
                part.forward = lambda x: x
            if type(part).__name__ == "AdaptiveGroupNorm":
                part.forward = lambda x, embedding: x
    x = torch.randn(1, 1, 16, 24)
    outs = [net(part, torch.zeros(1), Condition(1)) for net, part in ((wide, x), (square, x[..., :16]))]
    assert torch.allclose(outs[0][..., :3], outs[1][..., :3], atol=1e-5)
    assert not torch.allclose(outs[0][..., 12:16], outs[1][..., 12:16], atol=1e-2)


def test_positions_of_a_rectangle_say_row_and_column() -> None:
    network = DiT(1, (8, 12), 0, dim=16, depth=1, heads=2, patch=2, embed=16)
    rows, columns = sinusoidal(torch.arange(4), 8), sinusoidal(torch.arange(6), 8)
    positions = network.positions.reshape(4, 6, 16)
    for row in range(4):
        for column in range(6):
            assert torch.equal(positions[row, column], torch.cat([rows[row], columns[column]]))


def test_a_glyph_of_a_sketch_lands_where_the_map_of_places_says_in_rectangles():
    sketch: Any = Sketch(2, 1, (6, 10), shapes=1, hidden=4)
    with torch.no_grad():
        for part in (sketch.what[-1], sketch.where, sketch.colours):
            part.weight.zero_()
            part.bias.zero_()
        glyph = sketch.glyph
        assert glyph == 5
        sketch.what[-1].bias.reshape(glyph, glyph)[glyph // 2, glyph // 2] = 1
        sketch.where.bias.reshape(6, 10)[4, 7] = 3
        sketch.colours.bias[1] = 1
    expected = torch.zeros(6, 10)
    expected[4, 7] = 3
    assert torch.allclose(sketch(torch.zeros(1, 2))[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("preset", ["64x64", "96x96", "128x128"])
def test_classifiers_of_noise_take_the_same_sizes(preset: str) -> None:
    config = net_config(preset, 1, (NOMINAL[preset], 32), 3, presets=CLASSIFIER_PRESETS, channels=8, embed=16)
    network = build_net(config)
    assert network(torch.randn(2, 1, NOMINAL[preset], 32), torch.zeros(2)).shape == (2, 3)
    assert preset_for(NOMINAL[preset], CLASSIFIER_PRESETS) == preset
