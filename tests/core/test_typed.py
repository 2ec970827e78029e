"""Values against annotations: what JSON gives for them passes, all else is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, Unpack

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.typed import Count, Depth, Share, Size, check_arguments, problem_in


class Inner(TypedDict):
    width: Size
    zeros: NotRequired[Count]


class Loose(TypedDict, total=False):
    deep: Depth | None
    word: str


def make(
    size: Size,
    rates: Sequence[float] = (),
    pair: tuple[int, float] = (1, 2.0),
    named: Mapping[str, Size] | None = None,
    way: Literal["a", "b"] = "a",
    on: bool = False,
    inner: Inner | None = None,
    share: Share = 0.5,
    anything: Any = None,
    **more: Unpack[Loose],
) -> None:
    pass


@pytest.mark.parametrize(
    "given",
    [
        {}, {"size": 2**63 - 1}, {"rates": [1, 2.5, 1e308, float("inf")]}, {"rates": (0.5,)}, {"pair": [1, 2]},
        {"named": None}, {"named": {"x": 1}}, {"way": "z"}, {"on": True}, {"inner": {"width": 1, "other": []}},
        {"inner": {"width": 1, "zeros": 0}}, {"share": 1}, {"anything": object()}, {"deep": 1000}, {"deep": None},
        {"word": "x"},
    ],
)  # fmt: skip
def test_what_fits(given: dict[str, Any]) -> None:
    check_arguments(make, {"size": 1, **given}, "made")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, "made: size: expected at least 1, got 0"),
        ({"size": 2**63}, "made: size: expected a whole number, got 9223372036854775808"),
        ({"size": True}, "size: expected a whole number, got True"),
        ({"size": 1.0}, "size: expected a whole number, got 1.0"),
        ({"size": "8"}, "size: expected a whole number, got '8'"),
        ({"size": [8]}, r"size: expected a whole number, got \[8\]"),
        ({"rates": "12"}, "rates: expected a list, got '12'"),
        ({"rates": [1, "x"]}, "rates: expected a number, got 'x'"),
        ({"rates": [float("nan")]}, "rates: expected a number, got nan"),
        ({"rates": [10**400]}, "rates: expected a number, got 1000"),
        ({"pair": [1]}, r"pair: expected a list of 2, got \[1\]"),
        ({"named": {"x": 0}}, "named.x: expected at least 1, got 0"),
        ({"named": ["x"]}, r"named: expected an object or null, got \['x'\]"),
        ({"way": 1}, "way: expected a, b, got 1"),
        ({"on": 1}, "on: expected true or false, got 1"),
        ({"inner": {}}, "width: expected a whole number, got nothing"),
        ({"inner": {"width": 1, "zeros": -1}}, "zeros: expected at least 0, got -1"),
        ({"share": 1.5}, "share: expected 0 to 1, got 1.5"),
        ({"deep": 10**9}, "deep: expected 1 to 1000, got 1000000000"),
        ({"novelty": 1}, "unexpected keyword argument 'novelty' .it takes size, rates"),
        ({"size": "a" * 10**6}, r"size: expected a whole number, got 'a{57}\.\.\.'$"),
    ],
)
def test_what_does_not(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_arguments(make, {"size": 1, **given}, "made")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="made: 'size' is missing"):
        check_arguments(make, {}, "made")
    assert problem_in({}, Inner, "x") == ("width", "nothing", "a whole number")
    assert problem_in({}, Loose, "x") is None
