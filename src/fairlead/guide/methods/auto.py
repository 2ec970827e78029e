"""Autoguidance: away from a weaker model (Karras et al. 2024, 2406.02507, eq. 3).

    D = D_weak + scale (D_c - D_weak) = D_c + omega (D_c - D_weak),  omega = scale - 1

The weak model is smaller, or an early snapshot of the same training, or both. It needs the same noise schedule, space
and classes, but may have another objective, because predictions are compared in x0. It gets the run's own condition,
so it can guide unconditional runs too.

Cost: one row of the weak model per sample, in a separate network call; nothing at scale 1. Can be added to any other
term. With ``cads`` the weak model gets the condition without noise, because it has its own embeddings.

In diffusers the "weak model" is the model itself with dropout, conditioned on the negative prompt; here it is any
checkpoint, conditioned like the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Branch
from fairlead.guide.moment import Context, Moment, Resource
from fairlead.guide.pairs import Pair


@dataclass(frozen=True)
class Auto(Pair):
    """``auto(2, weak="runs/small@step500")``.

    Attributes:
        scale: 1 is off, 0 the weak model.
        weak: path of a run, RUN@stepN or a checkpoint, or a name given in ``fl.sample(..., resources={name: model})``.
    """

    weak: str = field(kw_only=True)
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weak, str) or not self.weak:
            raise UsageError(
                f"auto: expected weak to be the path of a checkpoint such as 'runs/small@step500', got {self.weak!r}"
            )

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, Branch(model=self.weak)

    def resources(self) -> tuple[Resource, ...]:
        return (Resource("model", self.weak),)

    def check(self, on: Context) -> None:
        on.resource(self.weak)
