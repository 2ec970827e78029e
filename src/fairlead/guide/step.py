"""Where in a run the sampler is: what scales, intervals and terms may depend on."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule
from fairlead.guide.notation import literal


@dataclass(frozen=True)
class Grid:
    """The sampler's times [steps + 1], descending, with their noise levels."""

    times: tuple[float, ...]
    log_snr: tuple[float, ...]
    sigma: tuple[float, ...]

    @classmethod
    def of(cls, times: Tensor, schedule: NoiseSchedule) -> Grid:
        if not isinstance(times, Tensor) or times.ndim != 1 or len(times) < 2 or not bool((times.diff() <= 0).all()):
            raise UsageError(f"times: expected a descending tensor [steps + 1], as make_grid gives, got {shown(times)}")
        return cls(
            tuple(times.tolist()), tuple(schedule.log_snr(times).tolist()), tuple(schedule.ratio(times).tolist())
        )

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def index(self, t: float) -> int:
        """The step during which time t is passed: times[i] >= t > times[i + 1]."""
        return next((i for i in range(self.steps) if t > self.times[i + 1]), self.steps - 1)


class Memory:
    """What the terms of one run remember between steps (momentum, flags, caches).

    Keyed by step: a sampler that evaluates twice in a step sees in both the state before the step, and the first
    evaluation decides the state after it. A step before the last one seen begins a new run with empty memory.
    """

    def __init__(self) -> None:
        self._slots: dict[Hashable, tuple[int | None, Any, Any]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing is remembered."""
        return not self._slots

    def begin(self, step: int | None) -> None:
        """Called at every evaluation, before anything is read."""
        if step is not None and self._slots and any(at is not None and step < at for at, _, _ in self._slots.values()):
            self._slots.clear()

    def read(self, key: Hashable, step: int | None) -> Any:
        """What was written under ``key`` in the steps before this one, None at first."""
        at, before, after = self._slots.get(key, (None, None, None))
        return before if step is not None and at == step else after

    def write(self, key: Hashable, step: int | None, value: Any) -> None:
        at, _, after = self._slots.get(key, (None, None, None))
        if step is None or at != step:
            self._slots[key] = (step, after, value)

    def select(self, rows: Tensor) -> None:
        """Of n samples go on with ``rows`` (int64 [n]): every tensor [n, ...] in what is remembered is taken there."""
        self._slots = {key: (at, _taken(before, rows), _taken(after, rows)) for key, (at, before, after) in
                       self._slots.items()}  # fmt: skip


def _taken(value: Any, rows: Tensor) -> Any:
    """``value[rows]`` for a tensor of as many samples, also inside of tuples and dataclasses."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and len(value) == len(rows) else value
    if isinstance(value, tuple):
        return tuple(_taken(entry, rows) for entry in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _taken(getattr(value, each.name), rows) for each in fields(value)})
    return value


@dataclass(frozen=True)
class Step:
    """One step of a run, at the noise level where it starts.

    Attributes:
        t: time; ``sigma``: the ratio sigma / alpha; ``log_snr``: log of alpha^2 / sigma^2.
        index: of the step, from 0, None when the denoiser is called without a grid.
        grid: of the whole run, None likewise.
        samples: indices within the run of the samples in this batch.
        shape: of one sample, for maps over pixels.
        memory: of the run.
    """

    t: float
    sigma: float
    log_snr: float
    index: int | None = None
    grid: Grid | None = None
    samples: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    memory: Memory = field(default_factory=Memory, compare=False)

    @classmethod
    def of(
        cls,
        grid: Grid,
        index: int,
        samples: tuple[int, ...] = (),
        shape: tuple[int, ...] = (),
        memory: Memory | None = None,
    ) -> Step:
        """A step of the grid."""
        level = grid.times[index], grid.sigma[index], grid.log_snr[index]
        return cls(*level, index, grid, samples, shape, Memory() if memory is None else memory)

    def pick(self, values: tuple[float, ...]) -> Tensor:
        """Per-sample values of the run -> those of this batch, float64 [n]."""
        return torch.tensor([values[i] for i in self.samples], dtype=torch.float64)

    def recall(self, key: Hashable) -> Any:
        """What was remembered under ``key`` in earlier steps, None at first."""
        return self.memory.read(key, self.index)

    def remember(self, key: Hashable, value: Any) -> None:
        """Keep a value for later steps; within a step the first call counts."""
        self.memory.write(key, self.index, value)

    def progress(self, by: str) -> float:
        """1 - t by "t"; by "log_snr" or "progress" (share of the steps) from 0 at the start to 1 at the last step."""
        if by == "t":
            return 1 - self.t
        if self.grid is None or self.index is None:
            raise UsageError(f'a ramp by="{by}" needs the sampler\'s grid: sample with fl.sample, or ramp by="t"')
        last = self.grid.steps - 1
        if last == 0:
            return 0.0
        if by == "progress":
            return self.index / last
        finite = [level for level in self.grid.log_snr[:-1] if level > float("-inf")]
        if self.log_snr >= finite[-1] or self.log_snr <= finite[0]:  # also where there is one finite level only
            return float(self.log_snr >= finite[-1])
        return (self.log_snr - finite[0]) / (finite[-1] - finite[0])


@dataclass(frozen=True)
class Interval:
    """The noise levels at which a term is on: low < level <= high in sigma and t (2404.07724).

    The noisy end is included and the clean end is not, in every unit; in log-SNR, which falls as noise grows, that is
    low <= level < high.

    Attributes:
        unit: "sigma" is the ratio sigma / alpha (EDM's sigma; also on VP and flow models), "log_snr", or "t".
    """

    unit: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.unit not in ("sigma", "log_snr", "t"):
            raise UsageError(f"interval: unknown unit {self.unit!r} (known: sigma, log_snr, t)")
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise UsageError(
                f"interval {self.unit}=({self.low:g}, {self.high:g}) is empty: expected (low, high) with low < high"
            )

    def contains(self, step: Step) -> bool:
        return self.holds(getattr(step, self.unit))

    def holds(self, level: float) -> bool:
        """Whether a level, in this interval's unit, lies inside."""
        return self.low <= level < self.high if self.unit == "log_snr" else self.low < level <= self.high

    def __str__(self) -> str:
        return f".during({self.unit}=({literal(self.low)}, {literal(self.high)}))"
