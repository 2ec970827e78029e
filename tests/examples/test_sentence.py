"""The example with real sentence embeddings: all-MiniLM-L6-v2, as the dev extra installs it."""

import json
from pathlib import Path

import pytest
import torch
from examples.sentence import TOKENS, WORDS, Example, background, cosines, packaged

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.data.images import Attribute
from fairlead.data.scenes.scene_set import load_scenes
from fairlead.diffusers.text_encoders import PretrainedText, sentence
from fairlead.nets.packed_text import unpack

PAIRS = [
    "a small red seven on a white background",
    "a little crimson 7 against a snowy ground",
    "a puppy is running in a meadow",
    "the dog runs over the grass",
    "shares dropped sharply this afternoon",
    "the stock market fell today",
]


@pytest.fixture(scope="module")
def encoder() -> PretrainedText:
    return sentence(str(packaged()), tokens=TOKENS)


def test_the_pooled_vector_is_the_mean_over_real_tokens_that_the_model_is_made_for(encoder: PretrainedText) -> None:
    """By transformers alone, one sentence at a time."""
    import transformers

    assert json.loads((packaged() / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    tokens = transformers.AutoTokenizer.from_pretrained(packaged())
    network = transformers.AutoModel.from_pretrained(packaged())
    pooled = unpack(encoder(PAIRS))[2]
    for text, own in zip(PAIRS, pooled, strict=True):
        with torch.no_grad():
            states = network(**tokens(text, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(own, states[0].mean(dim=0), rtol=0, atol=1e-5)


def test_a_sentence_is_nearest_to_its_paraphrase(encoder: PretrainedText) -> None:
    near = (cosines(encoder, PAIRS) - 2 * torch.eye(len(PAIRS))).argmax(dim=1)
    assert near.tolist() == [1, 0, 3, 2, 5, 4]


def test_the_background_is_read_off_the_border_of_real_scenes() -> None:
    data = load_scenes(n=300, two=0.0)
    truth: Attribute = data.attributes["background"]
    names = [list(WORDS)[i] for i in background(data.images).tolist()]
    assert names == [truth.values[i] for i in truth.labels.tolist()]


@pytest.mark.slow
def test_the_example_trains_a_model_that_takes_any_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    example = Example(tmp_path / "run", n=40, steps=1, channels=8, batch_size=4, scales=(2.0,), each=1, sampling=1)
    found = example.main()
    assert [(key, share.n) for key, share in found.items()] == [((2.0, "known"), 14), ((2.0, "new"), 14)]
    about = json.loads((tmp_path / "run" / "step-000001" / "model.json").read_text())
    assert about["train"]["text"]["weights"] == sentence(str(packaged())).config()["weights"]
    model = fl.load(tmp_path / "run")
    assert fl.sample(model, "größer, 七, naïve", n=1, steps=1).images is not None
    with pytest.raises(UsageError, match=rf"reads 1 x {TOKENS} tokens: .* would be lost"):
        fl.sample(model, "seven " * 10_000, n=1, steps=1)


@pytest.mark.slow
def test_words_that_no_caption_has_are_followed_above_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/text.md says of this command: 84 % in words of the captions, 41 % in others, of 56 images; chance is
    14 %, give or take 5 %."""
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    found = Example(tmp_path / "run", scales=(2.0,)).main()
    assert found[2.0, "known"].value >= 0.7
    assert found[2.0, "new"].value >= 1 / 7 + 3 * 0.047
