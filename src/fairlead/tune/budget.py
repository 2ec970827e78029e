"""What a sweep may spend, what it will (images, network rows, minutes), and what it says of that while it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fairlead.core.errors import UsageError, shortened
from fairlead.measure.score import Floor
from fairlead.tune.setting import Setting

BudgetUnit = Literal["images", "rows", "minutes"]


@dataclass(frozen=True)
class Work:
    """So many images, and network rows to make them."""

    images: int = 0
    rows: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.images + other.images, self.rows + other.rows)

    def __str__(self) -> str:
        """``2,500 images, about 100,000 network rows``"""
        digits = max(0, len(f"{self.rows:.0f}") - 3)
        return f"{self.images:,} images, about {round(self.rows, -digits):,.0f} network rows"


@dataclass(frozen=True)
class Budget:
    """What one start of a sweep may spend; what is stored already costs nothing."""

    amount: float
    unit: BudgetUnit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``20000 images``, ``4e6 rows`` or ``30 minutes``.

        Raises:
            UsageError: for anything else.
        """
        match = re.fullmatch(r"\s*([\d.,_]+(?:e\+?\d+)?)\s*([a-z]+)\s*", text)
        units = {name: unit for unit in get_args(BudgetUnit) for name in (unit, unit[:-1])}
        try:
            amount = float(match[1].replace(",", "")) if match else math.nan
        except ValueError:
            amount = math.nan
        if not match or match[2] not in units or not 0 < amount < math.inf:
            raise UsageError(
                f"budget {shortened(text, 160)}: expected a positive number and images, rows or minutes, e.g. '20000 "
                "images'"
            )
        return cls(amount, units[match[2]])

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.unit}"

    def first(self, work: Sequence[Work]) -> int:
        """How many pieces of work fit, in their order; all of them where the budget is in minutes, which only time
        tells."""
        if self.unit == "minutes":
            return len(work)
        spent = Work()
        for count, piece in enumerate(work):
            spent = spent + piece
            if (spent.images if self.unit == "images" else spent.rows) > self.amount:
                return count
        return len(work)


@dataclass(frozen=True)
class Outlook:
    """Before the first batch: what there is to do.

    Attributes:
        settings, measured: how many there are, and how many have a score already.
        left: what is to be sampled for all of them; finished batches are not in it.
        now: what of that this start will do: less than ``left`` where the budget ends it.
        beyond: settings that the budget leaves to another start; 0 for one in minutes, which only time tells.
        labels: setting -> its name among the others.
        floor: what real images reach.
        budget: of this start.
        processes: how many share the work.
    """

    settings: int
    measured: int
    left: Work
    now: Work
    beyond: int
    labels: Mapping[Setting, str]
    floor: Floor
    budget: Budget | None
    processes: int


@dataclass(frozen=True)
class FinishedBatch:
    """What this process has just finished."""

    setting: Setting
    work: Work


@dataclass(frozen=True)
class Stopped:
    """The budget ended this start; ``settings`` and ``work`` are left."""

    settings: int
    work: Work
