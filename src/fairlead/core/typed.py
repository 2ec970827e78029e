"""Values that were read, checked against annotations: of a ``TypedDict``, or of what they are arguments of.

    check_arguments(UNet, {"channels_in": 1, "size": "8"}, "net")    # net: size: expected a whole number, got '8'

Bounds stand in the annotations: ``Size`` is ``Annotated[int, Between(1)]``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from fairlead.core.errors import UsageError, shortened

_MOST = 2**63 - 1
"""Whole numbers beyond it fit into no tensor."""


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"


Count = Annotated[int, Between(0)]
Size = Annotated[int, Between(1)]
Share = Annotated[float, Between(0, 1)]
Depth = Annotated[int, Between(1, 1000)]
"""Of a network: so many layers, one after the other."""


class Problem(NamedTuple):
    """What is wrong with a value: its name, what it is, what was expected."""

    name: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name}: expected {self.expected}, got {self.got}"


def problem_in(value: object, kind: Any, name: str) -> Problem | None:
    """What keeps ``value`` from being one that JSON gives for the annotation ``kind``: lists stand for sequences and
    tuples, objects for mappings, and a whole number for any number; true and false are no numbers, and nan is none."""
    return _problem(value, kind, name)


def check_arguments(
    make: Callable[..., Any], arguments: Mapping[str, Any], what: str, names: Mapping[str, Any] | None = None
) -> None:
    """Refuse ``arguments`` that ``make`` does not take, or not with these types.

    Args:
        names: what its annotations name beside what its module holds at run time.

    Raises:
        UsageError: with the argument that is unknown, missing, or not what its annotation says.
    """
    signature = inspect.signature(make)
    holder = make.__init__ if inspect.isclass(make) else make
    try:
        hints = get_type_hints(holder, localns=dict(names or {}), include_extras=True)
    except NameError:  # of somebody else's: imported for a type checker alone
        hints = {}
    known, required = dict(hints), set()
    rest: Any = None
    for name, parameter in signature.parameters.items():
        if parameter.kind == parameter.VAR_KEYWORD:
            rest = hints.get(name, Any)
        else:
            known.setdefault(name, Any)
            if parameter.default is parameter.empty and parameter.kind != parameter.VAR_POSITIONAL:
                required.add(name)
    known = {name: kind for name, kind in known.items() if name in signature.parameters}
    if get_origin(rest) is Unpack:
        known |= get_type_hints(get_args(rest)[0], include_extras=True)
    for name, value in arguments.items():
        if name not in known and rest is not Any:
            raise UsageError(f"{what}: unexpected keyword argument {shortened(name)} (it takes {', '.join(known)})")
        problem = problem_in(value, known.get(name, Any), name)
        if problem is not None:
            raise UsageError(f"{what}: {problem}")
    for name in required - set(arguments):
        raise UsageError(f"{what}: {name!r} is missing")


def _problem(value: object, kind: Any, name: str) -> Problem | None:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return None
    if origin in (NotRequired, Required):
        return _problem(value, parts[0], name)
    if origin is Annotated:
        problem = _problem(value, parts[0], name)
        if problem is None and isinstance(value, int | float):
            outside = [b for b in parts[1:] if isinstance(b, Between) and not b.low <= value <= b.high]
            return Problem(name, _shown(value), str(outside[0])) if outside else None
        return problem
    if origin in (Union, UnionType):
        found = [_problem(value, part, name) for part in parts]
        if None in found:
            return None
        nested = [problem for part, problem in zip(parts, found, strict=True) if _holds(part, value)]
        return nested[0] if nested else Problem(name, _shown(value), _called(kind))
    if origin is Literal:
        alike = type(value) in {type(part) for part in parts}  # an unknown name is refused by who knows all of them
        return None if alike else Problem(name, _shown(value), _called(kind))
    if is_typeddict(kind):
        return _of_typed_dict(value, kind, name)
    if _is_mapping(kind):
        if not isinstance(value, dict):
            return Problem(name, _shown(value), "an object")
        inner = parts[1] if parts else Any
        return _first(_problem(part, inner, f"{name}.{key}") for key, part in value.items())
    if _is_sequence(kind):
        if not isinstance(value, list | tuple):
            return Problem(name, _shown(value), "a list")
        if origin is tuple and parts[-1] is not ...:
            if len(value) != len(parts):
                return Problem(name, _shown(value), f"a list of {len(parts)}")
            inners = parts
        else:
            inners = (parts[0] if parts else Any,) * len(value)
        return _first(_problem(part, inner, name) for part, inner in zip(value, inners, strict=True))
    return None if _is_plain(value, kind) else Problem(name, _shown(value), _called(kind))


def _first(problems: Iterable[Problem | None]) -> Problem | None:
    return next((problem for problem in problems if problem is not None), None)


def _of_typed_dict(value: object, kind: Any, name: str) -> Problem | None:
    if not isinstance(value, dict):
        return Problem(name, _shown(value), "an object")
    hints = get_type_hints(kind, include_extras=True)
    for key, part in hints.items():
        optional = get_origin(part) is NotRequired or (not kind.__total__ and get_origin(part) is not Required)
        if key in value:
            problem = _problem(value[key], part, key)
            if problem is not None:
                return problem
        elif not optional:
            return Problem(key, "nothing", _called(part))
    return None  # what else is in it is read by nobody


def _is_plain(value: object, kind: Any) -> bool:
    if kind is None or kind is NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int) and abs(value) <= _MOST
    if kind is float:
        if isinstance(value, int):
            return abs(value) <= _MOST
        return isinstance(value, float) and not math.isnan(value)
    return isinstance(value, kind) if inspect.isclass(kind) else True


def _is_mapping(kind: Any) -> bool:
    of = get_origin(kind) or kind
    return inspect.isclass(of) and issubclass(of, Mapping)


def _is_sequence(kind: Any) -> bool:
    of = get_origin(kind) or kind
    return inspect.isclass(of) and issubclass(of, Sequence) and not issubclass(of, str | bytes)


def _holds(kind: Any, value: object) -> bool:
    """Whether the trouble with ``value`` is inside it."""
    if get_origin(kind) is Annotated:  # of the right type, out of bounds
        return _holds(get_args(kind)[0], value) or _problem(value, get_args(kind)[0], "") is None
    if isinstance(value, dict):
        return is_typeddict(kind) or _is_mapping(kind)
    return isinstance(value, list | tuple) and _is_sequence(kind)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return shortened(value)
    text = repr(value) if not isinstance(value, dict | list) or len(value) < 100 else f"{len(value)} values"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _called(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Annotated, NotRequired, Required):
        return _called(get_args(kind)[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_called(part) for part in get_args(kind)))
    if origin is Literal:
        return ", ".join(map(str, get_args(kind)))
    if _is_mapping(kind) or is_typeddict(kind):
        return "an object"
    if _is_sequence(kind):
        return "a list"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
