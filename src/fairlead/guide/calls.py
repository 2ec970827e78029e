"""The network calls of a run: the branches of one network ride in as few calls as memory allows, perturbed branches
too, for a perturbation is a mask of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Literal, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, Estimate, autocast, counted, x0_of
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.guide.algebra import COND, Branch
from fairlead.guide.branches import Branches
from fairlead.guide.plan import Ask
from fairlead.guide.step import Step
from fairlead.nets.blocks import attention_mass

Batching = Literal["auto", "fused", "sequential"]
Recorded = dict[str, list[Tensor]]
"""Layer -> the attention that its positions received in successive network calls, each [rows, h, w]."""


class Calls:
    """Asks the networks of one run.

    Args:
        denoiser: of the run.
        branches: their conditions.
        batching: "fused" puts all branches of a network in one call, "sequential" makes one call per branch. "auto" is
            fused, and splits a call that runs out of memory. One call was never slower than two (docs/results/cost.md).
    """

    def __init__(self, denoiser: Denoiser, branches: Branches, batching: Batching) -> None:
        chosen("batching", batching, get_args(Batching))
        self.denoiser, self.branches, self.batching = denoiser, branches, batching
        self._max_rows: int | None = None

    def fresh(self, branches: Branches) -> Calls:
        """The same for another run."""
        other = copy(self)
        other.branches = branches
        return other

    def alone(self, branch: Branch, x_t: Tensor, t: Tensor, step: Step) -> Prediction:
        """The prediction of one branch for all samples."""
        return self._denoiser_of(branch.model)(x_t, t, self.branches.of(branch, step))

    def all(self, asks: Sequence[Ask], x_t: Tensor, t: Tensor, step: Step, mass: Recorded) -> dict[Branch, Tensor]:
        """x0 [n, ...] of every branch, with 0 in the rows that are not needed; ``mass`` is that of the conditional."""
        predictions: dict[Branch, Tensor] = {}
        own = self.branches.kept(COND) if mass else COND
        for ask in asks:
            estimate = x0_of(self._denoiser_of(ask.model))
            index = ask.index if ask.whole else [None if rows is None else rows.to(x_t.device) for rows in ask.index]
            if len(ask.branches) == 1 or self.batching == "sequential":
                for branch, rows in zip(ask.branches, index, strict=True):
                    recorded = mass if mass and branch == own else {}
                    condition = self.branches.of(branch, step)
                    if rows is None:
                        predictions[branch] = self._evaluate(estimate, x_t, t, condition, recorded)
                    else:
                        part = self._evaluate(estimate, x_t[rows], t, condition[rows], recorded)
                        predictions[branch] = _spread(part, rows, x_t)
                continue
            if ask.whole:
                x, together = torch.cat([x_t] * len(index)), self.branches.together(ask.branches, step)
            else:
                x = torch.cat([_pick(x_t, rows) for rows in index])
                parts = zip(ask.branches, index, strict=True)
                together = Condition.cat([self._rows_of(branch, rows, step) for branch, rows in parts])
            recorded = {layer: [] for layer in mass} if own in ask.branches else {}
            every = torch.split_with_sizes(self._evaluate(estimate, x, t, together, recorded), ask.sizes)
            for layer, found in recorded.items():
                place = ask.branches.index(own)
                mass[layer].append(torch.split_with_sizes(joined(found), ask.sizes)[place])
            for branch, rows, part in zip(ask.branches, index, every, strict=True):
                predictions[branch] = part if rows is None else _spread(part, rows, x_t)
        return predictions

    def graph(self, x_t: Tensor, t: Tensor, step: Step, mass: Recorded) -> tuple[Tensor, Tensor]:
        """x_t as a leaf and the conditional x0 as its function."""
        branch = self.branches.kept(COND)
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            estimate = x0_of(self._denoiser_of(branch.model))
            return leaf, _recorded(estimate, leaf, t, self.branches.of(branch, step), mass)

    def again(self, branch: Branch, x_t: Tensor, *, t: Tensor, step: Step, lower: torch.dtype | None) -> Tensor:
        """x0 of a branch at another x_t; ``lower`` is what the network computes in, None for that of its weights."""
        kept = self.branches.kept(branch)
        with autocast(x_t.device, lower):
            return self._evaluate(x0_of(self._denoiser_of(kept.model)), x_t, t, self.branches.of(kept, step), {})

    def _denoiser_of(self, model: str | None) -> Denoiser:
        if model is None:
            return self.denoiser
        denoiser: Denoiser = self.branches.around.resource(model).denoiser
        return counted(denoiser)

    def _rows_of(self, branch: Branch, rows: Tensor | None, step: Step) -> Condition:
        condition = self.branches.of(branch, step)
        return condition if rows is None else condition[rows]

    def _evaluate(self, estimate: Estimate, x_t: Tensor, t: Tensor, condition: Condition, mass: Recorded) -> Tensor:
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


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of successive calls, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _recorded(
    estimate: Estimate, x_t: Tensor, t: Tensor, condition: Condition, mass: Mapping[str, list[Tensor]]
) -> Tensor:
    """x0 of one call; once it has succeeded, the attention of the layers in ``mass`` is appended there."""
    with attention_mass(tuple(mass)) as layers:
        x0 = estimate(x_t, t, condition)
    for layer, received in layers.items():
        if received is None:
            raise UsageError(f"layer {layer!r} recorded no attention; name another of the model's attention layers")
        mass[layer].append(received.detach())
    return x0


def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _spread(part: Tensor, rows: Tensor, x_t: Tensor) -> Tensor:
    """These rows among zeros, as many rows as x_t."""
    return torch.zeros_like(x_t, dtype=part.dtype).index_copy_(0, rows, part)
