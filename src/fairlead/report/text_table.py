"""Columns of numbers as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH = 120


def in_columns(columns: Sequence[tuple[str, Sequence[str]]], width: int = WIDTH) -> list[str]:
    """Columns side by side, right-aligned; those that do not fit go below, with the first column again."""
    sizes = [max(len(head), *map(len, cells)) + 2 for head, cells in columns]
    blocks: list[list[int]] = [[0]]
    for index in range(1, len(columns)):
        if len(blocks[-1]) > 1 and sum(sizes[k] for k in blocks[-1]) + sizes[index] > width:
            blocks.append([0])
        blocks[-1].append(index)
    lines: list[str] = []
    for number, block in enumerate(blocks):
        table = [[columns[k][0], *columns[k][1]] for k in block]
        lines += [""] if number else []
        rows = zip(*table, strict=True)
        lines += ["".join(cell.rjust(sizes[k]) for k, cell in zip(block, row, strict=True)) for row in rows]
    return lines


def as_text(values: list[float], form: str) -> list[str]:
    """Formatted numbers, - for nan."""
    return ["-" if math.isnan(value) else format(value, form) for value in values]
