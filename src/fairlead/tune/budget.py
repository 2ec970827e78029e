"""What a sweep may spend, and what it will: images, network rows, minutes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fairlead.core.errors import UsageError, shortened

Unit = Literal["images", "rows", "minutes"]


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
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``20000 images``, ``4e6 rows`` or ``30 minutes``.

        Raises:
            UsageError: for anything else.
        """
        match = re.fullmatch(r"\s*([\d.,_]+(?:e\+?\d+)?)\s*([a-z]+)\s*", text)
        units = {name: unit for unit in get_args(Unit) for name in (unit, unit[:-1])}
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
