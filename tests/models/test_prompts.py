"""Odd prompts, given to models with each kind of text encoder: what is read, what is no text, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.models.load import model_of
from fairlead.nets.build import net_config
from fairlead.train import conditions
from fairlead.train.conditions import DataConditions, asked
from tests.data.tiny_text import tiny_clip, tiny_sentence, tiny_t5
from tests.train.test_conditions import captioned, training

MAKERS = {"clip": tiny_clip, "t5": tiny_t5, "sentence": tiny_sentence}
KINDS = ("words", *MAKERS)
PRETRAINED = pytest.mark.parametrize("kind", list(MAKERS))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("encoders")
    return {"words": "words", **{kind: f"{kind}:{make(root / kind)}" for kind, make in MAKERS.items()}}


@pytest.fixture
def model_for(sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path))

    def make(kind: str, null: str = "learned") -> fl.Model:
        run = training(("text",), null, text=sources[kind], steps=4)
        for _ in range(4):  # what starts at zero has then let the text through
            run.take_step()
        return model_of(run.averaged_network(), run.about(), {})

    return make


def predicted(model: fl.Model, prompt: str | None) -> torch.Tensor:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return model.denoiser(x, torch.tensor(0.5), model.encode([prompt])).x0


@pytest.mark.parametrize("null", ["learned", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_prompt_is_no_text(model_for: Any, kind: str, null: str) -> None:
    """To the bit that of None, under both nulls; so are blanks."""
    model = model_for(kind, null)
    none = predicted(model, None)
    assert not torch.equal(predicted(model, "a red seven"), none)
    for empty in ("", " ", "\n\t"):
        assert torch.equal(predicted(model, empty), none)
        assert not bool(model.encode([empty]).keep["text"])


@PRETRAINED
def test_words_that_no_caption_has_are_read_by_a_pretrained_encoder(model_for: Any, kind: str) -> None:
    """Its tokenizer has a token for every text, here one for all that it does not know: in any script."""
    model = model_for(kind)
    assert torch.equal(predicted(model, "größer"), predicted(model, "七"))
    assert bool(predicted(model, "größer 七 naïve").isfinite().all())


def test_words_that_no_caption_has_are_refused_by_those_of_the_captions(model_for: Any) -> None:
    model = model_for("words")
    for prompt, word in (("größer", "grösser"), ("七", "七"), ("a mauve seven", "mauve")):
        with pytest.raises(UsageError, match=f"unknown word in the prompt '{prompt}': '{word}'"):
            model.encode([prompt])


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_words_are_refused_in_one_line(model_for: Any, kind: str) -> None:
    with pytest.raises(UsageError, match=r"would be lost") as error:
        fl.sample(model_for(kind), "seven " * 10_000, n=1, steps=1)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@PRETRAINED
def test_a_network_of_another_width_or_length_is_refused_before_captions_are_encoded(
    sources: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = captioned()
    _, inputs, text = asked(data, ["text"], sources[kind], settings={"tokens": 8})

    def too_late(*_: Any) -> None:
        raise AssertionError("captions would be encoded")

    monkeypatch.setattr(conditions, "encoded_prompts", too_late)
    for changes, made in (({"width": 24}, "8 tokens of width 24"), ({"length": 5}, "5 tokens of width 16")):
        net = net_config("8x8", 3, 8, 0, channels=8, text={**inputs["text"], **changes})
        with pytest.raises(UsageError, match=f"gives 8 tokens of width 16, the network is made for {made}; make it"):
            DataConditions.of(data, net, text)


def test_an_attribute_that_the_data_has_not_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown condition of data 'captioned' 'inc'; did you mean 'ink'"):
        asked(captioned(), ["text", "inc"])
    _, inputs, text = asked(captioned(), ["text", "ink"])
    net = net_config("8x8", 3, 8, 0, channels=8, **{**inputs, "attributes": {"pose": 2}})
    with pytest.raises(UsageError, match=r"unknown attribute of data 'captioned' 'pose' \(known: ink\)"):
        DataConditions.of(captioned(), net, text)
