"""What a term may look at: the surroundings of a run, known at the door, and the predictions of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Mixing, Objective
from fairlead.core.schedule import NoiseSchedule
from fairlead.guide.step import Step

if TYPE_CHECKING:
    from fairlead.guide.algebra import Branch

Space = Literal["x0", "eps", "v", "flow", "output"]
"""Where a norm, a projection or a deviation is taken; "output" is what the network was trained to return."""
Draw = Callable[[int, tuple[int, ...]], Tensor]
"""(number >= 0, shape) -> unit normal noise [n, *shape], each row from the stream of its own sample."""


@dataclass(frozen=True)
class Resource:
    """Something a term needs beside the model, by the name it is loaded from; a "clean-classifier" is only asked at
    t = 0."""

    kind: Literal["model", "classifier", "clean-classifier", "image"]
    name: str


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a guidance may know of the model it guides; see ``Model`` for the fields of the same name.

    Attributes:
        objective: what the network returns.
        shape: of one sample; () where it is not known.
        image_shape: of what ``decode`` returns for one; () where it is not known.
        resources: loaded weak models and classifiers: a ``Model`` or a ``NoisyClassifierModel`` for each name.
        draw: noise of the samples for terms that need some; None where the caller gave no seeds.
        reachable: raises UsageError for an attention layer that cannot be perturbed now; None: all can.
    """

    schedule: NoiseSchedule
    objective: Objective = "eps"
    shape: tuple[int, ...] = ()
    image_shape: tuple[int, ...] = ()
    encode: Callable[[Sequence[Any]], Condition] | None = None
    embed: Callable[[Condition], Condition] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    classes: tuple[str, ...] = ()
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data_range: tuple[float, float] | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    draw: Draw | None = None
    reachable: Callable[[str], None] | None = None

    __repr__ = brief

    def resource(self, name: str) -> Any:
        if name not in self.resources:
            raise UsageError(
                f"guidance names {name!r}, which was not given; fl.sample loads it, GuidedDenoiser takes resources="
            )
        return self.resources[name]


@dataclass(frozen=True, eq=False)
class Seen:
    """One evaluation of a guided denoiser: x_t and the branches that were evaluated. Rows of a branch that were not
    asked for are 0.

    Attributes:
        step: where in the run this is.
        x_t: [n, ...].
        mixing: ``alpha`` and ``sigma``, which broadcast against x_t, and what follows from them.
        condition: of the run, for these samples.
        around: what surrounds the run.
        evaluate: (branch, x_t) -> x0 [n, ...]: a further network call, for methods whose input depends on an output.
    """

    step: Step
    x_t: Tensor
    t: Tensor
    mixing: Mixing
    condition: Condition
    around: Surroundings
    predictions: Mapping[Branch, Tensor]
    evaluate: Callable[[Branch, Tensor], Tensor]
    graph: tuple[Tensor, Tensor] | None = None
    """(x_t as a leaf, x0 of the conditional branch as its function), when a term asked to differentiate."""
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer -> [n, h, w], the attention that each position received during the conditional prediction, 1 in the mean;
    of the layers that a term asked for."""

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
        return self.around.objective if space == "output" else space

    def draw(self, number: int, shape: tuple[int, ...] | None = None) -> Tensor:
        """Unit normal noise [n, *shape] (default: like x_t) from the samples' own streams; ``number`` tells several
        draws of one step apart and is below 1000."""
        return drawn(self.step, self.around, number, self.x_t.shape[1:] if shape is None else shape).to(self.x_t)


def drawn(step: Step, around: Surroundings, number: int, shape: tuple[int, ...]) -> Tensor:
    """See :meth:`Seen.draw`."""
    if around.draw is None or step.index is None:
        raise UsageError("this guidance draws noise, which needs seeds and the sampler's grid: sample with fl.sample")
    return around.draw(step.index * 1000 + number, shape)


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """[n] -> [n, 1, ...] to multiply x [n, ...]; anything of more axes as it is."""
    value = value.to(device=x.device, dtype=x.dtype)
    return value.reshape(-1, *([1] * (x.ndim - 1))) if value.ndim == 1 else value


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per sample, [n, ...] -> [n, 1, ...], in float64 for the length of a sample."""
    if a.ndim == 1:
        return a.double() * b
    return (a.double() * b).sum(tuple(range(1, a.ndim)), keepdim=True)  # b is widened in the product


def length(a: Tensor) -> Tensor:
    """Euclidean norm per sample, [n, ...] -> float64 [n, 1, ...]."""
    if a.ndim == 1:
        return a.double().abs()
    norm: Tensor = torch.linalg.vector_norm(a, dim=tuple(range(1, a.ndim)), keepdim=True, dtype=torch.float64)
    return norm


def ratio(top: Tensor, bottom: Tensor, otherwise: float = 0.0) -> Tensor:
    """top / bottom, and ``otherwise`` where bottom is 0."""
    return (top / bottom).masked_fill_(bottom.logical_not(), otherwise)


def parallel(a: Tensor, b: Tensor) -> Tensor:
    """The part of a that is parallel to b, per sample, [n, ...]; 0 where b is 0."""
    wide = b.double()
    return ratio(dot(wide, a), dot(wide, wide)).to(b) * b
