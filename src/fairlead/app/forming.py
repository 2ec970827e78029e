"""Images that form: several plans in lockstep, and after every step what they look like and what guidance did."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import to_uint8
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.trace import Trace, Tracing

SHARE = 0.25
"""Of the time goes at most this much into pictures of unfinished steps: decoders of latents are slow."""


@dataclass(frozen=True, eq=False)
class Side:
    """How far one plan is.

    Attributes:
        step: steps that are taken.
        images: uint8 [n, c, h, w], the guided x0 at the last step that was drawn, at the end the samples.
        tracing: what the guidance did so far.
        run: the result, once it is there.
        broken: why there will be none; "" if nothing is wrong.
    """

    plan: Plan
    step: int
    images: Tensor | None
    tracing: Tracing
    run: Run | None = None
    broken: str = ""

    @property
    def steps(self) -> int:
        return self.plan.sampling.steps

    @property
    def trace(self) -> Trace:
        return Trace(**self.tracing.so_far(film=False))

    @property
    def ended(self) -> bool:
        return self.run is not None or bool(self.broken)


FormingSides = Mapping[str, Side]


def forming(plans: Mapping[str, Plan]) -> Iterator[FormingSides]:
    """The state of all plans before the first step, after every step, and with the results.

    Raises:
        UsageError: for a model whose samples are no images.
    """
    tracings = {name: Tracing(plan) for name, plan in plans.items()}
    streams = {name: tracing.frames() for name, tracing in tracings.items()}
    sides = {name: Side(plan, 0, None, tracings[name]) for name, plan in plans.items()}
    yield sides
    rest = dict.fromkeys(plans, 0.0)
    """When the next picture of a side may be drawn."""
    while streams:
        for name, stream in list(streams.items()):
            side = sides[name]
            try:
                frame = next(stream, None)
                if frame is None:
                    sides = {**sides, name: _finished(side)}
                    del streams[name]
                else:
                    images, now = side.images, time.perf_counter()
                    if now >= rest[name] and frame.step + 1 < side.steps:
                        images = _pictures(side.plan, frame.prediction.x0)
                        spent = time.perf_counter() - now
                        rest[name] = now + spent / SHARE
                    sides = {**sides, name: Side(side.plan, frame.step + 1, images, side.tracing)}
            except UsageError as error:
                sides = {**sides, name: Side(side.plan, side.step, side.images, side.tracing, None, str(error))}
                del streams[name]
        yield sides


def _finished(side: Side) -> Side:
    run = side.tracing.run()
    if run.images is None:
        raise UsageError("this model's samples are not images; see them with `fairlead sample`")
    return Side(side.plan, side.steps, run.images, side.tracing, run)


def _pictures(plan: Plan, x0: Tensor) -> Tensor | None:
    """uint8 [n, c, h, w] of a prediction; None where it is not finite."""
    with torch.no_grad():
        decoded = plan.model.decode(x0.float())
    return to_uint8(decoded.cpu()) if decoded.ndim == 4 and bool(decoded.isfinite().all()) else None
