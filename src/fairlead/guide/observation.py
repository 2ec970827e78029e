"""What a guided denoiser did in one evaluation, for those who watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.guide.algebra import Branch, Guidance, Term, Weight, weighted
from fairlead.guide.seen import Seen


@dataclass(frozen=True, eq=False)
class Observation:
    """What a guided denoiser did in one evaluation (``observe``).

    Attributes:
        seen: the step and the branches that were evaluated.
        parts: term -> what it added to x0, in the order of the guidance.
        guided: x0 before the finishers; ``finished`` after them.
        coefficients: of the affine part, merged.
        rows: branch -> the samples that it was evaluated for, bool [n], None for all; the other rows of its x0 are 0.
    """

    seen: Seen
    parts: tuple[tuple[Term, Tensor], ...]
    guided: Tensor
    finished: Tensor
    coefficients: Mapping[Branch, Weight]
    rows: Mapping[Branch, Tensor | None]

    __repr__ = brief


def contributions(
    guidance: Guidance, seen: Seen, directions: Mapping[Term, Tensor | None]
) -> tuple[tuple[Term, Tensor], ...]:
    """What each term added: its affine part and its direction."""
    parts = []
    for term in guidance.terms:
        total = torch.zeros_like(seen.x_t)
        for branch, weight in term.coefficients(seen.step).items():
            if seen.has(branch):
                total = total + weighted(weight, seen.x0(branch))
        direction = directions.get(term)
        parts.append((term, total if direction is None else total + direction))
    return tuple(parts)
