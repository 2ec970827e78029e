"""Data sets of torch: the same set as its images in an array, read once, and what is no such set is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import fairlead as fl
from fairlead.core.errors import Note
from fairlead.data import items
from fairlead.data.batches import Batches
from fairlead.data.images import to_float
from fairlead.nets.build import net_config
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training

IMAGES = torch.randint(0, 256, (10, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = [1, 0, 2, 1, 1, 0, 2, 2, 0, 1]
NAMES = ["zebra", "ant", "bee"]
WHOLE = fl.data(IMAGES, LABELS, classes=NAMES)


class Made(Dataset[Any]):
    """Items by a function of their number."""

    def __init__(self, make: Callable[[int], Any], classes: Any = None, n: int = 10) -> None:
        self.make, self.n, self.read = make, n, 0
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        self.read += 1
        return self.make(i)


def picture(i: int) -> Image.Image:
    return Image.fromarray(IMAGES[i].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "make",
    [
        lambda i: (IMAGES[i], LABELS[i]),
        lambda i: [to_float(IMAGES[i]), torch.tensor(LABELS[i])],
        lambda i: (IMAGES[i].permute(1, 2, 0).numpy(), np.int64(LABELS[i])),
        lambda i: {"image": picture(i), "label": LABELS[i]},
        lambda i: {"pixel_values": IMAGES[i], "labels": torch.tensor([LABELS[i]])},
    ],
    ids=["uint8", "float", "array", "picture", "dictionary"],
)
def test_every_kind_of_item_is_the_set_of_its_images(make: Callable[[int], Any]) -> None:
    data = fl.data(Made(make, NAMES))
    assert data.fingerprint == WHOLE.fingerprint
    assert data.classes == tuple(NAMES)
    first, second = (Batches(part, 4, 7).batch(5)[0] for part in (data, WHOLE))
    assert torch.equal(first, second)


def test_names_captions_and_images_alone() -> None:
    by_name = fl.data(Made(lambda i: (IMAGES[i], NAMES[LABELS[i]])), classes=NAMES)
    assert by_name.fingerprint == WHOLE.fingerprint
    captioned = fl.data(Made(lambda i: {"img": IMAGES[i], "text": f"number {i}"}))
    assert captioned.captions == tuple(f"number {i}" for i in range(10))
    assert fl.data(Made(lambda i: IMAGES[i][0])).shape == (1, 8, 6)
    assert fl.data(TensorDataset(IMAGES)).classes == ("all",)


def test_items_are_read_once_and_training_sees_the_images_of_an_array() -> None:
    own = Made(lambda i: (IMAGES[i, :1], LABELS[i]))
    net = net_config("8x8", 1, (8, 6), 3, channels=8, embed=16)
    trainings = [
        Training(data, TrainConfig(net=net, steps=2, batch_size=4), None)
        for data in (fl.data(own), fl.data(IMAGES[:, :1], LABELS))
    ]
    assert torch.equal(*(training.take_step()[0] for training in trainings))
    assert own.read <= 10 + 1 + 2 * 4


def test_many_images_lie_in_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(items, "_IN_MEMORY", 100)
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path))
    data = fl.data(Made(lambda i: (IMAGES[i], LABELS[i]), NAMES))
    assert list(tmp_path.iterdir()) == []
    assert data.fingerprint == WHOLE.fingerprint


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(IMAGES)


def changing(i: int) -> Any:
    return torch.rand(3, 8, 6), 0


def failing(i: int) -> Any:
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Stream(), "expected a data set with a length and items by number"),
        (Made(changing), r"item 0 is a different image when it is read again, .* remove the random transforms"),
        (Made(failing), r"item 0 cannot be read \(KeyError: 'gone'\)"),
        (Made(lambda i: (IMAGES[i, :, : 8 - (i == 7)], 0)), "item 7 is 3x7x6 with a label, item 0 3x8x6 with a label"),
        (Made(lambda i: (IMAGES[i], [1, 2])), "item 0 has the label"),
        (Made(lambda i: (IMAGES[i], 0, 3)), "item 0 has 3 parts, expected an image and a label"),
        (Made(lambda i: {"label": 3}), "item 0 has label, but no image"),
        (Made(lambda i: {"image": IMAGES[i], "depth": 3}), "and also 'depth'; expected image"),
        (Made(lambda i: (IMAGES[i].float(), 0)), r"item 0: expected float images from -1 to 1, got 0 to 25\d"),
        (
            Made(lambda i: (IMAGES[i].long(), 0)),
            r"item 0: expected uint8, 0 to 255, or float, -1 to 1, got torch.int64",
        ),
        (Made(lambda i: (IMAGES[i, :2], 0)), r"the shape \[2, 8, 6\], expected 1 or 3 channels"),
        (Made(lambda i: IMAGES[i], n=0), "has no items"),
    ],
)
def test_what_is_no_set_of_images_is_named(given: Any, message: str) -> None:
    with pytest.raises(fl.UsageError, match=message) as caught:
        fl.data(given)
    assert "\n" not in str(caught.value)


def test_labels_beside_items_and_floats_of_0_to_1_are_said() -> None:
    with pytest.raises(fl.UsageError, match="those of the data set's items; leave them out"):
        fl.data(Made(lambda i: (IMAGES[i], 0)), LABELS)
    with pytest.warns(Note, match="no item is below 0"):
        fl.data(Made(lambda i: (IMAGES[i] / 255, 0)))
