"""Budgets: what is read, what fits."""

import pytest

from fairlead.core.errors import UsageError
from fairlead.tune.budget import Budget, Work


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20000 images", Budget(20000, "images")),
        ("20,000images", Budget(20000, "images")),
        ("4e6 rows", Budget(4e6, "rows")),
        ("1 minute", Budget(1, "minutes")),
        ("0.5 minutes", Budget(0.5, "minutes")),
    ],
)
def test_a_budget_is_read_and_printed(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "20000", "images", "-3 images", "0 rows", "3 hours", "1.2.3 rows", "nan rows"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a positive number and images, rows or minutes"):
        Budget.parse(text)


def test_pieces_fit_in_their_order_up_to_the_amount() -> None:
    work = [Work(100, 2000), Work(50, 500), Work(100, 4000)]
    assert Budget(150, "images").first(work) == 2
    assert Budget(149, "images").first(work) == 1
    assert Budget(6500, "rows").first(work) == 3
    assert Budget(1999, "rows").first(work) == 0
    assert Budget(1, "minutes").first(work) == 3
    assert str(sum(work, Work())) == "250 images, about 6,500 network rows"
