"""Where in a run the sampler is: what scales, intervals and terms may depend on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule


@dataclass(frozen=True)
class Grid:
    """The sampler's times [steps + 1], descending, with their noise levels."""

    times: tuple[float, ...]
    log_snr: tuple[float, ...]
    sigma: tuple[float, ...]

    @classmethod
    def of(cls, times: Tensor, schedule: NoiseSchedule) -> Grid:
        return cls(
            tuple(times.tolist()), tuple(schedule.log_snr(times).tolist()), tuple(schedule.ratio(times).tolist())
        )

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def index(self, t: float) -> int:
        """The step during which time t is passed: times[i] >= t > times[i + 1]."""
        return next((i for i in range(self.steps) if t > self.times[i + 1]), self.steps - 1)


@dataclass(frozen=True)
class Step:
    """One step of a run, at the noise level where it starts.

    Attributes:
        t: time; ``sigma``: the ratio sigma / alpha; ``log_snr``: log of alpha^2 / sigma^2.
        index: of the step, from 0, None when the denoiser is called without a grid.
        grid: of the whole run, None likewise.
        samples: indices within the run of the samples in this batch.
    """

    t: float
    sigma: float
    log_snr: float
    index: int | None = None
    grid: Grid | None = None
    samples: tuple[int, ...] = ()

    def pick(self, values: tuple[float, ...]) -> Tensor:
        """Per-sample values of the run -> those of this batch, float64 [n]."""
        return torch.tensor([values[i] for i in self.samples], dtype=torch.float64)

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
