"""Reading guidance expressions.

    cfg(4)    cfg(ramp(1, 7, "cosine")).during(sigma=(0.28, 1.6))    compose({"seven": 4, "one": -2}) | threshold(0.995)

The text is parsed to a syntax tree and never evaluated as Python.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.core.registry import EXPRESSIONS, kind_of, lookup, names
from fairlead.core.syntax import keywords, number, parsed, quoted, shown, source
from fairlead.guide.notation import is_number
from fairlead.guide.rewards.reward import FunctionReward, Reward
from fairlead.guide.terms import Finisher, Guidance, Term, as_guidance

_signature = lru_cache(inspect.signature)


def parse(text: str) -> Term | Guidance:
    """Read a guidance from its text; ``str`` of the result parses back to an equal one. "none" is no guidance.

    Raises:
        UsageError: for anything that is not in the grammar, naming what was read and what is known.
    """
    value = _value(text, "guidance", "write e.g. cfg(4)")
    if isinstance(value, Finisher):
        raise UsageError(
            f"guidance {quoted(text)} is a finisher alone; write none | {_describe(value)} to finish without guiding"
        )
    if not isinstance(value, Term | Guidance):
        raise UsageError(f"guidance {quoted(text)} is {_describe(value)}, not a guidance; write e.g. cfg(4)")
    return value


def parse_reward(text: str) -> Reward:
    """The reward that ``text`` writes, such as ``2 * label("runs/clf", "seven") + color("red")``.

    Raises:
        UsageError: for anything that is not in the grammar or is no reward.
    """
    known = f"write one of {', '.join(names('reward'))}, such as brightness(0.8)"
    value = _value(text, "reward", known)
    if not isinstance(value, Reward):
        raise UsageError(f"reward {quoted(text)} is {_describe(value)}, not a reward; {known}")
    return value


def to_guidance(value: Guidance | Term | str | None) -> Guidance:
    """What the public functions accept as ``guidance``: an object, an expression, or None for none."""
    return as_guidance(value)


def _value(text: str, what: str, instead: str) -> Any:
    node = parsed(text, what, instead)
    try:
        return _read(node, text)
    except RecursionError as error:  # the caller's own stack is almost full
        raise UsageError(f"{what} {quoted(text)} is nested too deeply to be read; {instead}") from error


def _read(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=str() | None as constant):
            return constant
        case ast.Constant() if (value := number(node)) is not None:
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            if is_number(value := _read(operand, text)):
                return -value if isinstance(sign, ast.USub) else value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_read(item, text) for item in items)
        case ast.Dict(keys=keys, values=values):
            return _dict(keys, values, text)
        case ast.BinOp(op=ast.Add() | ast.BitOr()):
            return _chain(node, text)
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            weight, reward = _read(left, text), _read(right, text)
            if is_number(weight) and isinstance(reward, Reward):
                return weight * reward
            if isinstance(weight, Reward) and is_number(reward):
                return weight * reward
        case ast.Call(func=ast.Attribute(value=owner, attr=method)):
            value = _read(owner, text)
            if method != "during" or not isinstance(value, Term | Guidance):
                raise UsageError(
                    f"guidance {quoted(text)}: unknown method .{shortened(method)[1:-1]}(...) (known: .during(...) on "
                    "a guidance)"
                )
            return _call(value.during, "during", node, text)
        case ast.Call(func=ast.Name(id=name)):
            return _call(_named(name), name, node, text)
        case ast.Name(id="none"):
            return Guidance()
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id=name):
            given = shortened(name)
            raise UsageError(
                f"guidance {quoted(text)}: {given} is not a value; quote class names, call methods: {given[1:-1]}(...)"
            )
    raise UsageError(
        f"guidance {quoted(text)}: cannot read {source(node, text)}; write e.g. cfg(4).during(sigma=(0.3, 2))"
    )


def _chain(node: ast.expr, text: str) -> Any:
    """Sums and finishers, from left to right: a chain may be long, though not deep."""
    parts: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.BitOr):
        parts.append(node)
        node = node.left
    value = _read(node, text)
    for part in reversed(parts):
        other = _read(part.right, text)
        if isinstance(part.op, ast.Add):
            if not any(isinstance(value, k) and isinstance(other, k) for k in (Term | Guidance, Reward)):
                raise UsageError(
                    f"guidance {quoted(text)}: '+' adds guidance terms or rewards, got {_describe(value)} + "
                    f"{_describe(other)}"
                )
            value = value + other
        else:
            if not isinstance(value, Term | Guidance) or not isinstance(other, Finisher):
                raise UsageError(
                    f"guidance {quoted(text)}: '|' passes a guidance to a finisher ({', '.join(names('finisher'))}), "
                    f"got {_describe(value)} | {_describe(other)}"
                )
            value = value | other
    return value


def _named(name: str) -> Any:
    kind = kind_of(name)
    if kind is None:
        raise unknown("guidance", name, [known for kind in EXPRESSIONS for known in names(kind)])
    thing = lookup(kind, name)
    return thing if kind != "reward" or isinstance(thing, type) else _reward_of(thing, name)


def _reward_of(function: Any, name: str) -> Callable[[], Reward]:
    """What writes a function that was registered as a reward."""
    return lambda: FunctionReward(function, name)


def _call(function: Any, name: str, call: ast.Call, text: str) -> Any:
    signature = _signature(function) if isinstance(function, type) else inspect.signature(function)
    positional = [_read(arg, text) for arg in call.args]
    named: dict[str, Any] = {}
    for key, node in keywords(call, name, "guidance", text).items():
        switch = isinstance(getattr(signature.parameters.get(key), "default", None), bool)
        truth = node.value if isinstance(node, ast.Constant) and switch else None
        named[key] = truth if isinstance(truth, bool) else _read(node, text)
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        reason = shortened(str(error), 160)[1:-1]
        raise UsageError(f"guidance {quoted(text)}: {name}(...): {reason} (it takes: {takes})") from error
    return function(*bound.args, **bound.kwargs)


def _dict(keys: Sequence[ast.expr | None], values: Sequence[ast.expr], text: str) -> dict[str | float, Any]:
    read: dict[str | float, Any] = {}
    for key, value in zip(keys, values, strict=True):
        place = None if key is None else _read(key, text)
        if not isinstance(place, str | int | float):
            given = "**" if key is None else _describe(place)
            raise UsageError(
                f"guidance {quoted(text)}: expected a condition or a noise level before a colon, got {given}"
            )
        if place in read:
            raise UsageError(f"guidance {quoted(text)}: {shown(place)} is given twice")
        read[place] = _read(value, text)
    return read


def _describe(value: Any) -> str:
    return shortened(str(value), 160)[1:-1] if isinstance(value, Term | Guidance | Finisher | Reward) else shown(value)
