import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits


def rows(data) -> list[tuple[int, ...]]:
    return [(*image, label) for image, label in zip(data.images.flatten(1).tolist(), data.labels.tolist(), strict=True)]


def test_train_and_test_together_are_the_source_at_255_sixteenths():
    levels, labels = sklearn_digits(return_X_y=True)
    source = [
        (*(round(v * 255 / 16) for v in image), label)
        for image, label in zip(levels.tolist(), labels.tolist(), strict=True)
    ]
    train, test = load_digits("train"), load_digits("test")
    assert sorted(rows(train) + rows(test)) == sorted(source)
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == test.shape == (1, 8, 8)


def test_the_split_is_stratified_and_the_names_are_words():
    _, labels = sklearn_digits(return_X_y=True)
    test = load_digits("test")
    share = test.labels.bincount() / torch.from_numpy(np.bincount(labels))
    assert float((share - 0.2).abs().max()) < 0.5 / 170
    assert (test.classes[0], test.classes[7], test.classes[9]) == ("zero", "seven", "nine")
    assert not test.flip


def test_an_unknown_split_is_an_error():
    with pytest.raises(UsageError, match=r"unknown split 'tests'; did you mean 'test'\?"):
        load_digits("tests")
