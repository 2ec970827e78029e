"""A training set of what is in memory: every layout is the same set, what does not fit is refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch

import fairlead as fl
from fairlead.core.errors import Note
from fairlead.data.images import to_float
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training

IMAGES = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = [1, 0, 2, 1, 1, 0]
NAMES = ["zebra", "ant", "bee"]


def test_every_layout_and_type_is_the_same_set() -> None:
    right = fl.data(IMAGES, LABELS, classes=NAMES)
    assert torch.equal(right.images, IMAGES)
    assert right.labels.tolist() == LABELS
    last = IMAGES.permute(0, 2, 3, 1)
    for images in (IMAGES.numpy(), last, last.numpy(), to_float(IMAGES), to_float(last).double().numpy()):
        for labels in (torch.tensor(LABELS), np.array(LABELS), [NAMES[label] for label in LABELS]):
            assert fl.data(images, labels, classes=NAMES).fingerprint == right.fingerprint
    grey = fl.data(IMAGES[:, 0], LABELS)
    assert grey.shape == (1, 8, 8)
    assert torch.equal(grey.images, IMAGES[:, :1])


def test_classes_follow_from_the_labels() -> None:
    assert fl.data(IMAGES, LABELS).classes == ("0", "1", "2")
    by_name = fl.data(IMAGES, [NAMES[label] for label in LABELS])
    assert (by_name.classes, by_name.labels.tolist()) == (("ant", "bee", "zebra"), [0, 2, 1, 0, 0, 2])
    assert fl.data(IMAGES).labels.tolist() == [0] * 6


def test_captions_and_attributes() -> None:
    data = fl.data(IMAGES, captions=["a", "b", ["c", "see"], "d", "e", "f"], attributes={"ink": [*"rgrg", None, "r"]})
    assert data.sentences(2) == ("c", "see")
    assert data.sentences(3) == ("d",)
    assert data.attributes["ink"].values == ("g", "r")
    assert data.attributes["ink"].labels.tolist() == [1, 0, 1, 0, -1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": "x"}, "a tensor or an array of numbers, got 'x'"),
        ({"images": IMAGES[0, 0]}, r"\[n, h, w\] with 1 or 3 channels, got \[8, 8\]"),
        ({"images": IMAGES[:, :2]}, r"got \[6, 2, 8, 8\]"),
        ({"images": IMAGES[:0]}, r"got \[0, 3, 8, 8\]"),
        ({"images": IMAGES.long()}, "got torch.int64"),
        ({"images": IMAGES.float()}, "float images from -1 to 1, got 0 to 2"),
        ({"images": torch.full((6, 1, 2, 2), torch.nan)}, "float images from -1 to 1, got nan"),
        ({"labels": LABELS[:5]}, "expected 6 labels, one per image, got 5"),
        ({"labels": "012012"}, "expected 6 labels, one per image, got '012012'"),
        ({"labels": [0, 1, 2, 3, 4, 0]}, "label 3 is not one of 3 classes, 0 to 2"),
        ({"labels": [0, 1, -1, 0, 0, 0]}, "label -1 is not one of 3"),
        ({"labels": [0.5] * 6}, "indices of classes, or their names"),
        ({"labels": ["ant"] * 5 + ["wasp"]}, "unknown class of data 'wasp'"),
        ({"labels": None}, "3 classes and no labels"),
        ({"classes": ["a", "a", "b"]}, "different names"),
        ({"classes": "abc"}, "expected a list of texts"),
        ({"captions": ["a"] * 7}, "expected 6 captions, one per image, got 7"),
        ({"captions": [[]] * 6}, "empty list of captions"),
        ({"captions": [3] * 6}, "expected a list of texts, got 3"),
        ({"attributes": {"ink": ["r"]}}, "expected 6 values, one per image, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(fl.UsageError, match=message) as caught:
        fl.data(**{"images": IMAGES, "labels": LABELS, "classes": NAMES, **given})
    assert "\n" not in str(caught.value)


def test_what_may_be_of_another_range_is_said() -> None:
    with pytest.warns(Note, match="from 0 to 1, pass 2"):
        fl.data(torch.rand(3, 1, 4, 4))


def test_it_trains() -> None:
    from fairlead.nets.build import net_config

    data = fl.data(IMAGES, LABELS, classes=NAMES)
    training = Training(data, TrainConfig(net_config("8x8", 3, 8, 3, channels=8), steps=2, batch_size=4), None)
    assert [record.step for record in training.run()] == [1, 2]
    assert training.about()["data"]["classes"] == NAMES
