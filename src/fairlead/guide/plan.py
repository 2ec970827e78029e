"""What a step evaluates, worked out from what its terms ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Branch, Weight, add_weights, is_one, is_zero, nonzero_rows
from fairlead.guide.branch_conditions import StepConditions
from fairlead.guide.step import Step
from fairlead.guide.terms import Ask, Guidance, total_weights


@dataclass(frozen=True, eq=False)
class Group:
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
    """One step of a guided denoiser.

    Attributes:
        weights: the affine coefficients, merged.
        needed: the branches evaluated -> for which samples (bool [n]); None is all.
        renoise: the branch whose eps re-noises.
        graph: a term wants the conditional prediction as a function of x_t.
        layers: attention layers to record.
        alone: the one branch that is itself the guided prediction, if a step needs no more.
        groups: what is left to be asked when ``alone`` and the differentiated prediction are known.
    """

    weights: Mapping[Branch, Weight]
    needed: Mapping[Branch, Tensor | None]
    renoise: Branch | None
    graph: bool
    layers: tuple[str, ...]
    alone: Branch | None
    groups: tuple[Group, ...]

    @cached_property
    def read(self) -> frozenset[Branch]:
        """The branches whose conditions the networks are shown: those evaluated, and those that they move away from."""
        return frozenset([*self.needed, *(branch.away for branch in self.needed if branch.away is not None)])

    @classmethod
    def of(cls, asks: tuple[Ask, ...], finishing: tuple[Ask, ...], conditions: StepConditions) -> StepPlan:
        """``asks`` are those of the terms, ``finishing`` those of the finishers."""
        weights, renoise = _merged(asks, conditions), _renoising(asks, conditions)
        needed = _needed((*asks, *finishing), conditions, weights, renoise)
        graph, layers = any(ask.graph for ask in asks), tuple(dict.fromkeys(x for ask in asks for x in ask.layers))
        alone: Branch | None = None
        if len(needed) == 1 and not graph and not layers:
            ((branch, rows),) = needed.items()
            alone = branch if rows is None and branch in weights and is_one(weights[branch]) else None
        known = {alone, conditions.kept(COND) if graph else None}
        rest = {branch: rows for branch, rows in needed.items() if branch not in known}
        n = conditions.moment.condition.n
        return cls(weights, needed, renoise, graph, layers, alone, _groups(rest, n))


def plan_key(asks: Sequence[Ask]) -> tuple[Any, ...] | None:
    """What a plan follows from: of two steps with equal keys the plans are the same, but for the moment. None where
    that is not known: weights per sample, and conditions that are changed or made anew in a step."""
    key: list[Any] = []
    for ask in asks:
        parts = (*ask.weights.items(), *ask.looks.items())
        if ask.alter is not None or any(isinstance(part, Tensor) or branch.make is not None for branch, part in parts):
            return None
        if ask.renoise is not None and ask.renoise.make is not None:
            return None
        key.append((len(ask.weights), parts, ask.renoise, ask.graph, ask.layers))
    return tuple(key)


def check_renoising(guidance: Guidance, step: Step) -> None:
    """Raise UsageError if two methods want to re-noise in this step."""
    on = [term for term in guidance.renoising() if term.is_on(step)]
    if len(on) > 1:
        raise UsageError(
            f"{guidance}: two methods re-noise in the same step; keep one, or give them separate intervals"
        )


def _merged(asks: Sequence[Ask], conditions: StepConditions) -> dict[Branch, Weight]:
    """The affine coefficients after equal branches have been merged; what has none is left out."""
    merged: dict[Branch, Weight] = {}
    for branch, weight in total_weights(asks).items():
        kept = conditions.kept(branch)
        merged[kept] = add_weights(merged[kept], weight) if kept in merged else weight
    return {branch: weight for branch, weight in merged.items() if not is_zero(weight)}


def _renoising(asks: Sequence[Ask], conditions: StepConditions) -> Branch | None:
    """The branch whose eps re-noises at this step; see :func:`check_renoising` for two."""
    return next((conditions.kept(ask.renoise) for ask in asks if ask.renoise is not None), None)


def _needed(
    asks: Sequence[Ask], conditions: StepConditions, weights: Mapping[Branch, Weight], renoise: Branch | None
) -> dict[Branch, Tensor | None]:
    rows: dict[Branch, Tensor | None] = {}
    for branch, weight in weights.items():
        mask = nonzero_rows(weight)
        rows[branch] = mask if isinstance(mask, Tensor) else None
    for ask in asks:
        for branch, looked in ask.looks.items():
            kept = conditions.kept(branch)
            there = rows.get(kept, looked)
            rows[kept] = None if looked is None or there is None else there | looked
    if renoise is not None:
        rows[renoise] = None
    return {branch: None if mask is not None and bool(mask.all()) else mask for branch, mask in rows.items()}


def _groups(needed: Mapping[Branch, Tensor | None], n: int) -> tuple[Group, ...]:
    """The branches by model; n samples."""
    groups = []
    for name in dict.fromkeys(branch.model for branch in needed):
        mine = tuple(branch for branch in needed if branch.model == name)
        index = tuple(None if (rows := needed[branch]) is None else rows.nonzero()[:, 0] for branch in mine)
        groups.append(Group(name, mine, index, tuple(n if rows is None else len(rows) for rows in index)))
    return tuple(groups)
