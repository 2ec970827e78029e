"""A setting is what a sweep varies: checkpoint, guidance, sampler, steps. Here they are multiplied, named, given a
baseline and a key, and what is sampled and measured of one is written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.notation import literal
from fairlead.measure.score import Difference, Score
from fairlead.sample.sampler import parse_sampler


@dataclass(frozen=True)
class Setting:
    """One point of a sweep.

    Attributes:
        checkpoint: as ``fl.load`` takes it: RUN, RUN@step500 (a snapshot of averaged weights too), a folder.
        guidance, sampler: expressions as they print.
        steps: of the sampler.
    """

    checkpoint: str
    guidance: str
    sampler: str = "ddim"
    steps: int = 20

    @property
    def scale(self) -> float | None:
        """See :func:`scale_of`."""
        return scale_of(self.guidance)


def setting_of(entry: Mapping[str, Any]) -> Setting:
    """As the files of a sweep say it."""
    return Setting(entry["checkpoint"], entry["guidance"], entry["sampler"], entry["steps"])


def scale_of(guidance: str) -> float | None:
    """The number w where the guidance is ``cfg(w)``, whatever finishes it (none: 1), else None."""
    terms = to_guidance(guidance).terms
    if not terms:
        return 1.0
    term = terms[0]
    if len(terms) == 1 and isinstance(term, CFG) and term.negative is None and isinstance(term.scale, float):
        return term.scale
    return None


def expand(templates: Sequence[str], scales: Sequence[float]) -> list[str]:
    """Expressions with ``{scale}`` replaced by each scale in turn; every result is parsed, so errors come first.

    Raises:
        UsageError: for a bad expression, one written twice, scales that no template uses or that are missing.
    """
    if not templates or (not scales and any("{scale}" in template for template in templates)):
        raise UsageError("sweep: nothing to measure; give at least one guidance, and one scale where it says {scale}")
    found: list[str] = []
    for template in templates:
        filled = (
            [template.replace("{scale}", literal(scale)) for scale in scales] if "{scale}" in template else [template]
        )
        found += [str(parse(text)) for text in filled]
    if scales and not any("{scale}" in template for template in templates):
        raise UsageError(f"scales {list(scales)} are not used: write {{scale}} in the guidance, e.g. 'cfg({{scale}})'")
    _once("guidance", found)
    return found


def all_settings(
    checkpoints: Sequence[str], guidances: Sequence[str], samplers: Sequence[str], steps: Sequence[int]
) -> list[Setting]:
    """The product of the axes, guidances running fastest, then steps, samplers, checkpoints.

    Raises:
        UsageError: for an axis without a value, a value given twice, an expression of a sampler that cannot be read.
    """
    axes = {"checkpoint": checkpoints, "guidance": guidances, "sampler": samplers, "steps": steps}
    empty = [name for name, values in axes.items() if not values]
    if empty:
        raise UsageError(f"sweep: nothing to measure; give at least one {empty[0]}")
    samplers = [str(parse_sampler(text)) for text in samplers]
    for name, values in {**axes, "sampler": samplers}.items():
        _once(name, [str(value) for value in values])
    return [
        Setting(checkpoint, guidance, sampler, count)
        for checkpoint, sampler, count, guidance in product(checkpoints, samplers, steps, guidances)
    ]


def varying(settings: Sequence[Setting]) -> list[str]:
    """The names of the axes in which the settings differ."""
    return [f.name for f in fields(Setting) if len({getattr(setting, f.name) for setting in settings}) > 1]


def setting_labels(settings: Sequence[Setting]) -> list[str]:
    """A name for each setting among the others: what differs, e.g. ``cfg(2), 10 steps``; the guidance if nothing
    does."""
    axes = varying(settings) or ["guidance"]
    return [name_of(setting, axes) for setting in settings]


def name_of(setting: Setting, axes: Sequence[str]) -> str:
    """The values of some axes in words."""
    return ", ".join(f"{setting.steps} steps" if axis == "steps" else getattr(setting, axis) for axis in axes)


def baselines(settings: Sequence[Setting]) -> dict[Setting, Setting]:
    """What each setting is compared with: the setting of scale 1 with the same checkpoint, sampler and steps; where
    there is none, the first of all. A baseline is its own."""
    plain: dict[tuple[str, str, int], Setting] = {}
    for setting in settings:
        if setting.scale == 1.0:
            plain.setdefault(_group(setting), setting)
    return {setting: plain.get(_group(setting), settings[0]) for setting in settings}


def _group(setting: Setting) -> tuple[str, str, int]:
    return setting.checkpoint, setting.sampler, setting.steps


def _once(what: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise UsageError(f"sweep: {', '.join(twice)} would be measured twice; give each {what} once")


@dataclass(frozen=True, eq=False)
class Point:
    """A measured setting.

    Attributes:
        setting: where it lies on the axes.
        score: without its samples, see ``SweepFolder.compare``.
        rows_per_image, ms_per_image: what it cost.
        examples: uint8 [k, c, h, w], one of each class in the order of labels, then another of each, ...
        baseline: the setting it is compared with; None for a baseline itself, or while that is not measured.
        differences: metric -> this minus the baseline, from the same seeds; None without one.
    """

    setting: Setting
    score: Score
    rows_per_image: float
    ms_per_image: float
    examples: Tensor
    baseline: Setting | None = None
    differences: Mapping[str, Difference] | None = None

    __repr__ = brief

    @property
    def guidance(self) -> str:
        return self.setting.guidance

    @property
    def scale(self) -> float | None:
        """See ``setting.scale_of``."""
        return self.setting.scale


@dataclass(frozen=True, eq=False)
class Images:
    """Finished images: of one batch, or of a whole setting.

    Attributes:
        images: uint8 [n, c, h, w].
        saturation: float64 [n], the share of values at the limits before rounding.
        rows: network rows they took.
        seconds: time they took.
    """

    images: Tensor
    saturation: Tensor
    rows: int
    seconds: float

    __repr__ = brief


def key_of(weights: str, setting: Setting, named: Mapping[str, Any]) -> str:
    """12 hex digits: equal for equal weights, guidance, sampler, steps and things that the guidance names."""
    what = [weights, setting.guidance, setting.sampler, setting.steps, named]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
