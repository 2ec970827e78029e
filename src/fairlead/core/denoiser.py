"""The denoiser protocol, the count of what it costs, and how a sampler names the step it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.prediction import Mixing, Objective, Prediction, TiedPrediction, check_pair
from fairlead.core.schedule import NoiseSchedule, as_schedule, as_time


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


def at_step(denoiser: Denoiser, step: int) -> Denoiser:
    """The denoiser of this step, wherever inside it the sampler evaluates (a Heun corrector stays in its step).

    A denoiser whose answer depends on the step (schedules, intervals, momentum) has a method ``at(step)``.
    """
    at: Callable[[int], Denoiser] | None = getattr(denoiser, "at", None)
    return denoiser if at is None else at(step)


X0Denoiser = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser is, with the x0 alone for an answer."""


def x0_of(denoiser: Denoiser) -> X0Denoiser:
    """The x0 that a denoiser predicts, without the eps where it has a method ``x0`` that spares it."""
    alone: X0Denoiser | None = getattr(denoiser, "x0", None)
    return alone or (lambda x_t, t, condition: denoiser(x_t, t, condition).x0)


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


class CountingDenoiser:
    """A denoiser whose rows are counted here, call by call, unless it counts some itself."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        if hasattr(denoiser, "x0"):
            self.x0 = self._counting(denoiser.x0)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        answer: Prediction = self._counting(self.inner)(x_t, t, condition)
        return answer

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "x0", "at"):  # a denoiser of one step is another one, uncounted
            raise AttributeError(name)
        return getattr(self.inner, name)

    def _counting(self, asked: Callable[..., Any]) -> Callable[..., Any]:
        def counted(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
            with counting() as cost:
                answer = asked(x_t, t, condition)
            if not cost.rows:
                tally(len(x_t))
            return answer

        return counted


def counted(denoiser: Denoiser) -> Denoiser:
    """The denoiser, in :class:`CountingDenoiser` where its class does not say that it ``counts`` its rows itself."""
    return (
        denoiser
        if "counts" in vars(type(denoiser)) or isinstance(denoiser, CountingDenoiser)
        else CountingDenoiser(denoiser)
    )


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Networks inside the block compute in ``dtype``, None for that of their weights; free where that is so already."""
    same = dtype == lowered(device)
    return nullcontext() if same else torch.autocast(device.type, dtype, enabled=dtype is not None)


def lowered(device: torch.device) -> torch.dtype | None:
    """What networks compute in around this call, None for the precision of their weights."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """A per-sample [n] or scalar [] value as [n, 1, ...] or [1, ...], in the dtype and on the device of x [n, ...]."""
    value = value.to(device=x.device, dtype=x.dtype, non_blocking=x.is_cuda)  # a GPU is not waited for
    return value.reshape(-1, *([1] * (x.ndim - 1)))


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """A noise level as a network needs it: ``mixing`` and ``input_scale`` broadcast against x_t, the latter is None
    where it is 1; ``time`` is what the network gets, float32."""

    mixing: Mixing
    input_scale: Tensor | None
    time: Tensor

    @cached_property
    def times(self) -> dict[int, Tensor]:
        """``time`` of n samples, [n]; a run asks for it again and again."""
        return _Times(self.time)


class _Times(dict[int, Tensor]):
    def __init__(self, time: Tensor) -> None:
        self.time = time

    def __missing__(self, n: int) -> Tensor:
        self[n] = self.time.expand(n)
        return self[n]


def level_at(schedule: NoiseSchedule, t: Tensor, x_t: Tensor) -> NoiseLevel:
    """The level of times t [] or [n] for x_t [n, ...], in its dtype and on its device. Single times are remembered: a
    run asks for each of them several times, and the arithmetic on single numbers would cost more than a small network.
    """
    if isinstance(t, Tensor) and (t.ndim or t.device.type != "cpu"):
        return _level(schedule, t, x_t)
    key, known = (float(t), x_t.dtype, x_t.device, x_t.ndim), schedule.remembered
    level: NoiseLevel | None = known.get(key)
    if level is None:
        if len(known) >= 4096:
            known.clear()
        with torch.inference_mode(False):
            level = known[key] = _level(schedule, t, x_t)
    return level


def remember_levels(schedule: NoiseSchedule, times: Tensor, x_t: Tensor) -> None:
    """Work out :func:`level_at` for all times [steps] of a run at once, which takes as long as for one of them."""
    with torch.inference_mode(False):
        together = _level(schedule, times, x_t.new_empty(1, *x_t.shape[1:]))
        scales = together.input_scale
        for i, t in enumerate(times.tolist()):
            scale = None if scales is None or float(scales[i]) == 1 else scales[i : i + 1]
            mixing = Mixing(together.mixing.alpha[i : i + 1], together.mixing.sigma[i : i + 1])
            level = NoiseLevel(mixing, scale, together.time[i])
            schedule.remembered.setdefault((t, x_t.dtype, x_t.device, x_t.ndim), level)


def _level(schedule: NoiseSchedule, t: Tensor, x_t: Tensor) -> NoiseLevel:
    t = as_time(t)
    alpha, sigma = (expand_like(value, x_t) for value in schedule.alpha_sigma(t))
    scale = schedule.input_scale(t)
    plain = t.ndim == 0 and float(scale) == 1
    time = schedule.network_time(t).to(x_t.device, torch.float32)
    return NoiseLevel(Mixing(alpha, sigma), None if plain else expand_like(scale, x_t), time)


class NetworkDenoiser:
    """A denoiser from a network ``(x, time [n], condition) -> output``.

    Args:
        network: returns the ``objective``'s quantity, [n, ...] like x. Its ``time`` is ``schedule.network_time(t)``.
        schedule: the schedule it was trained with, or its name.
        objective: "eps", "v", "x0" or "flow".

    Raises:
        UsageError: for an eps network on a schedule with zero terminal SNR.
    """

    counts = True

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Condition], Tensor],
        schedule: NoiseSchedule | str,
        objective: Objective,
    ) -> None:
        schedule = as_schedule(schedule)
        check_pair(objective, schedule)
        self.network, self.schedule, self.objective = network, schedule, objective

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        output, mixing = self._asked(x_t, t, condition)
        return TiedPrediction(mixing.x0_of(output, self.objective, x_t), x_t, mixing)

    def x0(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The x0 of the prediction, without the eps; see :func:`x0_of`."""
        output, mixing = self._asked(x_t, t, condition)
        return mixing.x0_of(output, self.objective, x_t)

    def _asked(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Mixing]:
        level, n = level_at(self.schedule, t, x_t), x_t.shape[0]
        inputs = x_t if level.input_scale is None else x_t * level.input_scale
        output = self.network(inputs, level.times[n], condition)
        tally(n)  # after the call: one that ran out of memory evaluated nothing
        return output if output.dtype == x_t.dtype else output.to(x_t.dtype), level.mixing
