"""What a method sees: the surroundings of a run, one step of it, and the predictions of that step.

Context     model, condition, what is loaded beside the model, draws: known before sampling starts
  Moment    and a step: what ``Term.ask`` sees
    Seen    and x_t with the predictions that were asked for: what ``Term.add`` sees
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Mixing, Objective
from fairlead.guide.branch import Branch
from fairlead.guide.step import Step
from fairlead.models.model import Model, Spec

Space = Literal["x0", "eps", "v", "flow", "output"]
"""Where a norm, a projection or a deviation is taken; "output" is what the network was trained to return."""
NoiseSource = Callable[[int, tuple[int, ...]], Tensor]
"""(number >= 0, shape) -> unit normal noise [n, *shape], each row from the stream of its own sample."""
_NUMBERS = {"energy": 0, "icg": 610, "cads": 620}
"""Where the noise of these methods lay in a step before names distinguished draws: their images stay what they were."""


@dataclass(frozen=True)
class Resource:
    """Something a term or a reward needs beside the model, by the name it is loaded from. A "clean-classifier" is only
    asked at t = 0; an "any-classifier" too, and of classes of its own."""

    kind: Literal["model", "classifier", "clean-classifier", "any-classifier", "image"]
    name: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """What a guidance is applied to.

    Attributes:
        model: the guided model.
        condition: of the run, for the samples of this batch.
        resources: loaded weak models and classifiers: a ``Model`` or a ``NoisyClassifierModel`` for each name.
        draws: noise of the samples for terms that draw some; None where the caller gave no seeds.
        specs: what the condition was encoded from, one for each sample, by name; () where the caller gave none.
    """

    model: Model
    condition: Condition
    resources: Mapping[str, Any] = field(default_factory=dict)
    draws: NoiseSource | None = None
    specs: tuple[Spec, ...] = ()

    __repr__ = brief

    def of_rows(self, rows: Tensor) -> Context:
        """The same for some of the samples, int64 [k]; without draws."""
        specs = tuple(self.specs[i] for i in rows.tolist()) if self.specs else ()
        return Context(model=self.model, condition=self.condition[rows], resources=self.resources, specs=specs)

    def resource(self, name: str) -> Any:
        if name not in self.resources:
            raise UsageError(
                f"guidance names {name!r}, which was not given; fl.sample loads it, GuidedDenoiser takes resources="
            )
        return self.resources[name]


@dataclass(frozen=True, eq=False, kw_only=True)
class Moment(Context):
    """One step of a run.

    Attributes:
        step: where in the run this is.
    """

    step: Step

    def draw(self, owner: str, shape: tuple[int, ...], part: int = 0) -> Tensor:
        """Unit normal noise float32 [n, *shape] from the samples' own streams, a pure function of (seed, step).

        Args:
            owner: name of the method: methods of different names have independent draws.
            shape: of one sample.
            part: tells several draws of one method and step apart, 0 to 399.

        Raises:
            UsageError: without seeds or without a grid.
        """
        if self.draws is None or self.step.index is None:
            raise UsageError(
                "this guidance draws noise, which needs seeds and the sampler's grid: sample with fl.sample"
            )
        if owner in _NUMBERS:
            return self.draws(self.step.index * 1000 + _NUMBERS[owner] + part, shape)
        return self.draws(((zlib.crc32(owner.encode()) + 1) << 31) + self.step.index * 1000 + part, shape)

    def recall(self, key: Hashable) -> Any:
        """What was remembered under ``key`` in earlier steps, None at first."""
        return self.step.recall(key)

    def remember(self, key: Hashable, value: Any) -> None:
        """Keep a value for later steps; within a step the first call counts."""
        self.step.remember(key, value)


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen(Moment):
    """One evaluation of a guided denoiser: x_t and the branches that were evaluated. Rows of a branch that were not
    asked for are 0.

    Attributes:
        x_t: [n, ...].
        mixing: ``alpha`` and ``sigma``, which broadcast against x_t, and what follows from them.
        evaluate: (branch, x_t) -> x0 [n, ...]: a further network call, for methods whose input depends on an output.
        graph: (x_t as a leaf, x0 of the conditional branch as its function), when a term asked to differentiate.
        attention: layer -> [n, h, w], the attention that each position received during the conditional prediction, 1 in
            the mean; of the layers that a term asked for. :data:`INTERNAL` -> what the head in the middle of the
            network returned then, [n, ...].
    """

    x_t: Tensor
    t: Tensor
    mixing: Mixing
    predictions: Mapping[Branch, Tensor]
    evaluate: Callable[[Branch, Tensor], Tensor]
    graph: tuple[Tensor, Tensor] | None = None
    attention: Mapping[str, Tensor] = field(default_factory=dict)

    __repr__ = brief

    @property
    def alpha(self) -> Tensor:
        """Broadcasts against x_t, like ``sigma``."""
        return self.mixing.alpha

    @property
    def sigma(self) -> Tensor:
        return self.mixing.sigma

    @property
    def noise_share(self) -> Tensor:
        """sigma^2 / (alpha^2 + sigma^2), the share of the noise in x_t: 1 for pure noise, 0 for data; also the variance
        of the posterior of N(0, 1) data given x_t. Broadcasts against x_t."""
        return self.mixing.noise_share

    def has(self, branch: Branch) -> bool:
        return branch in self.predictions

    def x0(self, branch: Branch) -> Tensor:
        return self.predictions[branch]

    def eps(self, branch: Branch) -> Tensor:
        found = self._eps.get(branch)
        if found is None:
            found = self._eps[branch] = self.mixing.eps(self.x0(branch), self.x_t)
        return found

    @cached_property
    def _eps(self) -> dict[Branch, Tensor]:
        """Several methods ask for the eps of one branch."""
        return {}

    def output(self, branch: Branch, space: Space) -> Tensor:
        """The prediction of a branch as what a network of ``space`` would have returned."""
        x0, objective = self.x0(branch), self.objective(space)
        return x0 if objective == "x0" else self.mixing.target(x0, self.eps(branch), objective)

    def to(self, x0: Tensor, space: Space) -> Tensor:
        """x0 as what a network of ``space`` would have returned for it at this x_t."""
        return self.mixing.output(x0, self.x_t, self.objective(space))

    def back(self, value: Tensor, space: Space) -> Tensor:
        """The inverse of :meth:`to`: the x0 for which a network of ``space`` would have returned ``value``."""
        return self.mixing.x0_of(value, self.objective(space), self.x_t)

    def zero(self, space: Space) -> Tensor:
        """The x0 for which a network of ``space`` returns 0, see :meth:`Mixing.zero`."""
        return self.mixing.zero(self.objective(space), self.x_t)

    def objective(self, space: Space) -> Objective:
        return self.model.objective if space == "output" else space
