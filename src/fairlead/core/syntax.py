"""Texts that look like Python calls (guidance, samplers, data sets): parsed to a syntax tree, never evaluated."""

from __future__ import annotations

import ast
import math
import re
import warnings
from typing import NoReturn

from fairlead.core.arguments import shown as shown
from fairlead.core.errors import UsageError, shortened

DEEPEST = 100
"""Levels of nesting that are read; Python's own stack ends at a thousand frames."""


def quoted(text: object) -> str:
    """A given text for a message, its beginning if it is long."""
    return shortened(text, 160) if isinstance(text, str) else shown(text)


def parsed(text: object, what: str, instead: str) -> ast.expr:
    """The syntax tree of one expression.

    Args:
        what: is read, for messages: "guidance".
        instead: the advice, such as "write e.g. cfg(4)".

    Raises:
        UsageError: in one line of bounded length for anything else, also for what is nested deeper than 100 levels.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what}: expected a text, got {shown(text)}; {instead}")

    def refused(reason: str) -> NoReturn:
        raise UsageError(f"{what} {quoted(text)} {reason}; {instead}") from None

    if "\0" in text:  # a SyntaxError since Python 3.11.4, before that a ValueError
        refused("is not an expression: it holds a null character")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and the like in what is refused or read anyway
            node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        if given := re.search(r"<[\w.]+>", text):
            raise UsageError(
                f"{what} {quoted(text)} holds the Python function {shortened(given[0])[1:-1]}, which no text can give; "
                "pass the object"
            ) from None
        reason = "a number in it has too many digits" if "integer string" in error.msg else error.msg
        refused(f"is not an expression: {shortened(reason, 120)[1:-1]}")
    except UnicodeEncodeError as error:
        refused(f"is not text: {error.reason}")
    except (RecursionError, MemoryError):
        refused("is nested too deeply to be read")
    except ValueError as error:
        refused(f"is not an expression: {shortened(str(error), 120)[1:-1]}")
    if _depth(node) > DEEPEST:
        refused("is nested too deeply to be read")
    return node


def number(node: ast.expr) -> int | float | None:
    """The number that is written there, with any signs; None if it is none. An integer beyond all floats is infinite,
    as 1e999 is."""
    sign = 1
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign = -sign if isinstance(node.op, ast.USub) else sign
        node = node.operand
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    try:
        float(node.value)
    except OverflowError:
        return sign * math.inf
    return sign * node.value


def keywords(call: ast.Call, name: str, what: str, text: str) -> dict[str, ast.expr]:
    """The arguments of a call of ``name`` by theirs.

    Raises:
        UsageError: for ``**`` and an argument that is given twice.
    """
    found: dict[str, ast.expr] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise UsageError(f"{what} {quoted(text)}: ** is not allowed")
        if keyword.arg in found:
            raise UsageError(f"{what} {quoted(text)}: {name}(...) got {shortened(keyword.arg)} twice")
        found[keyword.arg] = keyword.value
    return found


def source(node: ast.AST, text: str) -> str:
    """What is written there, in quotes."""
    try:
        return quoted(ast.unparse(node))
    except (ValueError, RecursionError):  # numbers of too many digits, quotes within quotes
        return quoted(ast.get_source_segment(text.strip(), node) or "...")


def _depth(node: ast.expr) -> int:
    """Levels of nesting; the terms of a sum, and what stands behind each ``|``, are on one."""
    deepest, todo = 0, [(node, 1)]
    while todo:
        at, depth = todo.pop()
        deepest = max(deepest, depth)
        for child in ast.iter_child_nodes(at):
            chained = isinstance(at, ast.BinOp) and child is at.left and isinstance(child, ast.BinOp)
            if isinstance(child, ast.expr | ast.keyword | ast.comprehension):
                todo.append((child, depth + (not chained and isinstance(child, ast.expr))))  # type: ignore[arg-type]
    return deepest
