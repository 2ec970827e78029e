"""Conditions: dropping and nulling are one mask; what is not kept is never looked at."""

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError


def condition() -> Condition:
    return Condition.of(label=torch.tensor([3, 1, 4, 1]), text=torch.arange(8.0).reshape(4, 2))


def masks(c: Condition) -> dict[str, list[bool]]:
    return {name: mask.tolist() for name, mask in c.keep.items()}


ALL, NONE = [True] * 4, [False] * 4


def test_of_keeps_everything() -> None:
    assert masks(condition()) == {"label": ALL, "text": ALL}
    assert condition().n == 4
    assert not condition().is_null


def test_drop_by_sample_and_by_name_leaves_values_alone() -> None:
    mask = torch.tensor([True, False, False, True])
    c = condition()
    assert masks(c.drop()) == {"label": NONE, "text": NONE}
    assert c.drop().is_null
    assert masks(c.drop(mask)) == {"label": [False, True, True, False], "text": [False, True, True, False]}
    assert masks(c.drop(mask, ["text"])) == {"label": ALL, "text": [False, True, True, False]}
    assert masks(c.drop(names=["label"])) == {"label": NONE, "text": ALL}
    assert masks(c.drop(mask).drop(~mask)) == {"label": NONE, "text": NONE}
    assert torch.equal(c.drop().values["label"], c.values["label"])
    assert masks(c) == {"label": ALL, "text": ALL}, "drop must not change its owner"


def test_equals_ignores_values_that_are_not_kept() -> None:
    a, b = Condition.of(label=torch.tensor([3, 1])), Condition.of(label=torch.tensor([3, 2]))
    second = torch.tensor([False, True])
    assert a.equals(a)
    assert not a.equals(b)
    assert a.drop(second).equals(b.drop(second))
    assert not a.drop(~second).equals(b.drop(~second))
    assert a.drop().equals(b.drop())
    assert not a.drop(second).equals(a)
    assert not a.equals(Condition.of(text=torch.tensor([3, 1])))
    assert not a.equals(Condition.of(label=torch.tensor([3, 1, 1])))
    assert Condition(2).equals(Condition(2))
    assert not Condition(2).equals(Condition(3))


@pytest.mark.parametrize(
    "index",
    [slice(1, 3), slice(-2, None), torch.tensor([2, 0, 0]), torch.tensor([True, False, True, True])],
)
def test_indexing_takes_the_same_samples_everywhere(index) -> None:
    c = condition().drop(torch.tensor([True, False, False, False]), ["label"])
    part = c[index]
    positions = torch.arange(4)[index]
    assert part.n == len(positions)
    for name in ("label", "text"):
        assert torch.equal(part.values[name], c.values[name][positions])
        assert torch.equal(part.keep[name], c.keep[name][positions])
    assert Condition(4)[index].n == len(positions)


def test_cat_and_slice_are_inverse() -> None:
    a, b = condition(), condition().drop(names=["text"])
    both = Condition.cat([a, b])
    assert both.n == 8
    assert both[:4].equals(a)
    assert both[4:].equals(b)
    assert Condition.cat([Condition(2), Condition(3)]).n == 5


def test_null() -> None:
    assert Condition(3).is_null
    assert condition().drop().is_null
    assert not condition().drop(names=["text"]).is_null


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Condition(1, {"a": torch.ones(1)}, {"b": torch.tensor([True])}), "values name .'a'. but keep"),
        (lambda: Condition(2, {"a": torch.ones(3)}, {"a": torch.ones(2).bool()}), "'a': expected 2 samples"),
        (lambda: Condition(2, {"a": torch.ones(2)}, {"a": torch.ones(3).bool()}), "'a': expected 2 samples"),
        (lambda: Condition(2, {"a": torch.ones(2)}, {"a": torch.ones(2)}), "a mask of torch.float32"),
        (lambda: Condition.of(a=torch.tensor(3)), r"expected values \[1, ...\]"),
        (lambda: Condition.of(), "at least one named tensor"),
        (lambda: condition().drop(names=["image"]), "condition has no .'image'.; it has .'label', 'text'."),
        (lambda: condition().drop(torch.tensor([1, 0, 0, 0])), r"drop: expected a bool mask \[4\], got torch.int64"),
        (lambda: condition().drop(torch.tensor([True])), r"bool mask \[4\], got torch.bool \[1\]"),
        (lambda: Condition.cat([condition(), Condition(1)]), "different names"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
