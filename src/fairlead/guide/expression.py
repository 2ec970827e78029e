"""Reading guidance expressions.

    cfg(4)    cfg(ramp(1, 7, "cosine")).during(sigma=(0.28, 1.6))    compose({"seven": 4, "one": -2}) | threshold(0.995)

The text is parsed to a syntax tree and never evaluated as Python.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import REGISTRY, lookup, names
from fairlead.guide.algebra import Finisher, Guidance, Term, as_guidance
from fairlead.guide.text import is_number

_KINDS = ("term", "finisher", "scale", "score")


def parse(text: str) -> Term | Guidance:
    """The guidance that ``text`` writes; ``str`` of it parses back to an equal one. "none" is no guidance.

    Raises:
        UsageError: for anything that is not in the grammar, naming what was read and what is known.
    """
    if "\0" in text:  # a SyntaxError since Python 3.11.4, before that a ValueError
        raise UsageError(f"guidance {text!r} is not an expression: it holds a null character; write e.g. cfg(4)")
    try:
        value = _read(ast.parse(text.strip(), mode="eval").body, text)
    except SyntaxError as error:
        if given := re.search(r"<[\w.]+>", text):
            raise UsageError(
                f"guidance {text!r} holds the Python function {given[0]}, which no text can give; pass the object"
            ) from error
        raise UsageError(f"guidance {text!r} is not an expression: {error.msg}; write e.g. cfg(4)") from error
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"guidance {text[:40]!r}... is nested too deeply to be read; write e.g. cfg(4)") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"guidance {text!r} is not text: {error.reason}; write e.g. cfg(4)") from error
    if isinstance(value, Finisher):
        raise UsageError(f"guidance {text!r} is a finisher alone; write none | {value} to finish without guiding")
    if not isinstance(value, Term | Guidance):
        raise UsageError(f"guidance {text!r} is {_describe(value)}, not a guidance; write e.g. cfg(4)")
    return value


def to_guidance(value: Guidance | Term | str | None) -> Guidance:
    """What the public functions accept as ``guidance``: an object, an expression, or None for none."""
    return as_guidance(value)


def _read(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() | None as constant) if not isinstance(constant, bool):
            return constant
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _read(operand, text)
            if is_number(number):
                return -number if isinstance(sign, ast.USub) else number
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_read(item, text) for item in items)
        case ast.Dict(keys=keys, values=values):
            return _dict(keys, values, text)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            a, b = _read(left, text), _read(right, text)
            if isinstance(a, Term | Guidance) and isinstance(b, Term | Guidance):
                return a + b
            raise UsageError(f"guidance {text!r}: '+' adds guidance terms, got {_describe(a)} + {_describe(b)}")
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            a, b = _read(left, text), _read(right, text)
            if isinstance(a, Term | Guidance) and isinstance(b, Finisher):
                return a | b
            raise UsageError(
                f"guidance {text!r}: '|' passes a guidance to a finisher ({', '.join(names('finisher'))}), "
                f"got {_describe(a)} | {_describe(b)}"
            )
        case ast.Call(func=ast.Attribute(value=owner, attr=method), args=args, keywords=keywords):
            value = _read(owner, text)
            if method != "during" or not isinstance(value, Term | Guidance):
                raise UsageError(
                    f"guidance {text!r}: unknown method .{method}(...) (known: .during(...) on a guidance)"
                )
            return _call(value.during, "during", args, keywords, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(_named(name), name, args, keywords, text)
        case ast.Name(id="none"):
            return Guidance()
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id=name):
            raise UsageError(
                f"guidance {text!r}: {name!r} is not a value; quote class names, call methods: {name}(...)"
            )
    raise UsageError(f"guidance {text!r}: cannot read {ast.unparse(node)!r}; write e.g. cfg(4).during(sigma=(0.3, 2))")


def _named(name: str) -> Any:
    for kind in _KINDS:
        if name in REGISTRY[kind]:
            return lookup(kind, name)
    raise unknown("guidance", name, [known for kind in _KINDS for known in names(kind)])


def _call(function: Any, name: str, args: list[ast.expr], keywords: list[ast.keyword], text: str) -> Any:
    signature = inspect.signature(function)
    positional = [_read(arg, text) for arg in args]
    named: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg is None:
            raise UsageError(f"guidance {text!r}: ** is not allowed")
        if keyword.arg in named:
            raise UsageError(f"guidance {text!r}: {name}(...) got {keyword.arg!r} twice")
        switch = isinstance(getattr(signature.parameters.get(keyword.arg), "default", None), bool)
        truth = keyword.value.value if isinstance(keyword.value, ast.Constant) and switch else None
        named[keyword.arg] = truth if isinstance(truth, bool) else _read(keyword.value, text)
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise UsageError(f"guidance {text!r}: {name}(...): {error} (it takes: {takes})") from error
    return function(*bound.args, **bound.kwargs)


def _dict(keys: Sequence[ast.expr | None], values: Sequence[ast.expr], text: str) -> dict[str | int, Any]:
    read: dict[str | int, Any] = {}
    for key, value in zip(keys, values, strict=True):
        spec = None if key is None else _read(key, text)
        if not isinstance(spec, str | int):
            given = "**" if key is None else _describe(spec)
            raise UsageError(f"guidance {text!r}: a condition is a class name or an index, got {given}")
        if spec in read:
            raise UsageError(f"guidance {text!r}: {spec!r} is given twice")
        read[spec] = _read(value, text)
    return read


def _describe(value: Any) -> str:
    return f"{value}" if isinstance(value, Term | Guidance | Finisher) else repr(value)
