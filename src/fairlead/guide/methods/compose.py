"""Composition of conditions (Liu et al. 2022, 2206.01714, eq. 11 and 12): AND with positive, NOT with negative weights.

    D = D_u + sum_i w_i (D_i - D_u)

K + 1 rows per sample for K conditions; without the null row if the weights add up to 1. It replaces the run's own
condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fairlead.core.arguments import plain
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL, Branch, Weight, add_weights
from fairlead.guide.moment import Moment
from fairlead.guide.notation import literal
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import Ask, Term


@dataclass(frozen=True)
class Compose(Term):
    """``compose({"seven": 4, "one": -2})``; the weights are scales, so they may be schedules or one per sample."""

    weights: Mapping[str | int, Any]
    name: ClassVar[str] = "compose"
    replaces_condition: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise UsageError(f'compose: expected conditions with weights such as {{"seven": 4}}, got {self.weights!r}')
        object.__setattr__(self, "weights", {plain(spec): weight for spec, weight in self.weights.items()})
        for spec in self.weights:
            if not isinstance(spec, str | int) or isinstance(spec, bool):
                raise UsageError(f"compose: expected a condition such as a class name, got {spec!r}")
        checked = {spec: as_scale(f"compose[{literal(spec)}]", weight) for spec, weight in self.weights.items()}
        counts = {len(scale) for scale in checked.values() if isinstance(scale, tuple)}
        if len(counts) > 1:
            raise UsageError(f"compose: per-sample weights must be of one length, got {sorted(counts)}")
        object.__setattr__(self, "weights", checked)

    def ask(self, at: Moment) -> Ask:
        at_step: dict[Branch, Weight] = {}
        rest: Weight = 1.0
        for spec, scale in self._scales.items():
            weight = scale_at(scale, at.step)
            at_step[Branch(spec)] = weight
            rest = add_weights(rest, -weight)
        return Ask({COND: -1.0, NULL: rest, **at_step})

    def specs(self) -> tuple[str | int, ...]:
        return tuple(self.weights)

    def by_name(self, name: Callable[[Any], Any]) -> Compose:
        weights: dict[Any, Any] = {}
        for spec, weight in self.weights.items():
            label = name(spec)
            if label in weights:
                raise UsageError(f"{self}: {label!r} is named twice, the second time as {spec!r}; give it once")
            weights[label] = weight
        return self if [*weights] == [*self.weights] else Compose(weights)

    def samples(self) -> int | None:
        return next((len(scale) for scale in self._scales.values() if isinstance(scale, tuple)), None)

    def of_sample(self, index: int) -> Compose:
        one = {spec: w[index : index + 1] if isinstance(w, tuple) else w for spec, w in self._scales.items()}
        return Compose(one)

    @property
    def _scales(self) -> Mapping[str | int, Scale]:
        return self.weights

    def __hash__(self) -> int:
        return hash(frozenset(self.weights.items()))
