"""Condition-annealed diffusion sampling (Sadat et al. 2023, 2310.17347, section 3).

    gamma(t) = 1 up to t = low, falling linearly to 0 at t = high
    y' = sqrt(gamma) y + noise sqrt(1 - gamma) n
    y'' = (y' - mean y') std y / std y' + mean y
    the network sees mix y'' + (1 - mix) y'

y is the condition's embedding and n unit normal noise from the sample's own stream, drawn anew in every step. Early in
the run the condition is mostly noise, later it has no noise; the result is more variety at high scales. Only the run's
own condition is changed, not null, negative and composed conditions or the condition of weak models.

Cost: no rows. Can be added to any other term, and changes the condition only, not the rule of the other term:
``cfg(4) + cads(0.25)``. Refused for models that cannot embed their labels, and for runs without a condition.

Public implementations take the mean and the standard deviation over the whole batch, so samples influence each other.
Here they are those of one sample's embedding; for a text, those of its real tokens, and padding stays unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.moment import Context, Moment
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.per_sample import ratio
from fairlead.guide.terms import NOTHING, Ask, Term


@dataclass(frozen=True)
class CADS(Term):
    """``cads(0.25)``, ``cads(0.15, low=0.5, high=0.8, mix=0.7)``.

    Attributes:
        noise: standard deviation of the noise in units of the embedding, >= 0; 0 is off.
        low, high: times with 0 <= low < high <= 1; below ``low`` the condition has no noise, above ``high`` it is
            only noise.
        mix: share of the rescaled embedding, 0 to 1.
    """

    noise: float
    low: float = 0.6
    high: float = 0.9
    mix: float = 1.0
    name: ClassVar[str] = "cads"

    def __post_init__(self) -> None:
        plain_fields(self)
        for argument in ("noise", "low", "high", "mix"):
            value = getattr(self, argument)
            if not is_number(value) or not math.isfinite(value):
                raise UsageError(f"cads: expected {argument} to be a number, got {value!r}")
            object.__setattr__(self, argument, float(value))
        if self.noise < 0:
            raise UsageError(f"cads: expected noise to be 0 or more, got {self.noise:g}")
        if not 0 <= self.low < self.high <= 1:
            raise UsageError(f"cads: expected times 0 <= low < high <= 1, got low {self.low:g}, high {self.high:g}")
        if not 0 <= self.mix <= 1:
            raise UsageError(f"cads: expected mix from 0 to 1, got {self.mix:g}")

    def gamma(self, t: float) -> float:
        """How much of the condition is left, 1 to 0."""
        return min(1.0, max(0.0, (self.high - t) / (self.high - self.low)))

    def ask(self, at: Moment) -> Ask:
        whole = self.noise == 0 or self.gamma(at.step.t) == 1
        return NOTHING if whole else Ask(alter=lambda condition: self.annealed(condition, at))

    def annealed(self, condition: Condition, at: Moment) -> Condition:
        """The condition at this step, with noise in its embeddings."""
        gamma = self.gamma(at.step.t)
        values = dict(condition.values)
        embeddings = {name: value for name, value in sorted(values.items()) if value.is_floating_point()}
        if values and not embeddings:
            raise UsageError(
                f"{self}: the condition {next(iter(values))!r} is not an embedding, so it cannot be noised"
            )
        for number, (name, value) in enumerate(embeddings.items()):
            draw = at.draw(self.name, tuple(value.shape[1:]), number).to(value)
            if name == "text":  # its last channel tells real rows from padding, which stays as it is
                real = value[..., -1:] > 0
                values[name] = torch.cat(
                    [self.noised(value[..., :-1], draw[..., :-1], gamma, real), value[..., -1:]], -1
                )
            else:
                values[name] = self.noised(value, draw, gamma)
        return replace(condition, values=values)

    def noised(self, value: Tensor, draw: Tensor, gamma: float, real: Tensor | None = None) -> Tensor:
        """An embedding [n, ...] with unit noise ``draw`` of the same shape, 0 where it is not ``real`` (bool mask that
        broadcasts against it; None: all is)."""
        share = torch.ones_like(value) if real is None else real.to(value).expand_as(value)
        mixed = (math.sqrt(gamma) * value + self.noise * math.sqrt(1 - gamma) * draw) * share
        mean, deviation = _moments(mixed, share)
        old_mean, old_deviation = _moments(value, share)
        gain = ratio(old_deviation, deviation, otherwise=1.0)
        rescaled = ((mixed - mean) * gain + old_mean) * share
        return torch.lerp(mixed, rescaled, self.mix)

    def needs_condition(self) -> bool:
        return True

    def check(self, on: Context) -> None:
        if on.model.embed is None:
            raise UsageError(
                f"{self}: adds noise to embeddings, and this model does not embed its conditions; drop the term"
            )


def _moments(value: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per sample, [n, 1, ...], over what ``share`` (0 or 1) counts."""
    axes = tuple(range(1, value.ndim))
    count = share.sum(axes, keepdim=True)
    mean = (value * share).sum(axes, keepdim=True) / count
    return mean, (((value - mean) * share).square().sum(axes, keepdim=True) / count).sqrt()
