"""What a step evaluates: known from the step alone, so it is worked out once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fairlead.guide.algebra import Branch, Weight


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
    """

    weights: Mapping[Branch, Weight]
    needed: Mapping[Branch, Tensor | None]
    renoise: Branch | None
    differentiated: bool
    layers: tuple[str, ...]
    alone: Branch | None
