"""Presets of negative prompts are what they say, everywhere a prompt is read."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.models.encoders import PromptEncoder
from fairlead.models.negatives import expanded, negatives


def test_a_domain_stands_for_its_prompt():
    read: list[str] = []

    def encode(prompts):
        read.extend(prompts)
        return torch.zeros(len(prompts), 1)

    PromptEncoder(encode)(["@portrait", "a house", f"{negatives()['portrait']}"])
    assert read == [negatives()["portrait"], "a house"]
    assert expanded("a house @ night") == "a house @ night"


def test_an_unknown_domain_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"'@portrai'; did you mean '@portrait'\? \(known: @any, @photo, "):
        expanded("@portrai")


def test_no_preset_is_longer_than_clip_reads():
    """77 tokens with start and end; a comma is one, a word one or two."""
    for name, prompt in negatives().items():
        assert 2 * len(prompt.replace(",", " ").split()) + prompt.count(",") + 2 <= 77, name
