"""A setting is what a sweep varies: checkpoint, guidance, sampler, steps. Here they are written down, multiplied, named
and given a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.notation import literal
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


def labels_of(settings: Sequence[Setting]) -> list[str]:
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
