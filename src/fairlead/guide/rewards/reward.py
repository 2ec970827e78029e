"""Rewards: a number for each denoised sample; larger is better.

    energy(brightness(0.8), 2)                      its gradient moves the samples
    fl.sample(..., particles=8, reward=...)         its value chooses among particles, with or without a gradient
    2 * label("runs/clf", "seven") + color("red")   several rewards at once

A reward that is a log-probability log p(y | x0) has a natural scale: scale or weight 1 is Bayes' rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fairlead.core.arguments import plain, shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.moment import Context, Resource
from fairlead.guide.notation import call_text, is_number, literal

Fn = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x0 [n, ...], t [], condition of n samples) -> reward [n], differentiable in x0 unless its reward says otherwise."""


@dataclass(frozen=True)
class Reward:
    """A reward with a name. Subclasses are frozen dataclasses; their fields are the arguments of the expression.

    ``a + b`` adds rewards, ``2 * a`` weights one.
    """

    name: ClassVar[str]

    @property
    def differentiable(self) -> bool:
        """Whether it has a gradient with respect to x0, as ``energy`` needs it."""
        return True

    @property
    def pixels(self) -> bool:
        """Whether it wants images [n, c, h, w], decoded if the model has latents."""
        return True

    def of(self, on: Context) -> Fn:
        """The function of images, or of the model's own samples where ``pixels`` is False.

        Args:
            on: the model, and the condition of the very samples that the function is called with.
        """
        raise NotImplementedError

    def of_samples(self, on: Context) -> Fn:
        """The function of the model's own samples."""
        function, decode = self.of(on), on.model.decode
        if not self.pixels:
            return function
        return lambda x0, t, condition: function(decode(x0), t, condition)

    def check(self, on: Context) -> None:
        """Raise UsageError if it does not suit the model."""
        if on.model.image_shape and len(on.model.image_shape) != 3:
            raise UsageError(f"{self} is a reward of images, this model's samples are {list(on.model.image_shape)}")

    def resources(self) -> tuple[Resource, ...]:
        return ()

    def needs_condition(self) -> bool:
        return False

    def rows(self) -> int:
        """Network rows of one evaluation of a sample."""
        return 0

    def __add__(self, other: Reward) -> Reward:
        if not isinstance(other, Reward):
            return NotImplemented
        return WeightedSum((*weighted_parts(self), *weighted_parts(other)))

    def __mul__(self, weight: float) -> Reward:
        weight = plain(weight)
        if not is_number(weight) or not math.isfinite(weight):
            raise UsageError(f"reward: expected a number times {self}, got {shown(weight)}")
        return WeightedSum(tuple((weight * own, part) for own, part in weighted_parts(self)))

    __rmul__ = __mul__

    def __str__(self) -> str:
        return call_text(self.name, self)


@dataclass(frozen=True)
class WeightedSum(Reward):
    """``2 * label("runs/clf", "seven") + color("red")``: several rewards at once, each with its weight."""

    parts: tuple[tuple[float, Reward], ...]

    @property
    def differentiable(self) -> bool:
        return all(part.differentiable for _, part in self.parts)

    @property
    def pixels(self) -> bool:
        return any(part.pixels for _, part in self.parts)

    def of_samples(self, on: Context) -> Fn:
        decode, pixels = on.model.decode, self.pixels
        functions = [(weight, part.pixels, part.of(on)) for weight, part in self.parts]

        def total(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            images = decode(x0) if pixels else x0
            values = [weight * f(images if seen else x0, t, condition) for weight, seen, f in functions]
            return sum(values[1:], start=values[0])

        return total

    def check(self, on: Context) -> None:
        for _, part in self.parts:
            part.check(on)

    def resources(self) -> tuple[Resource, ...]:
        return tuple(dict.fromkeys(resource for _, part in self.parts for resource in part.resources()))

    def needs_condition(self) -> bool:
        return any(part.needs_condition() for _, part in self.parts)

    def rows(self) -> int:
        return sum(part.rows() for _, part in self.parts)

    def __str__(self) -> str:
        return " + ".join(str(part) if weight == 1 else f"{literal(weight)} * {part}" for weight, part in self.parts)


@dataclass(frozen=True)
class FunctionReward(Reward):
    """Any function (x0, t, condition) -> [n].

    It gets samples in the model's own space unless it has an attribute ``pixels`` = True, and is assumed to have a
    gradient unless it has an attribute ``differentiable`` = False. Registered by
    ``fl.register(NAME, function, kind="reward")`` it prints as ``NAME()``, otherwise as ``<its name>``, which cannot be
    parsed.
    """

    function: Fn
    called: str = ""

    def of(self, on: Context) -> Fn:
        return self.function

    def check(self, on: Context) -> None:
        """It is the caller's."""

    @property
    def differentiable(self) -> bool:
        return bool(getattr(self.function, "differentiable", True))

    @property
    def pixels(self) -> bool:
        return bool(getattr(self.function, "pixels", False))

    def __str__(self) -> str:
        name: str = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{self.called}()" if self.called else f"<{name.strip('<>')}>"


def as_reward(owner: str, value: Any) -> Reward:
    """An object, a function, or an expression such as ``2 * label("runs/clf", "seven") + color("red")``.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, str):
        from fairlead.guide.expression import parse_reward  # which reads what is defined here

        return parse_reward(value)
    if isinstance(value, Reward):
        return value
    if callable(value) and not isinstance(value, type):
        return FunctionReward(value)
    raise UsageError(
        f"{owner}: expected a reward such as brightness(0.8), or a function (x0, t, condition), got {value!r}"
    )


def weighted_parts(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    """(weight, reward) of each that a sum adds up; of any other itself."""
    return reward.parts if isinstance(reward, WeightedSum) else ((1.0, reward),)
