"""How the reference reads docstrings: an entry for several arguments (``steps, grid: ...``) is one for each of them,
and roles such as ``:func:`sample``` are the names that they stand for."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`~?([^`]+)`")
SEVERAL = re.compile(r"^( {4})(\w+(?:, \w+)+): (.*(?:\n {5,}.*)*)", re.M)


class Docstrings(griffe.Extension):
    """Rewrites the text of every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = SEVERAL.sub(_each, ROLE.sub(r"`\1`", obj.docstring.value))


def _each(found: re.Match[str]) -> str:
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
