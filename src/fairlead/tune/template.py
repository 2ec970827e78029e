"""An expression with open numbers, and the range of each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse, to_guidance
from fairlead.tune.measurements import Values


@dataclass(frozen=True)
class Knob:
    """One number to be found, between ``low`` and ``high``.

    Attributes:
        log: whether steps are ratios, as for a scale; else differences.
        lowest, highest: how far the range may be extended if the best lies at its end; default not at all.

    Raises:
        UsageError: unless lowest <= low < high <= highest, all > 0 with ``log``.
    """

    low: float
    high: float
    log: bool = True
    lowest: float | None = None
    highest: float | None = None

    def __post_init__(self) -> None:
        lowest, highest = self.ends
        if not (lowest <= self.low < self.high <= highest and all(map(math.isfinite, (lowest, highest)))):
            raise UsageError(
                f"knob: expected lowest <= low < high <= highest, got {lowest}, {self.low}, {self.high}, {highest}"
            )
        if self.log and lowest <= 0:
            raise UsageError(f"knob from {lowest:g}: steps of ratios need a range above 0; raise it or take log=False")

    @property
    def ends(self) -> tuple[float, float]:
        return (
            self.low if self.lowest is None else self.lowest,
            self.high if self.highest is None else self.highest,
        )

    def place(self, value: float) -> float:
        """Where ``value`` lies on the axis of the fit."""
        return math.log(value) if self.log else value

    def value(self, place: float) -> float:
        """The inverse of :meth:`place`; infinite places are taken for the ends, and none lies beyond them."""
        lowest, highest = self.ends
        if place <= self.place(lowest) or place >= self.place(highest):
            return lowest if place <= self.place(lowest) else highest
        return math.exp(place) if self.log else place


_OPEN = re.compile(r"\{([a-z_]+)\}")
DEFAULT_RANGES: Mapping[str, Knob] = {"scale": Knob(1.0, 8.0, highest=32.0)}


@dataclass(frozen=True)
class Template:
    """An expression whose ``{name}`` are knobs.

    Attributes:
        text: with at least one ``{name}``.
        knobs: in the order of the text.
        name: gives the conditions that it names, see ``Model.named``; None: they stay as they are written.

    Raises:
        UsageError: if nothing is open, a knob has no range or a range no knob, or the ends do not make an expression.
    """

    text: str
    knobs: Mapping[str, Knob]
    name: Callable[[Any], Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        names = list(dict.fromkeys(_OPEN.findall(self.text)))
        if not names:
            raise UsageError(
                f"tune: nothing is open in {self.text!r}; write a name in braces, such as 'cfg({{scale}})'"
            )
        missing = [name for name in names if name not in self.knobs]
        if missing:
            raise UsageError(f"tune: {{{missing[0]}}} has no range; give one, such as --range {missing[0]}=0.1:1")
        if list(self.knobs) != names:
            object.__setattr__(self, "knobs", {name: self.knobs[name] for name in names})
        for setting in ([knob.low for knob in self.knobs.values()], [knob.high for knob in self.knobs.values()]):
            self.filled(tuple(setting))

    @classmethod
    def of(cls, text: str, ranges: Sequence[str] = ()) -> Template:
        """``ranges`` are texts such as ``scale=1:8``; the scale has that range by default, which may then be extended.

        Steps between settings are ratios where the range is above 0, else differences.
        """
        knobs = dict(DEFAULT_RANGES)
        open_names, given_names = _OPEN.findall(text), set[str]()
        for given in ranges:
            name, _, span = given.partition("=")
            low, _, high = span.partition(":")
            try:
                ends = float(low), float(high)
            except ValueError:
                raise UsageError(f"range {given!r}: expected NAME=LOW:HIGH, e.g. scale=1:8") from None
            if name not in open_names:
                raise UsageError(
                    f"range {given!r}: {text!r} has no {{{name}}}; it has {', '.join(open_names) or 'none'}"
                )
            if not ends[0] < ends[1]:
                raise UsageError(f"range {given!r}: expected LOW below HIGH")
            if name in given_names:
                raise UsageError(f"range {given!r}: {{{name}}} has a range already; give one for each name")
            given_names.add(name)
            knobs[name] = Knob(*ends, log=ends[0] > 0)
        return cls(text, {name: knobs[name] for name in dict.fromkeys(open_names) if name in knobs})

    def named(self, name: Callable[[Any], Any]) -> Template:
        """The same with conditions as ``name`` gives them."""
        return replace(self, name=name)

    def filled(self, setting: Values) -> str:
        """The expression at these values of the knobs, each at four digits."""
        values = dict(zip(self.knobs, setting, strict=True))
        guidance = parse(_OPEN.sub(lambda found: f"{values[found[1]]:.4g}", self.text))
        return str(guidance if self.name is None else to_guidance(guidance).by_name(self.name))
