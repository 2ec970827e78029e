"""What data says of its samples, as specs that a model of the same classes reads back to the same labels."""

from typing import Any

import pytest
import torch

from fairlead.data.images import Attribute, ImageData
from fairlead.data.specs import data_specs
from fairlead.models.encoders import ConditionEncoder, PromptEncoder
from fairlead.models.model import LabelEncoder

CLASSES = [("1", "2", "3"), ("01", "02", "03"), ("0", "1", "2"), ("3", "1", "2"), ("cat", "2", "a; b"), ("", " ", '"')]


def lengths(prompts) -> torch.Tensor:
    return torch.tensor([[float(len(prompt))] for prompt in prompts])


def data_of(classes, captions=("a", "b", "c", "d"), values=("10", "20")) -> ImageData:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    attributes = {"size": Attribute(tuple(values), torch.tensor([1, 0, -1, 1]))}
    return ImageData(images, torch.tensor([0, 1, 2, 0]), classes, "toy", "train", False, captions, attributes)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("names", [("label",), ("label", "text"), ("label", "size"), ("text", "label", "size")])
def test_labels_of_data_are_the_labels_that_are_asked_for(classes, names) -> None:
    """Classes called 1, 2, 3 beside captions were asked for by their index as text: [0, 0, 1, 0]."""
    data = data_of(classes)
    parts: dict[str, Any] = {
        "label": LabelEncoder(classes),
        "text": PromptEncoder(lengths),
        "size": LabelEncoder(("10", "20"), "size"),
    }
    encoder = parts["label"] if names == ("label",) else ConditionEncoder({name: parts[name] for name in names})
    condition = encoder(data_specs(names, data, torch.arange(4)))
    assert condition.values["label"].tolist() == data.labels.tolist()
    assert bool(condition.keep["label"].all())
    if "size" in names:
        keep = condition.keep["size"]
        assert keep.tolist() == [True, True, False, True]
        assert condition.values["size"][keep].tolist() == [1, 0, 1]


def test_a_caption_that_looks_like_a_named_condition_is_a_caption() -> None:
    data = data_of(("x", "y", "z"), captions=("text=big", "label=1; text = x", "plain", "size = 3"))
    encoder = ConditionEncoder({"text": PromptEncoder(lengths)})
    specs = data_specs(["text"], data, torch.arange(4))
    assert [encoder.read(spec) for spec in specs] == [{"text": caption} for caption in data.captions]
    assert specs[2:] == ["plain", "size = 3"]


def test_nothing_said_is_null() -> None:
    data = data_of(("x", "y", "z"))
    assert data_specs(["size"], data, torch.tensor([2])) == [None]
