"""Conditions of training batches: looked up by index, null where they do not apply, text encoded once."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.images import Attribute, ImageData
from fairlead.data.text import encoder_from_config
from fairlead.models.load import model_of
from fairlead.nets.build import net_config
from fairlead.train import conditions
from fairlead.train.conditions import DataConditions, asked, encoded_prompts
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.objective import Draw
from tests.data.tiny_text import tiny_sentence

CAPTIONS = ("a red seven", "a blue one", "a red seven", "one", "seven", "a blue digit")


def captioned() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    return ImageData(
        torch.randint(0, 256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8),
        torch.tensor([1, 0, 1, 0, 1, 0]),
        ("one", "seven"),
        "captioned",
        "train",
        False,
        CAPTIONS,
        {"ink": Attribute(("red", "blue"), torch.tensor([0, 1, 0, -1, -1, 1]))},
    )


def training(names=("text", "label", "ink"), null="learned", steps=3, out=None, resume=False, text="words", **changes):
    data = captioned()
    classes, inputs, config = asked(data, names, text, null)
    net = net_config("8x8", 3, 8, classes, channels=8, embed=16, **inputs)
    return Training(data, TrainConfig(net, text=config, steps=steps, batch_size=4, **changes), out, resume)


def test_every_sample_gets_what_the_data_says_of_it():
    data = captioned()
    classes, inputs, text = asked(data, ("text", "label", "ink"))
    assert (classes, inputs["attributes"]) == (2, {"ink": 2})
    found = DataConditions.of(data, {"classes": classes, **inputs}, text)
    assert found.text is not None
    assert len(found.text) == 5  # one caption comes twice
    index = torch.tensor([3, 0, 5])
    condition = found.at(index)
    assert condition.values["label"].tolist() == [0, 1, 0]
    assert condition.keep["label"].tolist() == [True] * 3
    assert condition.keep["ink"].tolist() == [False, True, True]
    assert condition.values["ink"][condition.keep["ink"]].tolist() == [0, 1]
    own = encoder_from_config(text)([CAPTIONS[i] for i in index.tolist()])
    assert torch.equal(condition.values["text"], own)


def test_each_condition_has_its_own_dropout_and_all_may_go_at_once():
    """Shares over 200,000 draws: p, and both at p_a p_b + p_all (1 - p_a p_b); the draws of one name alone are as they
    always were."""
    drops = {"text": 0.2, "label": 0.5}
    dropped = Draw.of(200_000, (), drops, 3, 1).dropped
    together = Draw.of(200_000, (), drops, 3, 1, drop_all=0.1).dropped
    for name, share in drops.items():
        assert float(dropped[name].double().mean()) == pytest.approx(share, abs=5e-3)
        assert float(together[name].double().mean()) == pytest.approx(share + 0.1 * (1 - share), abs=5e-3)
        assert bool(together[name][dropped[name]].all())
    assert float((dropped["text"] & dropped["label"]).double().mean()) == pytest.approx(0.1, abs=5e-3)
    assert float((together["text"] & together["label"]).double().mean()) == pytest.approx(0.19, abs=5e-3)
    assert torch.equal(Draw.of(64, (), {"label": 0.5}, 3, 1).eps, Draw.of(64, (), {"label": 0.1}, 3, 1).eps)


def test_training_uses_the_probability_of_each_name():
    run = training(drop=0.25, drops={"ink": 1.0}, drop_all=0.5)
    assert run.drops == {"label": 0.25, "text": 0.25, "ink": 1.0}
    run.take_step()
    null = run.network.attributes["ink"]
    state = run.optimizer.state[null.table]
    assert not bool(state["exp_avg"].any())  # always dropped: no class row of it learns


@pytest.mark.parametrize("null", ["learned", "empty"])
def test_three_and_three_steps_are_six_to_the_bit(tmp_path, null):
    """The text encoder inside the network, its null and the attributes included."""
    whole = training(null=null, steps=6, drop=0.3, drop_all=0.1)
    first = training(null=null, steps=6, drop=0.3, drop_all=0.1, out=tmp_path / "run")
    for _ in range(6):
        whole.take_step()
    for _ in range(3):
        first.take_step()
    first.save()
    second = training(null=null, steps=6, drop=0.3, drop_all=0.1, out=tmp_path / "run", resume=True)
    assert second.step == 3
    for _ in range(3):
        second.take_step()
    for (name, a), b in zip(whole.network.state_dict().items(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_pretrained_encoder_is_asked_once_and_then_read(tmp_path, monkeypatch):
    encoder = encoder_from_config({"name": "sentence", "source": str(tiny_sentence(tmp_path / "net"))})
    asked_for = []

    class Counting:
        length, width = encoder.length, encoder.width

        def __call__(self, prompts):
            asked_for.extend(prompts)
            return encoder(prompts)

        config, net = encoder.config, encoder.net

    counting = Counting()
    first = encoded_prompts(counting, CAPTIONS[:2], folder=tmp_path / "cache")
    torch.testing.assert_close(first.float(), encoder(CAPTIONS[:2]), rtol=1e-3, atol=1e-3)
    again = encoded_prompts(counting, CAPTIONS[:2], folder=tmp_path / "cache")
    assert asked_for == list(CAPTIONS[:2])
    assert torch.equal(first, again)
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(encoded_prompts(counting, CAPTIONS[:2], folder=tmp_path / "cache"), first)
    monkeypatch.setattr(conditions, "_CHUNK", 1)
    torch.testing.assert_close(
        encoded_prompts(counting, CAPTIONS[:2], folder=tmp_path / "other"), first, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("null", ["learned", "empty"])
def test_a_model_with_a_pretrained_encoder_loads_from_its_description(tmp_path, null, monkeypatch):
    """The empty prompt is null; with null "empty" that is the encoder's empty string, kept in the network."""
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    folder = tiny_sentence(tmp_path / "net")
    run = training(("text",), null, text=f"sentence:{folder}")
    model = model_of(run.averaged_network(), run.about(), {}, "cpu")
    condition = model.encode(["a red seven", "", None])
    assert condition.keep["text"].tolist() == [True, False, False]
    encoder = encoder_from_config(run.config.text)
    torch.testing.assert_close(condition.values["text"][:1], encoder(["a red seven"]), rtol=0, atol=1e-6)
    if null == "empty":
        torch.testing.assert_close(run.network.text.empty, encoder([""])[0], rtol=0, atol=1e-6)
    assert model.conditions == ("text",)
    assert model.classes == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: asked(captioned(), ("pose",)),
            r"unknown condition of data 'captioned' 'pose'",
        ),
        (lambda: asked(captioned(), ("text", "text")), "one is given twice"),
        (lambda: training(("text",), drops={"label": 0.1}), r"unknown condition to drop 'label' \(known: text\)"),
        (lambda: training(drop_all=1.5), "drop_all: expected a number from 0 to 1, got 1.5"),
        (lambda: training(null="zero"), "unknown null of the text 'zero'"),
        (
            lambda: Training(captioned(), TrainConfig(net_config("8x8", 3, 8, 2), text={"name": "words"}), None),
            "a network that reads text and a text encoder go together",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_images_are_shown_by_step_and_resume_to_the_bit(tmp_path):
    """The box of a sample depends on seed and step only; the null of the image is the network's."""

    def start(out=None, resume=False):
        data = captioned()
        classes, inputs, _ = asked(data, ("image", "label"), image="inpaint")
        net = net_config("8x8", 3, 8, classes, channels=8, embed=16, **inputs)
        config = TrainConfig(net, image="inpaint", steps=4, batch_size=4, drop=0.5)
        return Training(data, config, out, resume)

    whole, first = start(), start(tmp_path / "run")
    for _ in range(4):
        whole.take_step()
    for _ in range(2):
        first.take_step()
    first.save()
    second = start(tmp_path / "run", resume=True)
    for _ in range(2):
        second.take_step()
    for a, b in zip(whole.network.state_dict().values(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    index, (x0, _) = whole.batches.index(4), whole.batches.batch(4)
    shown = whole.conditions.drawn(index, x0, whole.config, 4).values["image"]
    halves = [
        whole.conditions.drawn(index[part], x0[part], whole.config, 4, rank, 2).values["image"]
        for rank, part in enumerate((slice(0, 2), slice(2, 4)))
    ]
    assert torch.equal(torch.cat(halves), shown)
    model = model_of(whole.averaged_network(), whole.about(), {}, "cpu")
    assert model.conditions == ("label", "image")
    assert model.encode(["label=one"]).keep["image"].tolist() == [False]
