"""What a step evaluates: known from the step alone, so it is worked out once, at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.algebra import (
    COND,
    Branch,
    Finisher,
    Guidance,
    Limited,
    Pair,
    Term,
    Weight,
    added,
    is_one,
    is_zero,
    nonzero_rows,
)
from fairlead.guide.branches import Branches
from fairlead.guide.step import Step


@dataclass(frozen=True, eq=False)
class Ask:
    """Branches of one model that may share a network call.

    Attributes:
        model: its name; None is the run's.
        branches: in the order of the rows.
        index: for each branch the samples it is evaluated for, int64 [k]; None is all.
        sizes: how many these are.
    """

    model: str | None
    branches: tuple[Branch, ...]
    index: tuple[Tensor | None, ...]
    sizes: tuple[int, ...]

    @cached_property
    def whole(self) -> bool:
        """Whether every branch is evaluated for all samples."""
        return all(rows is None for rows in self.index)


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One step of a guided denoiser. A plan is kept for the run unless a term looked into the memory to make it.

    Attributes:
        weights: the affine coefficients, merged.
        needed: the branches evaluated -> for which samples (bool [n]); None is all.
        renoise: the branch whose eps re-noises.
        differentiated: a term wants the conditional prediction as a function of x_t.
        layers: attention layers to record.
        alone: the one branch that is itself the guided prediction, if a step needs no more.
        asks: what is left to be asked when ``alone`` and the differentiated prediction are known.
    """

    weights: Mapping[Branch, Weight]
    needed: Mapping[Branch, Tensor | None]
    renoise: Branch | None
    differentiated: bool
    layers: tuple[str, ...]
    alone: Branch | None
    asks: tuple[Ask, ...]

    @classmethod
    def of(cls, guidance: Guidance, branches: Branches, step: Step, active: Sequence[Term]) -> StepPlan:
        """``active`` are the :func:`active_terms`."""
        weights, renoise = merged_coefficients(guidance, branches, step), renoising(guidance, branches, step)
        needed = _needed(guidance, branches, step, weights, renoise)
        differentiated = any(term.differentiates(step) for term in active)
        layers = tuple(dict.fromkeys(layer for term in active for layer in term.attention(step, branches.around)))
        alone: Branch | None = None
        if len(needed) == 1 and not differentiated and not guidance.finishers and not layers:
            ((branch, rows),) = needed.items()
            alone = branch if rows is None and branch in weights and is_one(weights[branch]) else None
        known = {alone, branches.kept(COND) if differentiated else None}
        rest = {branch: rows for branch, rows in needed.items() if branch not in known}
        return cls(weights, needed, renoise, differentiated, layers, alone, _asks(rest, branches.condition.n))


def active_terms(guidance: Guidance) -> tuple[Term, ...]:
    """The terms that have a part that is not affine."""
    return tuple(term for term in guidance.terms if _looks(term))


def merged_coefficients(guidance: Guidance, branches: Branches, step: Step) -> dict[Branch, Weight]:
    """The affine coefficients at a step after equal branches have been merged; what has none is left out."""
    merged: dict[Branch, Weight] = {}
    for branch, weight in guidance.coefficients(step).items():
        kept = branches.kept(branch)
        merged[kept] = added(merged[kept], weight) if kept in merged else weight
    return {branch: weight for branch, weight in merged.items() if not is_zero(weight)}


def renoising(guidance: Guidance, branches: Branches, step: Step) -> Branch | None:
    """The branch whose eps re-noises at this step.

    Raises:
        UsageError: if there are two.
    """
    found = [branches.kept(b) for term in guidance.terms if (b := term.renoise(step)) is not None]
    if len(found) > 1:
        raise UsageError(f"{guidance}: two methods want to re-noise at once; keep one, or separate intervals")
    return next(iter(found), None)


def _needed(
    guidance: Guidance, branches: Branches, step: Step, weights: Mapping[Branch, Weight], renoise: Branch | None
) -> dict[Branch, Tensor | None]:
    rows: dict[Branch, Tensor | None] = {}
    for branch, weight in weights.items():
        mask = nonzero_rows(weight)
        rows[branch] = mask if isinstance(mask, Tensor) else None
    parts: tuple[Term | Finisher, ...] = (*guidance.terms, *guidance.finishers)
    for part in parts:
        for branch, wanted in part.wanted(step).items():
            kept = branches.kept(branch)
            there = rows.get(kept, wanted)
            rows[kept] = None if wanted is None or there is None else there | wanted
    if renoise is not None:
        rows[renoise] = None
    return {branch: None if mask is not None and bool(mask.all()) else mask for branch, mask in rows.items()}


def _asks(needed: Mapping[Branch, Tensor | None], n: int) -> tuple[Ask, ...]:
    """The branches by model; n samples."""
    asks = []
    for name in dict.fromkeys(branch.model for branch in needed):
        mine = tuple(branch for branch in needed if branch.model == name)
        index = tuple(None if (rows := needed[branch]) is None else rows.nonzero()[:, 0] for branch in mine)
        asks.append(Ask(name, mine, index, tuple(n if rows is None else len(rows) for rows in index)))
    return tuple(asks)


def _looks(term: Term) -> bool:
    """Whether the term has a part that is not affine."""
    inner = term
    while isinstance(inner, Limited):
        inner = inner.term
    affine = isinstance(inner, Pair) and inner.is_difference()
    return type(inner).direction is not Term.direction and not affine
