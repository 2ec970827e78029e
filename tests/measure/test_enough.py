"""What is too few is known from counts, is named, and the n that is advised is the smallest that does."""

from dataclasses import replace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.measure.metrics import (
    check_classes,
    check_real,
    few_for_features,
    judged_classes,
    not_asked,
    rare_classes,
    rare_said,
)
from fairlead.measure.references import first_of
from tests.tune.uneven import NAMES, uneven


def labels(*counts: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def test_few_images_for_the_features_are_said_and_enough_are_not() -> None:
    assert few_for_features(256, 64) is None
    assert few_for_features(255, 64) == "few images for features of 64 dimensions: 255 where 256 are wanted"
    said = few_for_features(60, 64)
    assert said is not None
    assert said.startswith("few images for features of 64 dimensions: 60 where 256 are wanted; no more images than")


@pytest.mark.parametrize("n", range(1, 201))
def test_the_advised_n_is_the_smallest_that_does(n: int) -> None:
    order = labels(120, 40, 8)[torch.randperm(168, generator=torch.Generator().manual_seed(0))]
    held_out = labels(12, 4, 3)
    rare = rare_classes(first_of(order, n), held_out, order)
    for one in rare:
        assert one.asked < 3 <= one.held_out
        assert one.would_do is not None
        assert one.would_do > n
        assert one.label not in [r.label for r in rare_classes(first_of(order, one.would_do), held_out, order)]
        assert one.label in [r.label for r in rare_classes(first_of(order, one.would_do - 1), held_out, order)]
    said = rare_said(rare, NAMES, n)
    if rare:
        assert said[-1].endswith(f"n = {max(one.would_do or 0 for one in rare)} would do")
    assert all(NAMES[one.label] in said[-1] for one in rare)


def test_beyond_one_round_of_the_real_images_the_advice_holds_too() -> None:
    order, held_out = labels(5, 1), labels(5, 3)
    [rare] = rare_classes(first_of(order, 4), held_out, order)
    assert (rare.label, rare.would_do) == (1, 18)
    assert rare_classes(first_of(order, 18), held_out, order) == []


def test_a_class_with_few_held_out_images_is_left_out_at_any_n() -> None:
    order = labels(120, 40, 8)
    [rare] = rare_classes(first_of(order, 168), labels(12, 4, 1), order)
    assert (rare.label, rare.asked, rare.held_out, rare.would_do) == (2, 8, 1, None)
    [said] = rare_said([rare], NAMES, 168)
    assert said.startswith("diversity leaves out two (1): fewer than 3 held-out images")


def test_many_rare_classes_are_named_up_to_a_length() -> None:
    order = torch.arange(1000)
    names = [f"class{i}" for i in range(1000)]
    [said] = rare_said(rare_classes(first_of(order, 500), order.repeat(3), order), names, 500)
    assert "class7 (1) and 992 more classes" in said
    assert said.endswith("n = 3,000 would do")


def test_too_few_real_images_are_refused_and_the_advised_number_is_enough() -> None:
    training, held_out = uneven((20, 10, 3))
    assert len(held_out) == 3
    with pytest.raises(UsageError, match="split 'test' has 3 held-out images to measure with, expected at least 4"):
        check_real(training, held_out)
    check_real(training, uneven((20, 10, 5))[1])


def test_classes_without_images_are_named() -> None:
    training, held_out = uneven((50, 30, 1))
    none = replace(training.subset(training.labels < 2), classes=NAMES)
    assert not_asked(none) == ["not asked for: two; split 'train' has no images of it"]
    assert check_classes(none, held_out)[0] == "never seen in training: two; split 'train' has no images of it"
    one = training.subset(training.labels == 0)
    with pytest.raises(UsageError, match="a classifier needs images of 2 classes, got 1 with images of 3"):
        check_classes(one, held_out)


def test_a_judge_of_folders_leaves_out_classes_with_fewer_than_ten() -> None:
    kept, [said] = judged_classes(labels(12, 10, 9), NAMES)
    assert kept == [0, 1]
    assert said.startswith("the judge leaves out two (9): fewer than 10 real images")
    assert judged_classes(load_digits("test").labels, load_digits("test").classes) == (list(range(10)), [])
