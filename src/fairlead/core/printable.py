"""Text as a terminal may show it. Names of classes, files and columns come from others: a control character in one
could colour, erase or reorder what is printed, or make up a line of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unicodedata import category

_ORDER = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that change the direction in which what follows is shown."""
_EMBEDS = _ORDER[3:]
"""Those that do it for more than the place where they stand; the others belong to some scripts."""
_BAR = re.compile(r"(\n|\x1b\[A)+")
"""What a progress bar writes to go to its line, by itself."""


def printable(text: str) -> str:
    """``text`` in one line, its control characters, marks of direction and lone surrogates written as in Python's
    source: ``\\x1b``, ``\\n``, ``\\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _moves(char) or char in _ORDER else char for char in text)


def has_control(text: str) -> bool:
    """Whether a name has a character that no name needs: a control character, a line separator, half a surrogate pair,
    or a mark that turns the direction of more than its neighbours."""
    return any(_moves(char) or char in _EMBEDS for char in text)


@contextmanager
def printable_output() -> Iterator[None]:
    """Within the block standard output and standard error show text as :func:`printable` makes it, line by line."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Printable(before[0]), _Printable(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Printable:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not (text.isprintable() or _BAR.fullmatch(text)):
            start = "\r" if text.startswith("\r") else ""  # of a progress bar, to draw over itself
            lines = text[len(start) :].split("\n")
            text = start + "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)
        elif not text.isascii():
            text = printable(text) if any(char in _ORDER for char in text) else text
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _moves(char: str) -> bool:
    return category(char) in ("Cc", "Zl", "Zp", "Cs")


def _escaped(char: str) -> str:
    return repr(char)[1:-1] if not char.isprintable() else f"\\u{ord(char):04x}"
