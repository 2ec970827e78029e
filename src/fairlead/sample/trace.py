"""What a guidance does, step by step: a run is carried out as usual, and every evaluation of its guidance is measured.

Watching costs no network rows and changes no bits. What a comparison needs and the guidance itself did not evaluate
stays unknown (nan), unless ``compare`` asks for it; those rows are counted apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.denoiser import Cost, counting
from fairlead.core.errors import UsageError
from fairlead.models.model import Spec
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Frame
from fairlead.sample.watcher import PER_STEP, PER_TERM, NonFinite, Watcher


@dataclass(frozen=True, eq=False)
class Trace:
    """What a guidance did in a run of n samples; float64, nan where it is not known.

    Where a sampler evaluates twice in a step, the first evaluation is measured; rows are of both.

    Attributes:
        guidance: the expression; ``terms`` and ``finishers`` one by one.
        t, sigma, log_snr: of every step; ``sigma`` is sigma / alpha.
        rows: network rows of every step, of all samples, as without watching.
        alters: whether a term acts through the condition, so that its share cannot be separated (nan there).
        compared_rows: further rows, evaluated only to compare with.
        step: name -> [steps, n], see ``PER_STEP``.
        term: name -> [terms, steps, n], see ``PER_TERM``.
        between: angles between what two terms add, in degrees, [terms, terms, steps, n].
        coefficients: name of a branch -> its coefficient, [steps, n].
        broken: where values stopped being finite; later steps are nan then.
        film: uint8 [rows, 2, columns, c, h, w]: D_c and the guided x0 of the first samples at ``film_steps``; None if
            samples are no images.
        x0: final samples; None if the run broke.
        settings: what else is needed to repeat the run.
    """

    guidance: str
    terms: tuple[str, ...]
    finishers: tuple[str, ...]
    conds: tuple[Spec, ...]
    seeds: tuple[int, ...]
    t: tuple[float, ...]
    sigma: tuple[float, ...]
    log_snr: tuple[float, ...]
    rows: tuple[int, ...]
    alters: tuple[bool, ...]
    compared_rows: int
    step: Mapping[str, Tensor]
    term: Mapping[str, Tensor]
    between: Tensor
    coefficients: Mapping[str, Tensor]
    broken: NonFinite | None
    film: Tensor | None
    film_steps: tuple[int, ...]
    x0: Tensor | None
    settings: dict[str, Any]

    __repr__ = brief

    @classmethod
    def of(cls, plan: Plan, compare: bool = False, on_frame: Callable[[Frame], object] | None = None) -> Self:
        """Carry the plan out and watch.

        Args:
            compare: also evaluate the conditional and the null prediction at steps where the guidance does not.
            on_frame: sees every frame, e.g. for a progress bar.
        """
        tracing = Tracing(plan, compare)
        for frame in tracing.frames():
            if on_frame is not None:
                on_frame(frame)
        return cls(**tracing.so_far())

    @property
    def steps(self) -> int:
        return len(self.t)

    def mean(self, name: str, term: int | None = None) -> list[float]:
        """A value of every step, mean over the samples for which it is known; nan where it is for none."""
        values = self.step[name] if term is None else self.term[name][term]
        return values.nanmean(1).tolist()

    def to_json(self) -> dict[str, Any]:
        """All numbers, JSON-ready: null where unknown, "inf" and "-inf" for infinities."""
        per_term = [
            {
                "term": text,
                **{name: _plain(self.term[name][k]) for name in PER_TERM},
                "angles_to_terms": _plain(self.between[k]),
            }
            for k, text in enumerate(self.terms)
        ]
        return {
            "guidance": self.guidance,
            "conds": list(self.conds),
            "seeds": list(self.seeds),
            **self.settings,
            "t": _plain(self.t),
            "sigma": _plain(self.sigma),
            "log_snr": _plain(self.log_snr),
            "rows": list(self.rows),
            "compared_rows": self.compared_rows,
            "coefficients": {name: _plain(values) for name, values in self.coefficients.items()},
            "mean": {name: _plain(self.mean(name)) for name in PER_STEP},
            "per_seed": {name: _plain(self.step[name]) for name in PER_STEP},
            "terms": per_term,
            "broken": None if self.broken is None else vars(self.broken),
            "meaning": {**PER_STEP, **PER_TERM, "layout": "per_seed and terms hold a list a step, a number per seed"},
        }


class Tracing:
    """A plan that is carried out and watched: the frames, and what is known between any two of them.

    Attributes:
        rows, seconds: of every step, of all samples so far; ``rows`` without those that only compare.
        cost: network rows and calls so far, those that only compare among them.
    """

    def __init__(self, plan: Plan, compare: bool = False) -> None:
        self.plan, self._watcher = plan, Watcher(plan, compare)
        self.rows, self.seconds = [0] * plan.sampling.steps, [0.0] * plan.sampling.steps
        self.cost = Cost()
        self._finals: list[Tensor] = []

    def frames(self) -> Iterator[Frame]:
        """Every step of every batch. Ends early where values stop being finite, which the trace then says."""
        watcher = self._watcher
        for batch in self.plan.batches:
            stream = self.plan.frames(batch, partial(watcher, batch))
            while True:
                began = time.perf_counter()
                try:
                    with counting() as cost:
                        frame = next(stream, None)
                except UsageError:
                    if watcher.broken is None:
                        raise
                    return
                self.cost.rows, self.cost.calls = self.cost.rows + cost.rows, self.cost.calls + cost.calls
                if frame is None:
                    break
                self.rows[frame.step] += cost.rows - watcher.extra_rows
                self.seconds[frame.step] += time.perf_counter() - began
                watcher.compared_rows, watcher.extra_rows = watcher.compared_rows + watcher.extra_rows, 0
                last = frame
                yield frame
            self._finals.append(last.x_t.float().cpu())

    @property
    def broken(self) -> NonFinite | None:
        """Where values stopped being finite."""
        return self._watcher.broken

    def run(self) -> Run:
        """The result, after the last frame.

        Raises:
            UsageError: if values stopped being finite.
        """
        if self.broken is not None:
            raise UsageError(f"sampling {self.plan.guidance}: {self.broken}; lower its scale")
        return self.plan.finish(torch.cat(self._finals), self.cost, sum(self.seconds))

    def so_far(self, film: bool = True) -> dict[str, Any]:
        """The fields of a :class:`Trace`; nan in the steps that are not taken yet. ``film``: with its pictures."""
        plan, watcher, times = self.plan, self._watcher, self.plan.times[:-1]
        return {
            "guidance": str(plan.guidance),
            "terms": tuple(map(str, plan.guidance.terms)),
            "finishers": tuple(map(str, plan.guidance.finishers)),
            "conds": plan.conds,
            "seeds": plan.seeds,
            "t": tuple(times.tolist()),
            "sigma": tuple(plan.model.schedule.ratio(times).tolist()),
            "log_snr": tuple(plan.model.schedule.log_snr(times).tolist()),
            "rows": tuple(self.rows),
            "alters": tuple(watcher.alters),
            "compared_rows": watcher.compared_rows,
            "step": watcher.step,
            "term": watcher.term,
            "between": watcher.between,
            "coefficients": watcher.coefficients,
            "broken": watcher.broken,
            "film": watcher.developed() if film else None,
            "film_steps": watcher.film_steps,
            "x0": torch.cat(self._finals) if watcher.broken is None and self._finals else None,
            "settings": {**plan.sampling.described(), "model": dict(plan.model.metadata), **plan.named()},
        }


def _plain(values: Any) -> Any:
    """Tensors and sequences as lists of JSON numbers."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None if math.isnan(values) else "inf" if values > 0 else "-inf"
    return values
