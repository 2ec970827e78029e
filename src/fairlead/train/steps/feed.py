"""What each training step reads, made by a thread while earlier steps compute.

It is a pure function of (seed, step), so where and when it is made changes no bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.train.objective import Draw, drop_condition
from fairlead.train.tasks import scale_drawn

if TYPE_CHECKING:
    from fairlead.core.schedule import NoiseSchedule
    from fairlead.data.batches import Batches, RecordedBatches
    from fairlead.data.latents import LatentBatches
    from fairlead.train.conditions import DataConditions
    from fairlead.train.config import TrainConfig
    from fairlead.train.tasks import Denoise

AHEAD = 2
"""Steps whose data are made before they are asked for."""


@dataclass(frozen=True, eq=False)
class StepData:
    """One process's share of a step.

    Attributes:
        x0: float32 [b, ...], images in [-1, 1] or latents.
        labels: int64 [b].
        draw: times, noise and dropped conditions of these samples; times and masks stay on the CPU.
        inputs: what the network is called with; of a student also what its teacher is asked, see ``train.tasks``.
    """

    x0: Tensor
    labels: Tensor
    draw: Draw
    inputs: tuple[Any, ...]

    def pinned(self) -> StepData:
        """In memory from which a GPU reads while this process goes on."""
        return self._changed(lambda value: value.pin_memory())

    def to(self, device: torch.device) -> StepData:
        """On the device, or on its way there; what the device does next waits for it."""
        return self._changed(lambda value: value.to(device, non_blocking=device.type == "cuda"))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> StepData:
        inputs = [
            v.mapped(change) if isinstance(v, Condition) else None if v is None else change(v) for v in self.inputs
        ]
        draw = replace(self.draw, eps=change(self.draw.eps))
        return StepData(change(self.x0), change(self.labels), draw, tuple(inputs))


@dataclass(frozen=True, eq=False)
class StepSource:
    """Makes the data of any step for process ``rank`` of ``world``, in so many ``parts``.

    Attributes:
        shape: of one sample's noise.
        drops: name of a condition -> probability of losing it.
    """

    batches: Batches | LatentBatches | RecordedBatches
    conditions: DataConditions | None
    task: Denoise
    config: TrainConfig
    schedule: NoiseSchedule
    drops: dict[str, float]
    shape: tuple[int, ...]
    rank: int = 0
    world: int = 1
    parts: int = 1

    def of(self, step: int, part: int = 0) -> StepData:
        """The data of a part of ``step`` >= 0, on the CPU."""
        config, rank, world = self.config, self.rank * self.parts + part, self.world * self.parts
        x0, labels = self.batches.batch(step, rank, world)
        draws = config.seed, step, config.drop_all, self.task.levels
        draw = Draw.of(config.batch_size, self.shape, self.drops, *draws).part(rank, world)
        condition = Condition(len(x0))
        if self.conditions is not None:
            index = self.batches.index(step, rank, world)
            condition = self.conditions.drawn(index, x0, config, step, rank, world)
        condition = scale_drawn(drop_condition(condition, draw.dropped), draw, config)
        inputs = self.task.inputs(x0, draw, condition, self.schedule)
        return StepData(x0, labels, draw, inputs)


class StepFeed:
    """The data of one part of a step after another, on ``device``.

    A thread makes the next ``AHEAD``, up to step ``end``. It begins with the first that is asked for, and is gone after
    :meth:`close`, with the last reference to the feed, and when the process ends.
    """

    def __init__(self, source: StepSource, end: int, device: torch.device) -> None:
        self.source, self.end, self.device = source, end, device
        self._thread: ThreadPoolExecutor | None = None
        self._coming: dict[tuple[int, int], Future[StepData]] = {}

    def of(self, step: int, part: int = 0) -> StepData:
        """The data of a part of ``step``; what went wrong as they were made is raised here."""
        if self._thread is None:
            self._thread = _one_thread(self.device)
            # also where a process ends with a training in the middle, before what ending a thread takes is taken down
            self._end = weakref.finalize(self, self._thread.shutdown, cancel_futures=True)
        parts = self.source.parts
        first = step * parts + part
        last = max(first + 1, min(first + 1 + AHEAD, self.end * parts))
        coming = {}
        for place in (divmod(i, parts) for i in range(first, last)):
            known = self._coming.get(place)
            coming[place] = known or self._thread.submit(_made, self.source, *place, self.device)
        data = coming.pop((step, part)).result()
        self._coming = coming
        return data.to(self.device)

    def close(self) -> None:
        """End the thread; the next step asked for begins another."""
        if self._thread is not None:
            self._end()
        self._thread, self._coming = None, {}


def _made(source: StepSource, step: int, part: int, device: torch.device) -> StepData:
    data = source.of(step, part)
    return data.pinned() if device.type == "cuda" else data


def _one_thread(device: torch.device) -> ThreadPoolExecutor:
    """A thread that computes by itself, so that it takes no core from those that train for more than it needs."""
    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(1, "fairlead-feed")
    executor.submit(_settle, device).result()
    torch.set_num_threads(threads)  # of this thread, and of all that begin later; the other keeps its own
    return executor


def _settle(device: torch.device) -> None:
    torch.get_num_threads()  # which lets a new thread take the number of all
    torch.set_num_threads(1)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # pinned memory belongs to the thread's device
