"""A guidance expression as a thing to turn: its numbers are knobs, and a menu adds methods to it.

    knobs("cfg(3) + pag(2)")             # cfg: scale at 3, pag: scale at 2
    turned("cfg(3) + pag(2)", 1, 0.5)    # cfg(3) + pag(0.5)
    extended("cfg(3)", "apg")            # apg(cfg(3))

Everything follows from the registry and the fields of its classes; the text stays as it was written but for the number.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import kind_of, lookup, names
from fairlead.core.syntax import number, parsed
from fairlead.guide.expression import parse
from fairlead.guide.notation import literal
from fairlead.guide.pairs import Wrapper
from fairlead.guide.terms import Guidance, as_guidance

MOST = 8
"""Numbers of an expression that get a slider."""
_UNITS = {"sigma": (0.0, 10.0, 0.05), "t": (0.0, 1.0, 0.01), "log_snr": (-12.0, 12.0, 0.1)}
"""Ends of ``during``."""
_METHODS = ("term", "finisher")


@dataclass(frozen=True)
class Dial:
    """One number of an expression.

    Attributes:
        label: whose argument it is: "cfg: scale".
        value: what is written there.
        low, high, step: of a slider; they include the value.
        place: of the number in the text, from and to.
    """

    label: str
    value: float
    low: float
    high: float
    step: float
    place: tuple[int, int]


def knobs(text: str) -> list[Dial]:
    """The numbers of an expression in their order, the first :data:`MOST`; what is infinite has no knob.

    Raises:
        UsageError: for what the grammar refuses.
    """
    parse(text)
    text, found = text.strip(), list[Dial]()
    _collect(parsed(text, "guidance", "write e.g. cfg(4)"), "", "", text, found)
    return sorted(found, key=lambda knob: knob.place)[:MOST]


def turned(text: str, index: int, value: float) -> str:
    """The expression with its number ``index`` in the order of :func:`knobs` replaced.

    Raises:
        UsageError: if there is no such number any more.
    """
    found = knobs(text)
    if not 0 <= index < len(found):
        raise UsageError(f"guidance {text!r} has {len(found)} numbers to turn, not {index + 1}; write it in the field")
    start, end = found[index].place
    text, written = text.strip(), literal(round(value, 6))
    return f"{text[:start]}{written}{text[end:]}"


def form(text: str) -> str:
    """The expression without its numbers: equal as long as the same sliders belong to it."""
    text = text.strip()
    for knob in reversed(knobs(text)):
        text = f"{text[: knob.place[0]]}#{text[knob.place[1] :]}"
    return text


def extended(text: str, name: str) -> str:
    """The guidance with a method added: a term is added, a finisher follows the last bar, a method that goes around
    another goes around the last term that it can.

    Raises:
        UsageError: for an expression that cannot be read, and a name that is no method.
    """
    given = as_guidance(text.strip() or "none")
    kind = kind_of(name)
    if kind not in _METHODS:
        raise unknown("method", name, methods())
    example = examples(name)[0]
    if kind == "finisher":
        return str(given | as_guidance(example).finishers[-1])
    (new,) = as_guidance(example).terms
    if isinstance(new, Wrapper):
        for at in reversed(range(len(given.terms))):
            changed = {f.name: getattr(new, f.name) for f in fields(new)} | {"term": given.terms[at]}
            with suppress(UsageError):
                around = type(new)(**changed)
                return str(Guidance((*given.terms[:at], around, *given.terms[at + 1 :]), given.finishers))
    return str(Guidance((*given.terms, new), given.finishers))


def methods() -> dict[str, str]:
    """Every method that has an example, and what it is in a few words."""
    return {name: about(name) for kind in _METHODS for name in names(kind) if examples(name)}


def about(name: str) -> str:
    """The first sentence on a method, as its page begins, without citations."""
    method = _class(name)
    module = inspect.getmodule(method)
    own = [kind for kind in _METHODS for other in names(kind) if inspect.getmodule(lookup(kind, other)) is module]
    said = (inspect.getdoc(method) if len(own) > 1 else getattr(module, "__doc__", "")) or ""
    first = re.sub(r" \([^()]*[0-9]{4}[^()]*\)", "", " ".join(said.split("\n\n")[0].split()))
    return re.split(r"(?<=\w\w)\. |: *$", first)[0].rstrip(".:").replace("`", "")


@cache
def examples(name: str) -> tuple[str, ...]:
    """The guidances that the docstring of a method writes, which are those of its page; what needs a file that only the
    docstring has is left out."""
    kind = kind_of(name)
    if kind is None:
        return ()
    found = []
    for text in re.findall(r"``([^`]+)``", inspect.getdoc(lookup(kind, name)) or ""):
        written = f"none | {text}" if kind == "finisher" and "|" not in text else text
        try:
            given = as_guidance(written)
        except UsageError:
            continue
        if not given.resources() and all(term.samples() is None for term in given.terms):
            found.append(written)
    return tuple(found) or tuple(_made(kind, name))


def presets() -> dict[str, list[str]]:
    """Method -> its examples, for a menu to begin with."""
    return {name: [*examples(name)] for name in methods()}


def _made(kind: str, name: str) -> list[str]:
    """An example of somebody else's method, where its only needed argument is a scale."""
    needed = [f.name for f in fields(lookup(kind, name)) if f.default is f.default_factory is MISSING]
    text = f"{name}(2)" if needed == ["scale"] else f"{name}()"
    try:
        as_guidance(f"none | {text}" if kind == "finisher" else text)
    except UsageError:
        return []
    return [f"none | {text}" if kind == "finisher" else text]


def _collect(node: ast.expr, owner: str, argument: str, text: str, found: list[Dial]) -> None:
    value = number(node)
    if value is not None:
        if math.isfinite(value):
            low, high, step = _range(owner, argument, value)
            place = _place(node, text)
            found.append(Dial(": ".join(part for part in (owner, argument) if part), value, low, high, step, place))
    elif isinstance(node, ast.Call):
        method = isinstance(node.func, ast.Attribute)
        if isinstance(node.func, ast.Attribute):
            _collect(node.func.value, owner, argument, text, found)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        takes = [] if method else [f.name for f in fields(_class(name))]
        for inner, takes_it in zip(node.args, takes, strict=False):
            _collect(inner, name, takes_it, text, found)
        for keyword in node.keywords:
            _collect(keyword.value, name, str(keyword.arg), text, found)
    elif isinstance(node, ast.Dict):
        for key, inner in zip(node.keys, node.values, strict=True):
            of = key.value if isinstance(key, ast.Constant) else "?"
            _collect(inner, owner, str(of), text, found)
    else:
        inside = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        for end, child in zip(("from", "to"), inside, strict=False) if owner == "during" else ():
            _collect(child, owner, f"{argument} {end}", text, found)
        for child in () if owner == "during" else inside:
            _collect(child, owner, argument, text, found)


def _range(owner: str, argument: str, value: float) -> tuple[float, float, float]:
    """Of a slider: the ends of intervals by their unit, whole numbers by ones, shares from 0 to 1, else strengths."""
    kinds = _annotations(owner)
    if owner == "during":
        low, high, step = _UNITS.get(argument.split()[0], (0.0, 10.0, 0.05))
    elif kinds.get(argument) == "int":
        low, high, step = 0.0, 10.0, 1.0
    elif argument in ("scale", "weights", "start", "end", "inside", "outside", "") or owner == "compose":
        low, high, step = 0.0, 10.0, 0.05
    elif abs(value) <= 1:
        low, high, step = 0.0, 1.0, 0.005
    else:
        low, high, step = 0.0, 10.0, 0.05
    if value < 0:
        low = -high
    return min(low, math.floor(value)), max(high, math.ceil(2 * value) if value > high else high), step


def _class(name: str) -> Any:
    return lookup(kind_of(name) or "term", name)


def _annotations(owner: str) -> dict[str, Any]:
    kind = kind_of(owner)
    return {} if kind is None else {f.name: f.type for f in fields(lookup(kind, owner))}


def _place(node: ast.expr, text: str) -> tuple[int, int]:
    """Where a node stands in the text; the parser counts bytes of each line."""
    lines = text.splitlines(keepends=True)

    def at(line: int | None, offset: int | None) -> int:
        assert line is not None
        before = sum(len(each) for each in lines[: line - 1])
        return before + len(lines[line - 1].encode()[:offset].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
