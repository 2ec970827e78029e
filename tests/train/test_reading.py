"""A text encoder that learnt to read: what its state says, on captions it has not seen; what training leaves alone. A
sketch is the average of the images of a caption."""

import itertools
from typing import Any

import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.hub import load_data
from fairlead.data.images import Attribute, ImageData
from fairlead.data.words import END, Words
from fairlead.nets.build import build_net, net_config
from fairlead.nets.sketch import Sketch
from fairlead.nets.text_attention import TextInput, TextTransformer
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.reading import learn_to_read, learn_to_sketch, one_caption, values_of

COLOURS, DIGITS = ("red", "green", "blue", "black", "white", "pink"), ("one", "two", "seven", "eight", "nine")
SAID = list(itertools.product(COLOURS, DIGITS, COLOURS))
SEEN = torch.rand(len(SAID), generator=torch.Generator().manual_seed(0)) < 2 / 3
CAPTIONS = [f"a {ink} {digit} on a {ground} background" for ink, digit, ground in SAID]


def encoder_of(words: Words) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(2 + len(words.vocabulary), 32, words.length, 1, 4)


def told_apart(encoder: TextTransformer, ids: Tensor, labels: Tensor) -> float:
    """Share of the variance of the states, over captions not seen, that lies between the labels."""
    with torch.no_grad():
        states = encoder(ids)[torch.arange(len(ids)), (ids == END).int().argmax(1)]
    states, labels = states[~SEEN], labels[~SEEN]
    means = torch.stack([states[labels == label].mean(0) for label in labels.unique()])
    return float(means[labels].var(0).sum() / states.var(0).sum())


@pytest.mark.parametrize("known_by", ["labels", "words"])
def test_ink_and_background_stand_apart_after_reading(known_by):
    words = Words.of(CAPTIONS)
    ids = words(CAPTIONS)
    ink, ground = (torch.tensor([COLOURS.index(said[i]) for said in SAID]) for i in (0, 2))
    known = {"ink": Attribute(COLOURS, ink[SEEN]), "ground": Attribute(COLOURS, ground[SEEN])}
    encoder = encoder_of(words)
    before = told_apart(encoder, ids, ink), told_apart(encoder, ids, ground)
    learn_to_read(encoder, ids[SEEN], known if known_by == "labels" else {}, 150, seed=0)
    after = told_apart(encoder, ids, ink), told_apart(encoder, ids, ground)
    assert sum(before) < 0.7
    assert sum(after) > 0.85


def test_reading_is_decided_by_its_seed_and_draws_nothing_from_outside():
    words = Words.of(CAPTIONS)
    once, again, other = (encoder_of(words) for _ in range(3))
    state = torch.get_rng_state()
    for encoder, seed in ((once, 1), (again, 1), (other, 2)):
        learn_to_read(encoder, words(CAPTIONS), {}, 3, seed)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(once.state_dict().values(), again.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not torch.equal(once.tokens.weight, other.tokens.weight)


def test_training_leaves_an_encoder_that_can_read_as_it_is_and_resumes_to_the_same_bits(tmp_path):
    data = load_data("scenes(n=40)")
    _, inputs, text = asked(data, ["text"], settings={"read": 2, "sketch": 2})
    net = net_config("28x28", 3, 28, 0, channels=8, **inputs)
    config = TrainConfig(net, text=text, steps=4, batch_size=8, warmup=0, checkpoint_every=2, optimizer="muon")
    training = Training(data, config, tmp_path / "run")
    reader = {
        k: v.clone() for k, v in training.network.state_dict().items() if "text.encoder" in k or "text.sketch" in k
    }
    torch.manual_seed(config.seed)
    fresh = build_net(config.net).state_dict()
    for moved in ("text.encoder.neighbours.weight", "text.sketch.read.weight", "text.sketch.where.weight"):
        assert not torch.equal(reader[moved], fresh[moved])  # it has learnt, though it is frozen now
    records = []
    for record in training.run():
        records.append(record.loss)
        if record.step == 2:
            break
    resumed = Training(data, config, tmp_path / "run", resume=True)
    assert len(list(resumed.run())) == 2
    assert all(torch.equal(value, resumed.network.state_dict()[key]) for key, value in reader.items())
    straight = Training(data, config, None)
    assert len(list(straight.run())) == 4
    pairs = zip(straight.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_sketch_is_the_average_of_the_images_of_its_caption():
    """Three captions, two images each, which differ by 1 in all pixels: the error is the variance within a caption."""
    pooled = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    means = torch.full((3, 2, 8, 8), -0.25)
    means[0, :, 3:5, 3:5], means[1, 0, 2:6, 3:5], means[2, 1, 3:5, 2:6] = 0.25, 0.25, 0.25
    images = torch.stack([means - 0.5, means + 0.5], dim=1).flatten(0, 1)
    which = torch.arange(3).repeat_interleave(2)
    torch.manual_seed(0)
    sketch = Sketch(16, 2, 8, hidden=32)
    learn_to_sketch(sketch, pooled[which], {}, lambda step: (torch.arange(6), images), 1000, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(sketch(pooled), means, rtol=0, atol=0.05)
    assert not any(p.requires_grad or p.grad is not None for p in sketch.parameters())


@pytest.mark.parametrize("size", [7, 8, 28])
def test_a_sketch_draws_each_glyph_wherever_its_map_says(size):
    """By scipy's convolution; what reaches over the border is cut off."""
    torch.manual_seed(0)
    sketch = Sketch(5, 3, size, shapes=2, hidden=16)
    pooled = torch.randn(4, 5)
    with torch.no_grad():
        glyphs = sketch.what(pooled).reshape(4, 2, sketch.glyph, sketch.glyph)
        places = sketch.where(pooled).reshape(4, 2, size, size)
        colours = sketch.colours(pooled).reshape(4, 3, 3)
        drawn = sketch(pooled)
    for i in range(4):
        wanted = colours[i, 0, :, None, None].expand(3, size, size).clone()
        for k in range(2):
            cover = torch.from_numpy(convolve2d(places[i, k].numpy(), glyphs[i, k].numpy(), mode="same"))
            wanted += colours[i, 1 + k, :, None, None] * cover
        torch.testing.assert_close(drawn[i], wanted, atol=1e-5, rtol=1e-5)


def test_what_is_less_than_sure_is_mixed():
    """A vector half way between two values: the sketch gets half of each."""
    torch.manual_seed(0)
    sketch = Sketch(4, 1, 6, says=[2, 3])
    assert sketch.read is not None
    with torch.no_grad():
        sketch.read.weight.zero_()
        sketch.read.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, -1e4]))
    seen: list[Tensor] = []
    sketch.where.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    sketch(torch.randn(1, 4))
    torch.testing.assert_close(seen[0][0], torch.tensor([0.0, 0.0, 2**-1.5, 2**-1.5, -(2**-0.5)]))


def test_further_captions_are_read_and_sketched_too():
    """Words that only second captions have are learnt; the sketch is shown an image with any of its captions."""
    first = [f"a {ink} {digit}" for ink in COLOURS for digit in DIGITS]
    second = [(f"{digit} again, once in {ink}",) for ink in COLOURS for digit in DIGITS]
    n = len(first)
    data = ImageData(
        torch.zeros(n, 3, 28, 28, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), ("thing",), "twice", "train",
        False, tuple(first), {"ink": Attribute(COLOURS, torch.arange(n) // len(DIGITS))}, more=tuple(second),
    )  # fmt: skip
    _, inputs, text = asked(data, ["text"], settings={"read": 20, "sketch": 2})
    config = TrainConfig(net_config("28x28", 3, 28, 0, channels=8, **inputs), text=text, steps=1, batch_size=8)
    training = Training(data, config, None)
    assert training.conditions is not None
    torch.manual_seed(config.seed)
    fresh = build_net(config.net).state_dict()["text.encoder.tokens.weight"]
    learnt = training.network.text.encoder.tokens.weight
    index = {word: 2 + i for i, word in enumerate(text["vocabulary"])}
    assert not any(torch.equal(learnt[index[word]], fresh[index[word]]) for word in ("again", "once", "red", "a"))
    image, caption = training.conditions.pairs()
    assert image.tolist() == [i for i in range(n) for _ in range(2)]
    assert sorted(caption.tolist()) == list(range(2 * n))
    drawn = [one_caption(torch.tensor([0, 5, 5]), image, training.config.seed, step).tolist() for step in range(40)]
    assert {row[0] for row in drawn} == {0, 1}
    assert {value for row in drawn for value in row[1:]} == {10, 11}


def test_what_never_applies_is_read_as_that():
    words = Words.of(CAPTIONS)
    labels = torch.full((len(CAPTIONS),), -1)
    ids = words(CAPTIONS)
    learn_to_read(encoder_of(words), ids, {"shadow": Attribute(("long", "short"), labels)}, 3, seed=0)
    sometimes = Attribute(("long", "short"), torch.where(torch.arange(len(labels)) % 3 == 0, 1, labels))
    assert values_of(sometimes) == 3
    pooled = torch.nn.functional.one_hot(torch.arange(len(labels)) % 3, 3).float()
    sketch = Sketch(3, 1, 6, says=[3])
    images = torch.zeros(len(labels), 1, 6, 6)
    learn_to_sketch(sketch, pooled, {"shadow": sometimes}, lambda step: (torch.arange(8), images[:8]), 300, seed=0)
    (logits,) = sketch.logits(torch.eye(3))
    assert logits.argmax(1).tolist() == [1, 2, 2]


@pytest.mark.parametrize("net", ["28x28", "dit-small"])
@pytest.mark.parametrize("null", ["learned", "empty"])
def test_any_network_trains_around_its_sketch_and_leaves_torch_random_numbers_alone(net, null):
    """Of what is sketched only the value of no text learns, where there is one."""
    data = load_data("scenes(n=40)")
    _, inputs, text = asked(data, ["text"], settings={"read": 1, "sketch": 1}, null=null)
    narrow: dict[str, Any] = {"channels": 8} if net == "28x28" else {"dim": 32, "depth": 1}
    config = TrainConfig(net_config(net, 3, 28, 0, **narrow, **inputs), text=text, steps=3, batch_size=8, drop=0.5)
    state = torch.get_rng_state()
    training = Training(data, config, None)
    before = {name: value.clone() for name, value in training.network.state_dict().items() if "sketch" in name}
    assert len(list(training.run())) == 3
    moved = {name for name, value in before.items() if not torch.equal(training.network.state_dict()[name], value)}
    assert moved == ({"text.no_sketch"} if null == "learned" else set())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"says": [2, 3]}, r"the text of the network has says=\[2, 3\], data .* give \[10, 7,"),
        ({"sketch": False, "says": []}, "has sketch=None, data .* give True"),
        ({"frozen": False}, "has frozen=None, data .* give True"),
    ],
)
def test_a_network_that_was_not_made_for_the_data(change, message):
    data = load_data("scenes(n=40)")
    _, inputs, text = asked(data, ["text"], settings={"read": 1, "sketch": 1})
    inputs["text"] |= change
    config = TrainConfig(net_config("28x28", 3, 28, 0, channels=8, **inputs), text=text, steps=1, batch_size=8)
    with pytest.raises(UsageError, match=message):
        Training(data, config, None)


def test_measured_pooled_vectors_have_mean_0_and_deviation_1():
    text = TextInput(8, width=4, length=3)
    values = torch.randn(50, 4, 5, generator=torch.Generator().manual_seed(0)) * 0.01 + 3
    text.measure(values)
    pooled = (values[:, 0, :-1] - text.mean) / text.std
    torch.testing.assert_close(pooled.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [-1, 1.5, "many"])
def test_steps_are_whole_numbers_and_a_sketch_is_of_what_can_be_read(steps):
    with pytest.raises(UsageError, match="expected 0 or more steps of reading"):
        Words(("a",), 2, steps)
    with pytest.raises(UsageError, match="expected 0 or more steps of sketching"):
        Words(("a",), 2, 1, steps)
    with pytest.raises(UsageError, match="got 0 steps of reading; give it some"):
        Words(("a",), 2, 0, 1)
