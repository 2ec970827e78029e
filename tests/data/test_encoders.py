"""Pretrained text encoders: what transformers itself computes, masks, pooling, long prompts, foreign weights."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.text import encoder_from_config, make_encoder
from fairlead.diffusers.text_encoders import PretrainedText, clip, sentence, t5
from fairlead.nets.packed_text import unpack
from tests.data.tiny_text import tiny_clip, tiny_sentence, tiny_t5

PROMPTS = ["a red seven", "a small blue one on", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": tiny_clip(root / "clip"), "t5": tiny_t5(root / "t5"), "sentence": tiny_sentence(root / "sentence")
    }  # fmt: skip


def test_clip_is_pooled_where_its_own_library_pools(folders):
    """transformers pools at the end token too; its states at real tokens are ours."""
    import transformers

    encoder = clip(str(folders["clip"]))
    states, real, pooled = unpack(encoder(PROMPTS))
    tokens = transformers.AutoTokenizer.from_pretrained(folders["clip"])
    batch = tokens(PROMPTS, padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        theirs = transformers.CLIPTextModel.from_pretrained(folders["clip"])(**batch)
    assert torch.equal(real, batch["attention_mask"].bool())
    assert real.sum(1).tolist() == [5, 7, 2]
    torch.testing.assert_close(pooled, theirs.pooler_output, rtol=0, atol=3e-6)
    torch.testing.assert_close(states[real], theirs.last_hidden_state[real], rtol=0, atol=3e-6)


def test_t5_is_pooled_at_its_end_token_not_at_the_last_position(folders):
    encoder = t5(str(folders["t5"]), tokens=8)
    states, real, pooled = unpack(encoder(PROMPTS))
    for row, count in enumerate((4, 6, 1)):
        assert int(real[row].sum()) == count
        assert torch.equal(pooled[row], states[row, count - 1])


def test_a_sentence_is_the_mean_of_its_real_tokens(folders):
    states, real, pooled = unpack(sentence(str(folders["sentence"]))(PROMPTS))
    mean = torch.stack([states[row, real[row]].mean(0) for row in range(3)])
    torch.testing.assert_close(pooled, mean, rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", ["clip", "t5", "sentence"])
def test_a_prompt_does_not_depend_on_the_others_or_on_padding(folders, kind):
    """Alone, in a batch, and read with room for more tokens: the same states at the same tokens."""
    short = make_encoder(f"{kind}:{folders[kind]}", tokens=8)
    together = short(PROMPTS)
    alone = torch.cat([short([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=3e-6)
    if kind != "clip":  # whose position table ends at 8
        longer = make_encoder(f"{kind}:{folders[kind]}", tokens=11)(PROMPTS)
        torch.testing.assert_close(longer[:, :9], together, rtol=0, atol=3e-6)
        assert not bool(longer[:, 9:].any())


def test_windows_are_the_encodings_of_the_pieces_side_by_side(folders):
    encoder = clip(str(folders["clip"]), windows=3)
    assert encoder.length == 24
    value = encoder(["a red seven on the top a small blue one", "a red seven"])
    pieces = clip(str(folders["clip"]))(["a red seven on the top", "a small blue one", "a red seven"])
    torch.testing.assert_close(value[0, 1:9], pieces[0, 1:], rtol=0, atol=3e-6)
    torch.testing.assert_close(value[0, 9:17], pieces[1, 1:], rtol=0, atol=3e-6)
    torch.testing.assert_close(value[1, :9], pieces[2], rtol=0, atol=3e-6)
    assert not bool(value[0, 17:].any())
    assert not bool(value[1, 9:].any())


def test_a_long_prompt_says_which_words_are_lost(folders):
    long = "a red seven on the top at the white digit"
    with pytest.raises(UsageError, match=r"reads 1 x 8 tokens: 'at', 'the', 'white', 'digit' of the prompt .* be lost"):
        clip(str(folders["clip"]))([long])
    with pytest.raises(UsageError, match=r"and \d,\d{3} more of the prompt"):
        clip(str(folders["clip"]))(["seven " * 10_000])
    cut = clip(str(folders["clip"]), long="cut")
    with pytest.warns(UserWarning, match="'at', 'the', 'white', 'digit' of the prompt"):
        value = cut([long])
    torch.testing.assert_close(value, cut(["a red seven on the top"]), rtol=0, atol=3e-6)


def test_the_configuration_makes_it_again_and_refuses_other_weights(folders, tmp_path):
    encoder = make_encoder(f"sentence:{folders['sentence']}", tokens=8)
    config = encoder.config()
    again = encoder_from_config(config)
    assert torch.equal(again(PROMPTS), encoder(PROMPTS))
    assert again.config() == config
    with pytest.raises(UsageError, match=r"has other weights \([0-9a-f]{12}\) than in training \(000000000000\)"):
        encoder_from_config({**config, "weights": "0" * 12})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: clip(str(f["clip"]), tokens=9), "reads 8 tokens, got tokens=9"),
        (lambda f: clip(str(f["clip"]), tokens=2), "expected tokens of at least 3, got 2"),
        (lambda f: clip(str(f["clip"]), windows=0), "expected windows of at least 1, got 0"),
        (
            lambda f: clip(str(f["clip"]), long="drop"),  # type: ignore[arg-type]
            r"unknown treatment of long prompts 'drop'",
        ),
        (lambda f: t5(str(f["sentence"])), "cannot be loaded|no weights for"),
        (lambda f: clip("owner/absent"), "cannot be downloaded"),
    ],
)
def test_what_cannot_be_made_is_refused(folders, make, message):
    with pytest.raises(UsageError, match=message):
        make(folders)


def test_an_encoder_without_an_end_token_cannot_be_pooled_there(folders, monkeypatch):
    monkeypatch.setattr(PretrainedText, "_end", None)
    with pytest.raises(UsageError, match="no end token to pool at; use sentence:"):
        t5(str(folders["t5"]))
    monkeypatch.setattr(PretrainedText, "_end", 10_000)
    with pytest.raises(UsageError, match="row 0 has no end token 10000, so there is no place to pool at"):
        t5(str(folders["t5"]))(["a"])
