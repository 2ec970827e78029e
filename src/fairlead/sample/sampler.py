"""What a sampler is: a step, and the loop that turns a denoiser, a start and a time grid into a stream of frames."""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser, at_step
from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.core.prediction import Prediction
from fairlead.core.registry import lookup
from fairlead.core.schedule import NoiseSchedule
from fairlead.core.syntax import keywords, number, parsed, quoted, source

Noise = Callable[[int], Tensor]
"""number >= 0 -> fresh unit noise [n, ...] like x_t; a :class:`fairlead.sample.noise.NoiseStream` is one."""
StepDenoiser = Callable[[Tensor, int], Prediction]
"""(x_t, place) -> the prediction at that time of the grid."""
Select = Callable[[int, Tensor, Prediction], Tensor | None]
"""(step, x_t, its prediction) -> the samples to go on with, int64 [n], None for all as they are."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The state after a step.

    Attributes:
        step: the step just taken, from 0.
        steps: how many there are.
        t: time after the step; 0 in the last frame of a full grid.
        x_t: the state at that time, [n, ...].
        prediction: what the denoiser returned at the beginning of the step.
    """

    step: int
    steps: int
    t: float
    x_t: Tensor
    prediction: Prediction

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class GridLevels:
    """The noise levels of a grid, float64 [steps + 1], and the dtype of the samples that are taken along it."""

    schedule: NoiseSchedule
    times: Tensor
    alpha: Tensor
    sigma: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, schedule: NoiseSchedule, times: Tensor, x_t: Tensor) -> GridLevels:
        return cls(schedule, times, *schedule.alpha_sigma(times), x_t.dtype)

    @cached_property
    def log_snr(self) -> Tensor:
        return self.schedule.log_snr(self.times)

    def each(self, values: Tensor) -> tuple[Tensor, ...]:
        """float64 coefficients as single numbers, rounded once to what x_t is multiplied by. (Of half precision is the
        product, not the factor: torch multiplies in float32.)"""
        return values.to(self.dtype if self.dtype.itemsize >= 4 else values.dtype).unbind()


@dataclass(frozen=True)
class Sampler(ABC):
    """One step, and settings only: history is in the memory of a run, so one sampler may drive many.

    ``str`` gives an expression such as ``ddim(eta=0.5)`` that :func:`parse_sampler` reads back.
    """

    name: ClassVar[str]
    """Its name in the registry."""
    order: ClassVar[int]
    """Order of convergence in the number of steps: of x for an ODE, of the mean and variance of x for an SDE."""
    renoises: ClassVar[bool] = False
    """Whether a step is alpha' x0 plus noise in which ``Prediction.eps`` stands for what was in x_t, so that guidance
    may untie eps from x0 (CFG++)."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise after the start."""
        return False

    @abstractmethod
    def begin(self, levels: GridLevels) -> SimpleNamespace:
        """The memory of one run: the coefficients of every step, and what a step leaves for the next one."""

    @abstractmethod
    def step(
        self, i: int, x_t: Tensor, denoise: StepDenoiser, noise: Noise, memory: SimpleNamespace
    ) -> tuple[Tensor, Prediction]:
        """From time i of the grid to time i + 1.

        Args:
            x_t: [n, ...] at time i. Its dtype and device are kept.
            denoise: may be called several times; guidance sees one step.
            noise: called by stochastic samplers only, with rising numbers: i, where it is one draw a step.
            memory: from :meth:`begin`.

        Returns:
            x_t at time i + 1, and the prediction at the beginning of the step.
        """

    def frames(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        condition: Condition,
        noise: Noise,
        select: Select | None = None,
    ) -> Iterator[Frame]:
        """The loop of every sampler: one frame a step.

        Args:
            denoiser: called with t of shape [], float64; ``at_step`` tells it the step.
            x_t: the start [n, ...], at time ``times[0]``.
            times: float64 [steps + 1] on the CPU, strictly descending in [0, 1] (``fairlead.sample.grids``).
            schedule: of the denoiser.
            condition: of n samples.
            noise: see :meth:`step`.
            select: chooses among the samples before each step, see :data:`Select`. The prediction that it sees is the
                first of the step, and costs nothing more.
        """
        memory = self.begin(GridLevels.of(schedule, times, x_t))
        at, after, steps = times.unbind(), times[1:].tolist(), len(times) - 1
        for i in range(steps):
            denoise = _denoise(at_step(denoiser, i), at, condition)
            if select is not None:
                x_t, denoise = _selected(i, x_t, denoise, memory, select)
            x_t, prediction = self.step(i, x_t, denoise, noise, memory)
            yield Frame(i, steps, after[i], x_t, prediction)

    def __str__(self) -> str:
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


def _denoise(denoiser: Denoiser, times: Sequence[Tensor], condition: Condition) -> StepDenoiser:
    return lambda x_t, place: denoiser(x_t, times[place], condition)


def _selected(
    i: int, x_t: Tensor, denoise: StepDenoiser, memory: SimpleNamespace, select: Select
) -> tuple[Tensor, StepDenoiser]:
    """The samples to go on with, and their denoiser, which knows the first prediction already."""
    first = denoise(x_t, i)
    rows = select(i, x_t, first)
    if rows is not None:
        x_t, first = x_t[rows], first[rows]
        for name, value in vars(memory).items():
            if isinstance(value, Tensor) and value.ndim and len(value) == len(rows):  # what it keeps of the samples
                setattr(memory, name, value[rows])
    known = x_t

    def once(x: Tensor, place: int) -> Prediction:
        return first if x is known and place == i else denoise(x, place)

    return x_t, once


def parse_sampler(text: str) -> Sampler:
    """A sampler from its expression: ``ddim``, ``ddim()`` or ``ddim(eta=0.5)``; read as syntax, never evaluated.

    Raises:
        UsageError: not such an expression, an unknown name or setting, or a value that is not a number.
    """
    if not isinstance(text, str):
        raise UsageError(f"sampler: expected an expression such as 'ddim' or 'ddim(eta=0.5)', got {shown(text)}")
    name, settings_given = _call(text)
    sampler_type: type[Sampler] = lookup("sampler", name)
    settings = _settings_of(name)
    arguments: dict[str, float] = {}
    for key, node in settings_given.items():
        if key not in settings:
            if not settings:
                raise UsageError(f"sampler {name!r} has no settings; got {shortened(key)}, write {name!r}")
            raise unknown(f"setting of sampler {name!r}", key, settings)
        value = number(node)
        if value is None or not math.isfinite(value):  # all settings of samplers are numbers
            raise UsageError(f"sampler setting {name}({key}=...): expected a number, got {source(node, text)}")
        arguments[key] = float(value)
    return sampler_type(**arguments)


def _settings_of(name: str) -> list[str]:
    return [f.name for f in fields(lookup("sampler", name))]


def _call(text: str) -> tuple[str, dict[str, ast.expr]]:
    """Name and settings of ``name`` or ``name(keyword=value, ...)``."""
    advice = "expected a name with keyword settings only, such as ddim or ddim(eta=0.5)"
    try:
        node: ast.expr | None = parsed(text, "sampler", advice)
    except UsageError:
        node = None
    if isinstance(node, ast.Name):
        return node.id, {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise unknown(f"setting of sampler {node.func.id!r}", None, _settings_of(node.func.id))
        return node.func.id, keywords(node, shortened(node.func.id)[1:-1], "sampler", text)
    raise UsageError(f"sampler {quoted(text)}: {advice}")
