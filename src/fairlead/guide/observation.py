"""What a guided denoiser did in one evaluation, for those who watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.guide.branch import Branch, Weight, weighted
from fairlead.guide.moment import Seen
from fairlead.guide.terms import Ask, Guidance, Term


@dataclass(frozen=True, eq=False)
class Observation:
    """What a guided denoiser did in one evaluation (``observe``).

    Attributes:
        seen: the step and the branches that were evaluated.
        asks: what each term asked for, in the order of the guidance.
        parts: term -> what it added to x0, in the same order.
        guided: x0 before the finishers; ``finished`` after them.
        coefficients: of the affine part, merged.
        rows: branch -> the samples that it was evaluated for, bool [n], None for all; the other rows of its x0 are 0.
    """

    seen: Seen
    asks: tuple[Ask, ...]
    parts: tuple[tuple[Term, Tensor], ...]
    guided: Tensor
    finished: Tensor
    coefficients: Mapping[Branch, Weight]
    rows: Mapping[Branch, Tensor | None]

    __repr__ = brief


def contributions(
    guidance: Guidance, seen: Seen, asks: Sequence[Ask], directions: Sequence[Tensor | None]
) -> tuple[tuple[Term, Tensor], ...]:
    """What each term added: its affine part and its direction."""
    parts = []
    for term, ask, direction in zip(guidance.terms, asks, directions, strict=True):
        total = torch.zeros_like(seen.x_t)
        for branch, weight in ask.weights.items():
            if seen.has(branch):
                total = total + weighted(weight, seen.x0(branch))
        parts.append((term, total if direction is None else total + direction))
    return tuple(parts)
