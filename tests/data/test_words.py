"""The vocabulary of whole words: ids, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.errors import UsageError
from fairlead.data.text import encoder_from_config, make_encoder
from fairlead.data.words import Words, split_words

CAPTIONS = ("a red seven", "A small, blue ONE.", "seven")


def test_ids_are_words_in_order_then_the_end_then_padding():
    words = Words.of(CAPTIONS)
    assert words.vocabulary == ("a", "blue", "one", "red", "seven", "small")
    assert words.length == 5
    assert words(["A red SEVEN!", "one", ""]).tolist() == [[2, 5, 6, 1, 0], [4, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_accents_in_two_characters_are_those_in_one():
    words = Words.of(["größer, naïve"])  # composed
    assert words.vocabulary == ("grösser", "naïve")
    decomposed = "gro\u0308ßer nai\u0308ve"
    assert torch.equal(words([decomposed]), words(["Größer NAÏVE"]))


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_captions_can_be_encoded_by_their_own_vocabulary(captions):
    """Every row ends once, and case and punctuation make no difference."""
    if not any(split_words(caption) for caption in captions):
        with pytest.raises(UsageError, match="expected captions of 1 to 20,000 different words, got 0"):
            Words.of(captions)
        return
    words = Words.of(captions)
    ids = words(captions)
    assert torch.equal((ids == 1).sum(1), torch.ones(len(captions), dtype=torch.int64))
    assert (ids != 0).sum(1).tolist() == [1 + len(split_words(caption)) for caption in captions]
    assert torch.equal(words([" ".join(split_words(caption)) for caption in captions]), ids)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("दिन", "दान"),  # day, gift: vowel signs
        ("ไก่", "ไก"),  # chicken, mechanism: a tone
        ("كُتُب", "كَتَبَ"),  # books, he wrote: vowel points
        ("שִׁיר", "שׁוּר"),
        ("தமிழ்", "தமழ"),
        ("C++", "C#"),
        ("C", "C#"),
        ("F#", "F"),
        (".NET", "net"),
        ("blood A+", "blood A-"),
        ("blood A-", "blood A"),
        ("-5", "5"),
        ("3.5", "35"),
        ("1/2", "12"),
        ("5 €", "5 $"),
        ("R&B", "R B"),
        ("🐱", "🐶"),
        ("á", "a"),
    ],
)
def test_words_that_differ_are_different_words(one: str, other: str) -> None:
    words = Words.of([one, other])
    assert not torch.equal(words([one]), words([other]))
    for text in set(split_words(one)) - set(split_words(other)):
        with pytest.raises(UsageError, match="unknown word"):
            Words.of([other])([text])


@pytest.mark.parametrize(
    ("one", "other"),
    [("don\u2019t", "Don't"), ("co\u00adoperate", "cooperate"), ("\u22125", "-5"), ("a cat, a dog.", "A cat: a dog!")],
)
def test_what_reads_the_same_is_the_same(one: str, other: str) -> None:
    assert split_words(one) == split_words(other)


def test_english_has_the_words_of_the_first_rule() -> None:
    for text in (
        *CAPTIONS,
        "left-leaning, two digits: a red 7 (upright) at the top left",
        "rock 'n' roll isn't dead_end",
    ):
        assert split_words(text, "marks") == split_words(text, "letters")


def test_a_checkpoint_without_a_rule_keeps_the_first_one() -> None:
    """The bits of runs that were trained before marks were read."""
    old = {"name": "words", "vocabulary": ["c", "द", "न", "ไก"], "length": 4}
    words = encoder_from_config(old)
    assert words.config() == old
    assert words(["C++ दिन", "c# दान"]).tolist() == [[2, 3, 4, 1], [2, 3, 4, 1]]
    new = make_encoder("words", ["C++ दिन", "c#"])
    assert new.config() == {"name": "words", "vocabulary": ["c#", "c++", "दिन"], "length": 3, "rule": "marks"}
    with pytest.raises(UsageError, match=r"unknown rule of words 'other' \(known: letters, marks\)"):
        encoder_from_config({**old, "rule": "other"})


def test_a_message_about_many_words_stays_short():
    words = Words(tuple(f"word{i}" for i in range(20_000)), 4)
    for prompt in ("mauve", "m" * 5_000):
        with pytest.raises(UsageError) as caught:
            words([prompt])
        assert len(str(caught.value)) < 1_000
        assert "and 19,940 more" in str(caught.value)


def test_the_configuration_makes_the_encoder_again():
    words = make_encoder("words", CAPTIONS)
    assert encoder_from_config(words.config()) == words
    assert words.net()["vocabulary"] == 2 + 6


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a mauve seven", r"unknown word in the prompt 'a mauve seven': 'mauve'.*\(known: a, blue, one, red"),
        ("a rad seven", r"'rad'; did you mean 'red'\?"),
        ("ein röter Vogel", r"'ein'"),
        ("七", r"unknown word in the prompt '七': '七'"),
        ("a red one a red one", r"has 6 words, this text encoder reads 4: 'red', 'one' would be lost; shorten it"),
        ("seven " * 10_000, r"has 10000 words, this text encoder reads 4: 'seven', .* and 9,988 more would be lost"),
    ],
)
def test_what_it_cannot_read_is_named(prompt, message):
    with pytest.raises(UsageError, match=message):
        Words.of(CAPTIONS)([prompt])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("word", r"unknown text encoder 'word'; did you mean 'words'\? \(known: words, clip, t5, sd3, sentence\)"),
        ("words:x", "'words' takes its vocabulary from the captions, and no source"),
        ("clip", "expected a source, clip:FOLDER or clip:OWNER/NAME"),
        ("clip:nowhere", "'nowhere' is no folder and no hub name"),
    ],
)
def test_specs_that_name_no_encoder(spec, message):
    with pytest.raises(UsageError, match=message):
        make_encoder(spec, CAPTIONS)
