"""Text in a network: padding is not read, null is the network's own, cross-attention is softmax over real tokens."""

import math

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.nets.blocks import ResidualBlock, SelfAttention
from fairlead.nets.build import build_net
from fairlead.nets.inputs import condition_names
from fairlead.nets.packed_text import pack
from fairlead.nets.text_attention import CrossAttention, TextInput, TokenStates
from tests.nets.tiny import CHANNELS, CLASSES, SIZE, TINY, inputs, shaken

WIDTH, LENGTH, VOCABULARY = 8, 6, 11
OUTSIDE = {"width": WIDTH, "length": LENGTH}
INSIDE = {**OUTSIDE, "vocabulary": VOCABULARY, "depth": 1, "heads": 2}
SKETCHED = {**INSIDE, "frozen": True, "sketch": True}
every = pytest.mark.parametrize("name", ["unet-adaptive", "unet-concat", "dit"])


def net(name: str, text: dict, **changes):
    return shaken(
        build_net({**TINY[name], "channels_in": CHANNELS, "size": SIZE, "classes": 0, "text": text, **changes})
    )


def states(n: int = 3) -> torch.Tensor:
    real = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)[:n]
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(n, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    return pack(rows, real, torch.randn(n, WIDTH, generator=generator, dtype=torch.float64))


IDS = torch.tensor([[4, 7, 1, 0, 0, 0], [9, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 1]])


@every
def test_padding_is_not_read_and_the_order_of_states_does_not_matter(name):
    """What stands at padded positions changes nothing; nor does shuffling all rows of states with their mask, for
    order is in the states."""
    network, (x, time), value = net(name, OUTSIDE), inputs(3), states()
    rubbish = torch.where(value[..., -1:] > 0, value, torch.full_like(value, 7.0))
    rubbish[..., -1] = value[..., -1]
    order = torch.tensor([0, 3, 1, 6, 5, 2, 4])
    with torch.no_grad():
        out = network(x, time, Condition.of(text=value))
        assert float((out - network(x, time, Condition.of(text=value.flip(0)))).abs().max()) > 1e-3
        for changed in (rubbish, value[:, order]):
            torch.testing.assert_close(network(x, time, Condition.of(text=changed)), out, rtol=0, atol=1e-11)


@every
@pytest.mark.parametrize("text", [OUTSIDE, INSIDE, SKETCHED], ids=["outside", "inside", "sketched"])
def test_samples_do_not_influence_each_other(name, text):
    network, (x, time) = net(name, text), inputs(3)
    condition = Condition.of(text=IDS if "vocabulary" in text else states()).drop(torch.tensor([False, True, False]))
    with torch.no_grad():
        together = network(x, time, condition)
        alone = torch.cat([network(x[i : i + 1], time[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("null", ["learned", "empty"])
@pytest.mark.parametrize("text", [OUTSIDE, INSIDE, SKETCHED], ids=["outside", "inside", "sketched"])
def test_a_dropped_text_is_not_read_and_stands_for_the_null(null, text):
    """ "empty" is the encoding of the empty string; "learned" is another."""
    network, (x, time) = net("unet-adaptive", {**text, "null": null}), inputs(3)
    inside = "vocabulary" in text
    empty_ids = torch.tensor([[1, 0, 0, 0, 0, 0]] * 3)
    empty = empty_ids if inside else states(1)[[0, 0, 0]]
    if network.text.keeps_empty:
        network.text.set_empty(empty[0])
    value = IDS if inside else states()
    with torch.no_grad():
        dropped = network(x, time, Condition.of(text=value).drop())
        other = network(x, time, Condition.of(text=value.flip(0)).drop())
        of_empty = network(x, time, Condition.of(text=empty))
    assert torch.equal(dropped, other)
    distance = float((dropped - of_empty).abs().max())
    assert distance < 1e-12 if null == "empty" else distance > 1e-3


def test_the_null_token_learns_where_text_is_dropped_and_only_there():
    network, (x, time) = net("unet-adaptive", OUTSIDE), inputs(3)
    condition = Condition.of(text=states())
    network(x, time, condition).square().sum().backward()
    assert not bool(network.text.null.grad.any())
    network(x, time, condition.drop(torch.tensor([False, True, False]))).square().sum().backward()
    assert bool(network.text.null.grad.any(1).all())


@every
@pytest.mark.parametrize("text", [INSIDE, SKETCHED], ids=["inside", "sketched"])
def test_embedding_first_changes_nothing(name, text):
    """Ids, and the states that ``embed`` makes of them, give one output; so do labels beside them."""
    network, (x, time) = net(name, text, classes=CLASSES, attributes={"ink": 3}), inputs(3)
    condition = Condition.of(text=IDS, label=torch.tensor([0, 4, 2]), ink=torch.tensor([2, 0, 1]))
    embedded = network.embed(condition)
    assert all(value.is_floating_point() for value in embedded.values.values())
    assert network.embed(embedded).values.keys() == embedded.values.keys()
    with torch.no_grad():
        torch.testing.assert_close(network(x, time, embedded), network(x, time, condition), rtol=0, atol=1e-11)


@every
def test_a_sketch_is_joined_to_the_noisy_image_and_one_value_a_channel_where_no_text_is_kept(name):
    network, (x, _) = net(name, SKETCHED), inputs(3)
    condition = Condition.of(text=IDS).drop(torch.tensor([False, True, False]))
    with torch.no_grad():
        joined, _, _ = network.embedded(condition, x)
        pooled = network.text.pooled(IDS)
        drawn = network.text.sketch(pooled)
    assert torch.equal(joined[:, :CHANNELS], x)
    torch.testing.assert_close(joined[[0, 2], CHANNELS:], drawn[[0, 2]], rtol=0, atol=1e-6, check_dtype=False)
    assert torch.equal(joined[1, CHANNELS:], network.text.no_sketch[:, None, None].expand(CHANNELS, SIZE, SIZE))


def test_several_conditions_are_dropped_one_by_one():
    """Dropping one condition of three changes the output and leaves it a function of the other two alone."""
    network, (x, time) = net("unet-adaptive", OUTSIDE, classes=CLASSES, attributes={"ink": 3}), inputs(3)
    a = Condition.of(text=states(), label=torch.tensor([0, 4, 2]), ink=torch.tensor([2, 0, 1]))
    b = Condition.of(text=states().flip(0), label=torch.tensor([1, 3, 0]), ink=torch.tensor([0, 1, 2]))
    with torch.no_grad():
        for name in ("text", "label", "ink"):
            mixed = Condition.of(**{key: (b if key == name else a).values[key] for key in a.values})
            assert torch.equal(network(x, time, a.drop(names=[name])), network(x, time, mixed.drop(names=[name])))
            assert float((network(x, time, a) - network(x, time, mixed)).abs().max()) > 1e-4


def test_cross_attention_is_softmax_over_the_real_tokens():
    """By hand, head by head, with the padded tokens left out instead of masked."""
    cross = shaken(CrossAttention(8, WIDTH, head=4))
    x, value = torch.randn(3, 8, 2, 3, dtype=torch.float64), states()
    with torch.no_grad():
        out = cross(x, TokenStates(value[:, 1:, :-1], value[:, 1:, -1] > 0))
        q = cross.q(cross.norm(x)).flatten(2).transpose(1, 2)
        for i, count in enumerate((4, 2, 6)):
            k, v = cross.kv(value[i, 1 : 1 + count, :-1]).chunk(2, dim=-1)
            mixed = torch.cat(
                [
                    torch.softmax(q[i][:, head] @ k[:, head].T / math.sqrt(4), -1) @ v[:, head]
                    for head in (slice(0, 4), slice(4, 8))
                ],
                dim=-1,
            )
            by_hand = x[i] + cross.out(mixed.T.reshape(1, 8, 2, 3))[0]
            torch.testing.assert_close(out[i], by_hand, rtol=0, atol=1e-12)


def test_the_order_is_residual_self_cross_residual():
    """In the middle of the U-Net, as the modules are called."""
    network, (x, time) = net("unet-adaptive", OUTSIDE), inputs(1)
    called = []
    for module in network.middle.modules():
        if isinstance(module, ResidualBlock | SelfAttention | CrossAttention):
            module.register_forward_hook(lambda module, *_: called.append(type(module).__name__))
    network(x, time, Condition.of(text=states(1)))
    assert called[:4] == ["ResidualBlock", "SelfAttention", "CrossAttention", "ResidualBlock"]


@every
def test_an_image_is_joined_to_the_input_or_a_learned_value_is(name):
    network, (x, time) = net(name, OUTSIDE, image=1), inputs(3)
    one, two = torch.randn(2, 3, 1, SIZE, SIZE, dtype=torch.float64)
    text = states()
    with torch.no_grad():
        given = network(x, time, Condition.of(text=text, image=one))
        assert float((given - network(x, time, Condition.of(text=text, image=two))).abs().max()) > 1e-3
        null = network.image.null.reshape(1, 1, 1, 1).expand_as(one)
        dropped = network(x, time, Condition.of(text=text, image=one).drop(names=["image"]))
        as_value = network(x, time, Condition.of(text=text, image=null))
    torch.testing.assert_close(dropped, as_value, rtol=0, atol=1e-12)


def test_names_come_from_the_configuration():
    assert condition_names({"classes": 3, "text": OUTSIDE, "image": 1, "attributes": {"ink": 3}}) == [
        "label", "text", "image", "ink"
    ]  # fmt: skip
    assert condition_names({"kind": "unet", "classes": 0}) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: net("dit", {**OUTSIDE, "null": "zero"}), "unknown null of the text 'zero'"),
        (lambda: TextInput(8, 9, LENGTH, vocabulary=5), "a width divisible by 4 heads, got length 6, width 9"),
        (lambda: net("unet-adaptive", OUTSIDE, cross=(3,)), r"cross at \[3\]: the levels of this network have sizes"),
        (lambda: net("unet-adaptive", {}, cross=(8,)), "the network has no text to attend to"),
        (lambda: net("dit", OUTSIDE, attributes={"label": 3}), "'label' is the name of another condition"),
        (
            lambda: net("dit", OUTSIDE)(*inputs(3), Condition.of(text=states()[:, :5])),
            r"takes 6 tokens of width 8, encoded, got torch.float64 \[3, 5, 9\]",
        ),
        (lambda: net("dit", OUTSIDE)(*inputs(3), Condition.of(text=IDS)), "takes 6 tokens of width 8, encoded"),
        (lambda: net("dit", OUTSIDE)(*inputs(1), Condition(1)), "is conditioned on 'text', the condition given has no"),
        (lambda: net("dit", OUTSIDE).text.set_empty(states(1)[0]), "whose null is 'empty'"),
        (
            lambda: net("dit", OUTSIDE, image=2)(
                *inputs(3), Condition.of(text=states(), image=torch.zeros(3, 2, 4, 4))
            ),
            r"image condition: expected \[2, 8, 8\] per sample, got \[2, 4, 4\]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
