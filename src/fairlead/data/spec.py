"""Reading what names a data set and its arguments, ``scenes(source="mnist", size=32)``.

The text is parsed to a syntax tree and never evaluated as Python.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import lookup, names
from fairlead.core.syntax import keywords, number, parsed, quoted, source


def read_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """(registered name, arguments by name) of ``name`` or ``name(key=value, ...)``; None if it is written otherwise.

    Values are numbers and quoted texts, and fit the loader's signature, without its ``split``.

    Raises:
        UsageError: for ``name(...)`` with an unknown name or argument, a value twice, or anything that is no value.
    """
    if text in names("data"):
        return text, {}
    if not re.match(r"\s*\w+\s*\(", text):
        return None
    node = parsed(text, "data", "write e.g. scenes(size=32)")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise UsageError(f"data {quoted(text)}: expected a name with arguments, e.g. scenes(size=32)")
    name = node.func.id
    takes = arguments_of(lookup("data", name))
    if node.args:
        raise UsageError(
            f"data {quoted(text)}: arguments of {name} are given by name ({', '.join(takes) or 'it takes none'}), "
            f"got {source(node.args[0], text)[1:-1]}"
        )
    read: dict[str, Any] = {}
    for key, given in keywords(node, name, "data", text).items():
        if key not in takes:
            raise unknown(f"argument of data {name!r}", key, takes or ("none",))
        read[key] = _value(given, text)
    return name, read


def arguments_of(loader: Callable[..., Any]) -> Mapping[str, Any]:
    """The arguments that a text may give to a registered loader, and their defaults."""
    parameters = inspect.signature(loader).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "split"}


def written_call(name: str, given: Mapping[str, Any]) -> str:
    """The shortest text for the registered ``name`` with the arguments ``given``: those that are not the defaults."""
    defaults = arguments_of(lookup("data", name))
    inside = ", ".join(f"{key}={value!r}" for key, value in given.items() if value != defaults[key])
    return f"{name}({inside})" if inside else name


def _value(node: ast.expr, text: str) -> int | float | str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    value = number(node)
    if value is None or not math.isfinite(value):
        raise UsageError(f"data {quoted(text)}: expected a number or a text in quotes, got {source(node, text)[1:-1]}")
    return value
