"""The denoiser protocol, the count of what it costs, and how a sampler names the step it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.prediction import Objective, Prediction, check_pair
from fairlead.core.schedule import NoiseSchedule, as_time


class Denoiser(Protocol):
    """Anything called as ``(x_t, t, condition) -> Prediction``; a guided denoiser is one too."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """
        Args:
            x_t: [n, ...] noisy samples.
            t: float64 times in (0, 1], of shape [] or [n].
            condition: of n samples.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A denoiser whose answer depends on the sampler's step (schedules, intervals, momentum)."""

    def at(self, step: int) -> Denoiser:
        """The denoiser of this step, wherever inside it the sampler evaluates (a Heun corrector stays in its step)."""
        ...


def at_step(denoiser: Denoiser, step: int) -> Denoiser:
    return denoiser.at(step) if isinstance(denoiser, Stepwise) else denoiser


@dataclass
class Cost:
    """Network rows evaluated and network calls made."""

    rows: int = 0
    calls: int = 0


_COSTS: ContextVar[tuple[Cost, ...]] = ContextVar("fairlead_costs", default=())


@contextmanager
def counting() -> Iterator[Cost]:
    """Count the rows and calls of every network evaluated inside the block, in this thread or task; nests."""
    cost = Cost()
    token = _COSTS.set((*_COSTS.get(), cost))
    try:
        yield cost
    finally:
        _COSTS.reset(token)


def tally(rows: int) -> None:
    """Called where a network is called, once per call, and nowhere else."""
    for cost in _COSTS.get():
        cost.rows += rows
        cost.calls += 1


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """A per-sample [n] or scalar [] value as [n, 1, ...] or [1, ...], in the dtype and on the device of x [n, ...]."""
    value = value.to(device=x.device, dtype=x.dtype)
    return value.reshape(-1, *([1] * (x.ndim - 1)))


class NetworkDenoiser:
    """A denoiser from a network ``(x, time [n], condition) -> output``.

    Args:
        network: returns the ``objective``'s quantity, [n, ...] like x. Its ``time`` is ``schedule.network_time(t)``.
        schedule: the schedule it was trained with.
        objective: "eps", "v", "x0" or "flow".

    Raises:
        UsageError: for an eps network on a schedule with zero terminal SNR.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Condition], Tensor],
        schedule: NoiseSchedule,
        objective: Objective,
    ) -> None:
        check_pair(objective, schedule)
        self.network, self.schedule, self.objective = network, schedule, objective

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        t = as_time(t)
        alpha, sigma = (expand_like(value, x_t) for value in self.schedule.alpha_sigma(t))
        inputs = x_t * expand_like(self.schedule.input_scale(t), x_t)
        time = self.schedule.network_time(t).to(x_t.device, torch.float32).expand(len(x_t))
        output = self.network(inputs, time, condition).to(x_t.dtype)
        tally(len(x_t))  # after the call: one that ran out of memory evaluated nothing
        return Prediction.from_output(output, self.objective, x_t, alpha, sigma)
