"""The network calls of a run: the branches of one network ride in as few calls as memory allows, perturbed branches
too, for a perturbation is a mask of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, X0Denoiser, autocast, counted, x0_of
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.guide.branch import COND, Branch
from fairlead.guide.branch_conditions import StepConditions
from fairlead.guide.moment import Context
from fairlead.guide.plan import Group
from fairlead.nets.blocks import attention_mass

Batching = Literal["auto", "fused", "sequential"]
Attention = dict[str, list[Tensor]]
"""Layer -> the attention that its positions received in successive network calls, each [rows, h, w]."""


class Calls:
    """Calls the networks of one run.

    Args:
        context: of the run, with the model and the others that are asked.
        batching: "fused" puts all branches of a network in one call, "sequential" makes one call per branch. "auto" is
            fused, and splits a call that runs out of memory. One call was never slower than two (docs/results/cost.md).
    """

    def __init__(self, context: Context, batching: Batching) -> None:
        chosen("batching", batching, get_args(Batching))
        self.context, self.batching = context, batching
        self._own = counted(context.model.denoiser)
        self._max_rows: int | None = None

    def alone(self, branch: Branch, x_t: Tensor, t: Tensor, conditions: StepConditions) -> Prediction:
        """The prediction of one branch for all samples."""
        return self._denoiser_of(branch.model)(x_t, t, conditions.of(branch))

    def all(
        self, groups: Sequence[Group], x_t: Tensor, t: Tensor, conditions: StepConditions, mass: Attention
    ) -> dict[Branch, Tensor]:
        """x0 [n, ...] of every branch, with 0 in the rows that are not needed; ``mass`` is that of the conditional."""
        predictions: dict[Branch, Tensor] = {}
        own = conditions.kept(COND) if mass else COND
        for group in groups:
            estimate = x0_of(self._denoiser_of(group.model))
            index = (
                group.index if group.whole else [None if rows is None else rows.to(x_t.device) for rows in group.index]
            )
            if len(group.branches) == 1 or self.batching == "sequential":
                for branch, rows in zip(group.branches, index, strict=True):
                    recorded = mass if mass and branch == own else {}
                    condition = conditions.of(branch)
                    if rows is None:
                        predictions[branch] = self._evaluate(estimate, x_t, t, condition, recorded)
                    else:
                        part = self._evaluate(estimate, x_t[rows], t, condition[rows], recorded)
                        predictions[branch] = _spread(part, rows, x_t)
                continue
            if group.whole:
                x, together = torch.cat([x_t] * len(index)), conditions.together(group.branches)
            else:
                x = torch.cat([_pick(x_t, rows) for rows in index])
                parts = zip(group.branches, index, strict=True)
                together = Condition.cat([_rows_of(conditions.of(branch), rows) for branch, rows in parts])
            recorded = {layer: [] for layer in mass} if own in group.branches else {}
            every = torch.split_with_sizes(self._evaluate(estimate, x, t, together, recorded), group.sizes)
            for layer, found in recorded.items():
                place = group.branches.index(own)
                mass[layer].append(torch.split_with_sizes(in_row_order(found), group.sizes)[place])
            for branch, rows, part in zip(group.branches, index, every, strict=True):
                predictions[branch] = part if rows is None else _spread(part, rows, x_t)
        return predictions

    def graph(self, x_t: Tensor, t: Tensor, conditions: StepConditions, mass: Attention) -> tuple[Tensor, Tensor]:
        """x_t as a leaf and the conditional x0 as its function."""
        branch = conditions.kept(COND)
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            estimate = x0_of(self._denoiser_of(branch.model))
            return leaf, _recorded(estimate, leaf, t, conditions.of(branch), mass)

    def again(
        self, branch: Branch, x_t: Tensor, *, t: Tensor, conditions: StepConditions, lower: torch.dtype | None
    ) -> Tensor:
        """x0 of a branch at another x_t; ``lower`` is what the network computes in, None for that of its weights."""
        kept = conditions.kept(branch)
        with autocast(x_t.device, lower):
            return self._evaluate(x0_of(self._denoiser_of(kept.model)), x_t, t, conditions.of(kept), {})

    def _denoiser_of(self, model: str | None) -> Denoiser:
        if model is None:
            return self._own
        denoiser: Denoiser = self.context.resource(model).denoiser
        return counted(denoiser)

    def _evaluate(self, estimate: X0Denoiser, x_t: Tensor, t: Tensor, condition: Condition, mass: Attention) -> Tensor:
        """x0 of these rows, in one call, or in halves if that ran out of memory; ``mass`` gets the rows in order."""
        if self._max_rows is None or x_t.shape[0] <= self._max_rows:
            try:
                if not mass:
                    return estimate(x_t, t, condition)
                return _recorded(estimate, x_t, t, condition, mass)
            except torch.OutOfMemoryError:
                if self.batching != "auto" or len(x_t) == 1:
                    raise
                self._max_rows = (len(x_t) + 1) // 2
                torch.cuda.empty_cache()
        starts = range(0, len(x_t), self._max_rows)
        pieces = [slice(start, start + self._max_rows) for start in starts]
        return torch.cat([self._evaluate(estimate, x_t[piece], t, condition[piece], mass) for piece in pieces])


def in_row_order(parts: Sequence[Tensor]) -> Tensor:
    """Rows of successive calls, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _recorded(
    estimate: X0Denoiser, x_t: Tensor, t: Tensor, condition: Condition, mass: Mapping[str, list[Tensor]]
) -> Tensor:
    """x0 of one call; once it has succeeded, the attention of the layers in ``mass`` is appended there."""
    with attention_mass(tuple(mass)) as layers:
        x0 = estimate(x_t, t, condition)
    for layer, received in layers.items():
        if received is None:
            raise UsageError(f"layer {layer!r} recorded no attention; name another of the model's attention layers")
        mass[layer].append(received.detach())
    return x0


def _rows_of(condition: Condition, rows: Tensor | None) -> Condition:
    return condition if rows is None else condition[rows]


def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _spread(part: Tensor, rows: Tensor, x_t: Tensor) -> Tensor:
    """These rows among zeros, as many rows as x_t."""
    return torch.zeros_like(x_t, dtype=part.dtype).index_copy_(0, rows, part)
