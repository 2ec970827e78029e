"""Names and numbers among them: a name comes first, a number that could be a name is refused, never guessed."""

import unicodedata
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.errors import UsageError
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.names import Index, Names, same_names

WORDS, FROM_ONE, PADDED = Names(DIGIT_NAMES), Names(("1", "2", "3")), Names(("01", "02", "03"))


@pytest.mark.parametrize(
    ("names", "given", "place"),
    [
        (WORDS, "seven", 7),
        (WORDS, "7", 7),
        (WORDS, 7, 7),
        (FROM_ONE, "1", 0),
        (FROM_ONE, "3", 2),
        (FROM_ONE, "index 1", 1),
        (FROM_ONE, Index(1), 1),
        (PADDED, "01", 0),
        (Names(("00", "01", "02")), "1", 1),
        (Names(("00", "01", "02")), 2, 2),
        (Names(("0", "1", "2")), 2, 2),
        (Names(("class_0", "class_1")), "1", 1),
        (Names(("n01440764", "n01443537")), "1", 1),
        (Names(("1 star", "2 stars")), 1, 1),
        (WORDS, np.int64(7), 7),
        (WORDS, torch.tensor(7), 7),
    ],
)
def test_what_is_one_thing_is_read(names: Names, given, place: int) -> None:
    assert names.place(given) == place
    assert names.place(names.written(place)) == place


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (FROM_ONE, "0"),  # beside "1" and "2" it would be class 1
        (FROM_ONE, 0),
        (FROM_ONE, 1),
        (FROM_ONE, 3),
        (PADDED, "1"),
        (PADDED, 1),
        (Names(("1.0", "2.0")), "1"),
        (Names(("\u0661", "\u0662", "\u0663")), "1"),
        (Names(("1e0", "2")), "1"),
        (Names(("5", "10", "15", "other")), "1"),
        (Names(("zero", "one", "7")), 7),
        (Names(("1 star", "2 stars")), "1"),
        (Names(("class 1", "class 2")), "1"),
        (Names(("crane", "crane")), "crane"),
        (WORDS, True),
        (WORDS, 7.0),
        (WORDS, None),
        (WORDS, "index 10"),
    ],
)
def test_what_could_be_two_things_or_none_is_refused_in_a_line(names: Names, given) -> None:
    with pytest.raises(UsageError) as caught:
        names.place(given)
    assert "\n" not in str(caught.value)
    assert names.find(given) is None


def test_equal_names_are_written_by_their_place() -> None:
    names = Names(("crane", "heron", "crane"))
    assert [names.written(i) for i in range(3)] == ["index 0", "heron", "index 2"]
    assert [names.place(names.written(i)) for i in range(3)] == [0, 1, 2]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5, unique=True))
def test_what_is_written_reads_back(words: list[str]) -> None:
    names = Names(tuple(words))
    assert [names.place(names.written(place)) for place in range(len(words))] == list(range(len(words)))


@pytest.mark.parametrize("name", ["café", "größe", "ไก่", "दिन", "école", "한국", "Å"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_known_in_every_unicode_form(name: str, form: Any) -> None:
    there: Any = "NFD" if form == "NFC" else "NFC"
    names = Names(("another", unicodedata.normalize(there, name)))
    assert names.place(unicodedata.normalize(form, name)) == 1
    assert names.place(unicodedata.normalize(form, name.upper())) == 1
    assert same_names(names.names, ("another", unicodedata.normalize(form, name)))
