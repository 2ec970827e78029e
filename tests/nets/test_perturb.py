"""Perturbations of a network: what they do by hand, in the layers named, in the rows of the mask and nowhere else."""

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition, Perturbation
from fairlead.nets.blocks import SelfAttention, blurred, groups_of
from tests.nets.tiny import inputs, labels, shaken, tiny

KINDS = ("identity_attention", "blur_queries", "skip")
NETS = ("unet-adaptive", "unet-add", "unet-concat", "dit")
MASK = torch.tensor([True, False, True, False])


def random_attention(channels: int = 64) -> SelfAttention:
    block = SelfAttention(channels).double()
    torch.nn.init.normal_(block.out.weight)
    torch.nn.init.normal_(block.norm.weight)
    return block


def split(block: SelfAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [n, heads, h * w, c / heads] of the block, channel by channel."""
    n, c, h, w = x.shape
    normed = torch.nn.functional.group_norm(x, groups_of(c), block.norm.weight, block.norm.bias)
    parts = block.qkv(normed).reshape(n, 3, block.heads, c // block.heads, h * w)
    return parts[:, 0].mT, parts[:, 1].mT, parts[:, 2].mT


def joined(heads: Tensor, like: Tensor) -> Tensor:
    return heads.mT.reshape(like.shape)


def everywhere(kind: str, *layers: str, amount: float = 0.0, n: int = 2) -> dict[Perturbation, Tensor]:
    return {Perturbation(kind, layers, amount): torch.ones(n, dtype=torch.bool)}  # type: ignore[arg-type]


def perturbed(condition: Condition, kind: str, layers: tuple[str, ...], amount: float, mask: Tensor) -> Condition:
    perturb = {Perturbation(kind, layers, amount): mask}  # type: ignore[arg-type]
    return Condition(condition.n, condition.values, condition.keep, perturb)


# --- attention by hand ----------------------------------------------------------------------------------------------


def test_identity_attention_is_the_value_path_alone() -> None:
    """x + out(v): every position attends to itself only (2403.17377, eq. 16)."""
    block, x = random_attention(), torch.randn(2, 64, 3, 4, dtype=torch.float64)
    _, _, v = split(block, x)
    result = block(x, "here", everywhere("identity_attention", "here"))
    torch.testing.assert_close(result, x + block.out(joined(v, x)), rtol=0, atol=1e-11)


def test_an_infinite_blur_gives_every_position_the_mean_query_and_so_one_answer() -> None:
    block, x = random_attention(), torch.randn(2, 64, 3, 4, dtype=torch.float64)
    q, k, v = split(block, x)
    weights = (q.mean(2, keepdim=True) @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    answer = (weights @ v).expand_as(v)
    result = block(x, "here", everywhere("blur_queries", "here", amount=math.inf))
    torch.testing.assert_close(result, x + block.out(joined(answer, x)), rtol=0, atol=1e-11)


def test_a_blur_by_hand_on_a_row_of_three() -> None:
    """Weights exp(-d^2 / 2 std^2), normalised at every position: 1, a, a^4 with a = exp(-1/2) at std 1."""
    q, a = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64), math.exp(-0.5)
    expected = [1 / (1 + a + a**4), a / (1 + 2 * a), a**4 / (1 + a + a**4)]
    assert blurred(q, (1, 3), 1.0)[:, 0].tolist() == pytest.approx(expected, abs=1e-15)
    assert blurred(q, (3, 1), 1.0)[:, 0].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
def test_a_blur_keeps_constants_and_goes_from_nothing_to_the_mean(size: tuple[int, int]) -> None:
    q = torch.randn(2, 3, size[0] * size[1], 4, dtype=torch.float64)
    constant = torch.ones_like(q)
    assert torch.equal(blurred(q, size, 0.0), q)
    torch.testing.assert_close(blurred(q, size, 1e-3), q, rtol=0, atol=1e-15)
    torch.testing.assert_close(blurred(q, size, 1e6), blurred(q, size, math.inf), rtol=0, atol=1e-10)
    for std in (0.3, 2.0, math.inf):
        torch.testing.assert_close(blurred(constant, size, std), constant, rtol=0, atol=1e-14)


def test_a_blur_is_separable_over_rows_and_columns() -> None:
    q = torch.randn(1, 1, 12, 2, dtype=torch.float64)
    kernel = torch.zeros(12, 12, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            distance = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            kernel[i, j] = math.exp(-0.5 * distance / 0.8**2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    torch.testing.assert_close(blurred(q, (3, 4), 0.8), kernel @ q, rtol=0, atol=1e-13)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_outside_the_mask_keep_their_bits_and_rows_inside_are_as_if_alone(name: str, kind: str) -> None:
    network, (x, time), condition = shaken(tiny(name)), inputs(4), labels(1, None, 4, 0)
    for layer in network.layers()["block" if kind == "skip" else "attention"]:
        mixed = perturbed(condition, kind, (layer,), 0.7, MASK)
        whole = perturbed(condition, kind, (layer,), 0.7, torch.ones(4, dtype=torch.bool))
        with torch.no_grad():
            plain, partly, wholly = (network(x, time, c) for c in (condition, mixed, whole))
        assert torch.equal(partly[~MASK], plain[~MASK])
        assert torch.equal(partly[MASK], wholly[MASK])
        assert float((partly - plain)[MASK].abs().amax(dim=(1, 2, 3)).min()) > 1e-6


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_an_unnamed_layer_and_a_blur_of_0_change_no_bit(name: str, kind: str) -> None:
    network, (x, time), condition = shaken(tiny(name)), inputs(4), labels(1, None, 4, 0)
    known = network.layers()["block" if kind == "skip" else "attention"]
    with torch.no_grad():
        plain = network(x, time, condition)
        for layers, mask in ((known, torch.zeros(4, dtype=torch.bool)), (("nowhere",), MASK), ((), MASK)):
            assert torch.equal(network(x, time, perturbed(condition, kind, layers, 2.0, mask)), plain)
        if kind == "blur_queries":
            assert torch.equal(network(x, time, perturbed(condition, kind, known, 0.0, MASK)), plain)


@pytest.mark.parametrize("name", ["unet-adaptive", "dit"])
def test_perturbations_of_different_rows_ride_together(name: str) -> None:
    """Row i of one call under four perturbations is row i of a call in which all rows have that one."""
    network, (x, time), condition = shaken(tiny(name)), inputs(4), labels(1, None, 4, 0)
    layers = network.layers()
    kinds = [Perturbation("identity_attention", layers["attention"][-1:]), Perturbation("skip", layers["block"][:1])]
    kinds.append(Perturbation("blur_queries", layers["attention"], math.inf))
    parts = [condition[i : i + 1].perturbed(kind) for i, kind in enumerate(kinds)]
    with torch.no_grad():
        together = network(x, time, Condition.cat([*parts, condition[3:]]))
        for i, kind in enumerate(kinds):
            assert torch.equal(together[i], network(x, time, condition.perturbed(kind))[i])
        assert torch.equal(together[3], network(x, time, condition)[3])


@pytest.mark.parametrize("name", ["unet-adaptive", "dit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_may_lie_on_another_device_than_the_network(name: str, kind: str) -> None:
    """That of a condition without values lies on the CPU; the meta device, which computes shapes only, stands for a
    GPU."""
    network, (x, time) = tiny(name, classes=0).to("meta"), inputs(2, torch.float32)
    condition = perturbed(Condition(2), kind, network.layers()["block"], 1.0, torch.tensor([True, False]))
    assert network(x.to("meta"), time.to("meta"), condition).shape == x.shape


# --- skipping by hand -----------------------------------------------------------------------------------------------


def test_a_dit_with_all_blocks_skipped_is_its_first_and_last_layers() -> None:
    network, (x, time), condition = shaken(tiny("dit")), inputs(3), labels(1, None, 4)
    everything = perturbed(condition, "skip", network.layers()["block"], 0.0, torch.ones(3, dtype=torch.bool))
    embedding = torch.nn.functional.silu(network.time(time) + network.label(condition))
    patches = torch.nn.functional.pixel_unshuffle(x, 2)
    tokens = network.tokens(patches.flatten(2).mT) + network.positions
    shift, scale = network.modulate(embedding)[:, None].chunk(2, dim=-1)
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    out = network.out(normed * (1 + scale) + shift).mT.reshape(patches.shape)
    by_hand = torch.nn.functional.pixel_shuffle(out, 2)
    torch.testing.assert_close(network(x, time, everything), by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", ["middle.0", "up.0.0", "down.1.0"])
def test_a_skipped_unet_block_is_its_shortcut(layer: str) -> None:
    """The identity where the channels stay, the 1 x 1 convolution where they change; attention is skipped with it."""
    network, (x, time), condition = shaken(tiny("unet-adaptive")), inputs(2), labels(1, 2)
    stage = network.get_submodule(layer)
    seen: list[tuple[Tensor, Tensor]] = []
    stage.register_forward_hook(lambda module, arguments, output: seen.append((arguments[0], output)))
    network(x, time, perturbed(condition, "skip", (layer,), 0.0, torch.tensor([True, True])))
    ((given, passed),) = seen
    shortcut = stage[0].skip
    same = given.shape[1] == passed.shape[1]
    assert same == isinstance(shortcut, torch.nn.Identity) == (layer == "middle.0")
    assert torch.equal(passed, given if same else torch.nn.functional.conv2d(given, shortcut.weight, shortcut.bias))


@pytest.mark.parametrize(
    ("name", "attention", "block"),
    [
        (
            "unet-adaptive",
            ("down.0.0", "middle.0", "up.1.0"),
            ("down.0.0", "down.1.0", "middle.0", "middle.1", "up.0.0", "up.1.0"),
        ),
        ("unet-concat", ("middle.0",), ("down.0.0", "down.1.0", "middle.0", "middle.1", "up.0.0", "up.1.0")),
        ("dit", ("blocks.0", "blocks.1"), ("blocks.0", "blocks.1")),
    ],
)
def test_networks_name_their_layers_from_the_input_to_the_output(
    name: str, attention: tuple[str, ...], block: tuple[str, ...]
) -> None:
    assert tiny(name).layers() == {"attention": attention, "block": block}
