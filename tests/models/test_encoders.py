"""Specs of models with several conditions: one grammar for Python, command line and expressions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.errors import UsageError
from fairlead.data.specs import written
from fairlead.models.encoders import ConditionEncoder, PromptEncoder
from fairlead.models.model import LabelEncoder

ASKED: list[str] = []


def lengths(prompts):
    ASKED.extend(prompts)
    return torch.tensor([[float(len(prompt))] for prompt in prompts])


def encoder(*names: str) -> ConditionEncoder:
    parts: dict[str, LabelEncoder | PromptEncoder] = {
        "text": PromptEncoder(lengths),
        "label": LabelEncoder(("one", "seven")),
        "ink": LabelEncoder(("red", "blue"), "ink"),
    }
    return ConditionEncoder({name: parts[name] for name in names})


def test_every_way_to_write_a_condition():
    specs = [
        "a red seven",
        "label=seven; text=a red seven",
        " ink = blue ;label=1",
        None,
        "",
        "text=",
        "a = b",
        'text="a red; \\"seven\\""; label=0',
    ]
    condition = encoder("text", "label", "ink")(specs)
    assert condition.keep["text"].tolist() == [True, True, False, False, False, False, True, True]
    assert condition.values["text"][condition.keep["text"], 0].tolist() == [11.0, 11.0, 5.0, 14.0]
    assert condition.keep["label"].tolist() == [False, True, True, False, False, False, False, True]
    assert condition.values["label"][condition.keep["label"]].tolist() == [1, 1, 0]
    assert condition.values["ink"][condition.keep["ink"]].tolist() == [1]


@given(st.dictionaries(st.sampled_from(["text", "label", "ink"]), st.text(), min_size=1))
def test_what_is_written_by_name_reads_back(named):
    assert encoder("text", "label", "ink").read(written(named)) == named


def test_without_text_a_plain_spec_is_the_label_and_without_that_the_only_one():
    assert encoder("label", "ink")(["seven", 0]).values["label"].tolist() == [1, 0]
    assert encoder("ink")(["blue"]).values["ink"].tolist() == [1]


def test_a_prompt_is_encoded_once():
    part = PromptEncoder(lengths)
    ASKED.clear()
    first = part(["a red seven", "one", "a red seven"])
    assert torch.equal(part(["one"]).values["text"], first.values["text"][1:2])
    assert ASKED == ["a red seven", "one"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "label=seven; a red seven",
            r"expected every part as NAME=..., separated by ';', with names among text",
        ),
        (
            "label=seven; colour=red",
            r"unknown condition in 'label=seven; colour=red': 'colour'",
        ),
        ("label=seven; label=one", "'label' is given twice"),
        ("ink=green", r"unknown ink 'green' \(known: red, blue, or 0 to 1\)"),
        (3, "condition 3: this model reads text; give a prompt"),
    ],
)
def test_what_cannot_be_read_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        encoder("text", "label", "ink")([spec])
