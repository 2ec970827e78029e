"""Time grids: (schedule, steps) -> float64 [steps + 1] on the CPU, strictly descending, ending at exactly 0.

Step i goes from time i to time i + 1 of the grid: a sampler reads the previous time here and never computes it.
On a schedule with a table of T steps, ``trailing``, ``leading`` and ``linspace`` land on the table, t = (k + 1) / T,
with the k of diffusers' DDIMScheduler (``steps_offset=0``); differences are listed function by function.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fairlead.core.arguments import plain
from fairlead.core.errors import UsageError
from fairlead.core.registry import lookup, names
from fairlead.core.schedule import NoiseSchedule
from fairlead.core.syntax import number, parsed, quoted, source

KARRAS_RHO = 7.0
SMALLEST_RATIO = 0.002
"""sigma / alpha at which ``karras`` and ``log_snr`` end on a continuous schedule: EDM's sigma_min (2206.00364)."""
SMALLEST_TIME = 1e-3
"""Last time of ``leading`` and ``linspace`` on a continuous schedule: the first entry of a table of 1000."""


class GridFunction(Protocol):
    def __call__(self, schedule: NoiseSchedule, steps: int) -> Tensor: ...


def make_grid(name: str, schedule: NoiseSchedule, steps: int) -> Tensor:
    """The registered grid ``name``; or ``sigmas(3.4, 1.5, 0.2)``: the noise levels sigma / alpha at which the second
    step and those after it begin, where the first begins at pure noise, t = 1. They fall between the entries of a table
    and are not rounded. With few steps it matters much which they are.

    Raises:
        UsageError: for what :func:`check_grid` refuses, more steps than the schedule's table has, or a level that it
            does not reach.
    """
    steps = plain(steps)
    given = check_grid(name, steps)
    if given is None:
        grid: GridFunction = lookup("grid", name)
        return grid(schedule, steps)
    _check(schedule, steps)
    highest = float(schedule.ratio(torch.ones((), dtype=torch.float64)))
    if given and not given[0] < highest:
        raise UsageError(f"grid {quoted(name)}: the schedule begins at {highest:g}; expected noise levels below that")
    return _close(np.append(1.0, schedule.t_of_ratio(torch.tensor(given, dtype=torch.float64)).numpy()))


def check_grid(name: str, steps: int) -> list[float] | None:
    """The noise levels of ``sigmas(...)``; None for the name of a grid.

    Raises:
        UsageError: if it is neither, or levels are not as many as the steps need.
    """
    given = _sigmas(name)
    if given is None:
        if isinstance(name, str) and name == "sigmas":
            raise UsageError("grid 'sigmas' needs the noise levels; write e.g. sigmas(3.4, 1.5, 0.2) for 4 steps")
        lookup("grid", name)
    elif len(given) != steps - 1:
        raise UsageError(
            f"grid {quoted(name)} is for {len(given) + 1} steps, as the first begins at pure noise; got steps {steps}"
        )
    return given


def _sigmas(text: str) -> list[float] | None:
    """The numbers of ``sigmas(...)``; None for a text without brackets."""
    if not isinstance(text, str) or "(" not in text:
        return None
    instead = f"write {', '.join(names('grid'))}, or e.g. sigmas(3.4, 1.5, 0.2)"
    node = parsed(text, "grid", instead)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "sigmas":
        raise UsageError(f"grid {quoted(text)}: expected a name; {instead}")
    if node.keywords:
        raise UsageError(f"grid {quoted(text)}: noise levels have no names; {instead}")
    found: list[float] = []
    for argument in node.args:
        value = number(argument)
        if value is None or not math.isfinite(value) or value <= 0 or (found and value >= found[-1]):
            raise UsageError(
                f"grid {quoted(text)}: expected noise levels above 0, each below the one before, got "
                f"{source(argument, text)[1:-1]}"
            )
        found.append(float(value))
    return found


def trailing(schedule: NoiseSchedule, steps: int) -> Tensor:
    """From pure noise, equally spaced (Lin et al. 2023, 2305.08891, table 2): t_i = 1 - i / steps.

    For some step counts (61 of 1000, say) diffusers' ``np.arange`` returns one time too many, k = -1; it is cut off.
    """
    size = _check(schedule, steps)
    if size is None:
        return _close(1 - np.arange(steps) / steps)
    return _on_table(np.round(np.arange(size, 0, -size / steps))[:steps] - 1, size)


def leading(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Multiples of T // steps from k = 0, as DDPM and DDIM code had it. It does not start at pure noise (2305.08891).

    Continuous: t = i / steps + 1/1000, without rounding to a table (+ 1 / steps above 1000 steps).
    """
    size = _check(schedule, steps)
    if size is None:
        return _close(np.arange(steps)[::-1] / steps + min(SMALLEST_TIME, 1 / steps))
    return _on_table(np.arange(steps)[::-1] * (size // steps), size)


def linspace(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Both ends included: k from T - 1 to 0, rounded; continuous from 1 to 1/1000.

    One step starts at t = 1 (diffusers' DDIMScheduler starts it at k = 0, DPMSolverMultistepScheduler at k = T - 1).
    """
    size = _check(schedule, steps)
    if size is None:
        return _close(np.linspace(1, SMALLEST_TIME, steps))
    return _on_table(np.linspace(0, size - 1, steps).round()[::-1] if steps > 1 else np.array([size - 1]), size)


def karras(schedule: NoiseSchedule, steps: int) -> Tensor:
    """ratio^(1/7) linear, ratio = sigma / alpha, from the level of t = 1 to the smallest (2206.00364, eq. 5).

    The smallest is the first table entry, or :data:`SMALLEST_RATIO` on a continuous schedule. Where the ratio is
    infinite at t = 1, the ramp is that from the last finite table entry (continuous: t = 0.999), and its first point
    is moved to t = 1, so no step is spent on the gap. Times fall between table entries; they are not rounded.
    """
    return _by_level(schedule, steps, lambda ratio: ratio ** (1 / KARRAS_RHO), lambda root: root**KARRAS_RHO)


def uniform_log_snr(schedule: NoiseSchedule, steps: int) -> Tensor:
    """log-SNR linear (DPM-Solver, 2206.00927), between the same ends as :func:`karras`."""
    return _by_level(schedule, steps, torch.log, torch.exp)


def _by_level(
    schedule: NoiseSchedule, steps: int, warp: Callable[[Tensor], Tensor], unwarp: Callable[[Tensor], Tensor]
) -> Tensor:
    size = _check(schedule, steps)
    highest = schedule.ratio(torch.ones((), dtype=torch.float64))
    if math.isinf(highest):
        highest = schedule.ratio(torch.tensor((size - 1) / size if size else 1 - SMALLEST_TIME, dtype=torch.float64))
    first = torch.tensor(1 / size if size else 0.0, dtype=torch.float64)
    lowest = schedule.ratio(first) if size else torch.tensor(SMALLEST_RATIO, dtype=torch.float64)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    times = schedule.t_of_ratio(unwarp(warp(highest) + ramp * (warp(lowest) - warp(highest)))).numpy()
    if size:
        times[-1] = first
    times[0] = 1.0
    return _close(times)


def _check(schedule: NoiseSchedule, steps: int) -> int | None:
    """The table size of the schedule, once ``steps`` is known to fit."""
    size = schedule.table_size
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1 or (size is not None and steps > size):
        expected = f"from 1 to {size}, the steps of the schedule's table" if size else "of at least 1"
        raise UsageError(f"steps {steps!r}: expected an integer {expected}")
    return size


def _on_table(indices: np.ndarray, size: int) -> Tensor:
    return _close((indices + 1) / size)


def _close(times: np.ndarray) -> Tensor:
    return torch.from_numpy(np.append(times, 0.0).astype(np.float64))
