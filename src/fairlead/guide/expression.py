"""Reading guidance expressions. The text is parsed to a syntax tree and never evaluated as Python.

    cfg(4)    cfg(ramp(1, 7, "cosine")).during(sigma=(0.28, 1.6))    compose({"seven": 4, "one": -2}) | threshold(0.995)
"""

from __future__ import annotations

import ast
from typing import Any

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import REGISTRY, lookup, names
from fairlead.guide.algebra import Finisher, Guidance, Term, as_guidance

_KINDS = ("term", "finisher", "scale")


def parse(text: str) -> Term | Guidance:
    """The guidance that ``text`` writes; ``str`` of it parses back to an equal one. "none" is no guidance.

    Raises:
        UsageError: for anything that is not in the grammar, naming what was read and what is known.
    """
    if text.strip() == "none":
        return Guidance()
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"guidance {text!r} is not an expression: {error.msg}; write e.g. cfg(4)") from error
    value = _read(tree, text)
    if not isinstance(value, Term | Guidance):
        raise UsageError(f"guidance {text!r} is {_describe(value)}, not a guidance; write e.g. cfg(4)")
    return value


def to_guidance(value: Guidance | Term | str | None) -> Guidance:
    """What the public functions accept as ``guidance``: an object, an expression, or None for none."""
    if isinstance(value, str):
        value = parse(value)
    if value is not None and not isinstance(value, Guidance | Term):
        raise UsageError(f"guidance: expected an expression such as 'cfg(4)' or fl.cfg(4), got {value!r}")
    return as_guidance(value)


def _read(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() | None as constant) if not isinstance(constant, bool):
            return constant
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(sign, ast.USub) else number
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_read(item, text) for item in items)
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            return {_read(key, text): _read(v, text) for key, v in zip(keys, values, strict=True) if key is not None}
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
                raise UsageError(f"guidance {text!r}: unknown method .{method}(...) (known: .during(...) on a guidance)")
            return _call(value.during, "during", args, keywords, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(_named(name), name, args, keywords, text)
        case ast.Name(id=name):
            raise UsageError(f"guidance {text!r}: {name!r} is not a value; quote class names, call methods: {name}(...)")
    raise UsageError(f"guidance {text!r}: cannot read {ast.unparse(node)!r}; write e.g. cfg(4).during(sigma=(0.3, 2))")


def _named(name: str) -> Any:
    for kind in _KINDS:
        if name in REGISTRY[kind]:
            return lookup(kind, name)
    raise unknown("guidance", name, [known for kind in _KINDS for known in names(kind)])


def _call(function: Any, name: str, args: list[ast.expr], keywords: list[ast.keyword], text: str) -> Any:
    positional = [_read(arg, text) for arg in args]
    named = {keyword.arg: _read(keyword.value, text) for keyword in keywords if keyword.arg is not None}
    if len(named) != len(keywords):
        raise UsageError(f"guidance {text!r}: ** is not allowed")
    try:
        return function(*positional, **named)
    except TypeError as error:
        reason = str(error).split("() ", 1)[-1].replace("__init__", name)
        raise UsageError(f"guidance {text!r}: {name}(...) {reason}") from error


def _describe(value: Any) -> str:
    return f"{value}" if isinstance(value, Term | Guidance | Finisher) else repr(value)
