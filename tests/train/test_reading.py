"""A text encoder that learnt to read: what its state says, on captions it has not seen; what training leaves alone. A
sketch is the average of the images of a caption."""

import itertools

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.hub import load_data
from fairlead.data.words import END, Words
from fairlead.nets.build import build_net, net_config
from fairlead.nets.sketch import Sketch
from fairlead.nets.text import TextInput, TextTransformer
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.reading import learn_to_read, learn_to_sketch

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


@pytest.mark.parametrize("told", ["labels", "words"])
def test_ink_and_background_stand_apart_after_reading(told):
    words = Words.of(CAPTIONS)
    ids = words(CAPTIONS)
    ink, ground = (torch.tensor([COLOURS.index(said[i]) for said in SAID]) for i in (0, 2))
    labels = {"ink": ink[SEEN], "ground": ground[SEEN]} if told == "labels" else {}
    encoder = encoder_of(words)
    before = told_apart(encoder, ids, ink), told_apart(encoder, ids, ground)
    learn_to_read(encoder, ids[SEEN], labels, 150, seed=0)
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
    _, told, text = asked(data, ["text"], settings={"read": 2, "sketch": 2})
    net = net_config("28x28", 3, 28, 0, channels=8, **told)
    config = TrainConfig(net, text=text, steps=4, batch_size=8, warmup=0, checkpoint_every=2, optimizer="muon")
    training = Training(data, config, tmp_path / "run")
    reader = {
        k: v.clone() for k, v in training.network.state_dict().items() if "text.encoder" in k or "text.sketch" in k
    }
    torch.manual_seed(config.seed)
    fresh = build_net(config.net).state_dict()
    for moved in ("text.encoder.neighbours.weight", "text.sketch.places.weight"):
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
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(3, 16, generator=generator)
    means = torch.rand(3, 2, 6, 6, generator=generator) - 0.5
    images = torch.stack([means - 0.5, means + 0.5], dim=1).flatten(0, 1)
    torch.manual_seed(0)
    sketch = Sketch(16, 2, 6, wide=16, embed=16)
    learn_to_sketch(sketch, pooled.repeat_interleave(2, 0), lambda step: (torch.arange(6), images), 200)
    with torch.no_grad():
        torch.testing.assert_close(sketch(pooled), means, rtol=0, atol=0.05)
    assert not any(p.requires_grad or p.grad is not None for p in sketch.parameters())


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
    with pytest.raises(UsageError, match="got 0 steps of reading; give it some, or no sketch"):
        Words(("a",), 2, 0, 1)
