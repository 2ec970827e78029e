"""Standard output and error: closed ones, readers that leave, and the parser's boxes as one line."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any

from fairlead.core.errors import LONGEST, UsageError, shortened

WRITER_STOPPED = 128 + 13
"""The exit code that a shell shows for what a closed pipe stopped (SIGPIPE)."""
_LONGEST = 400
"""Characters of the parser's errors that are kept."""
_EDGES = "│|╭╮╰╯┌┐└┘ "
_RULE = re.compile(r"[─\-_=]{8,}$")


def open_streams() -> None:
    """Give a closed standard stream (``>&-``) a place to write to, and let text that the terminal's encoding lacks be
    written with escapes."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def silenced(stream: Any) -> None:
    """Let what is still to be written to a stream vanish, so that the interpreter does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):  # a stream of tests has no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def parser_errors_in_one_line(arguments: Sequence[str]) -> Iterator[None]:
    """Turns the box that the parser prints for wrong arguments into a UsageError.

    Raises:
        UsageError: with what the box says, in place of the parser's SystemExit; at once for an option whose name is
            so long that the parser would look for similar ones for half a minute.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and len(name) > LONGEST:
            raise UsageError(f"Unrecognized options: {shortened(name)[1:-1]}; see fairlead --help")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(_one_line(said.getvalue())) from end


def _one_line(box: str) -> str:
    """The message of a box and what it suggests, without frame, descriptions of options and rules."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first is the title
        text = line.strip(_EDGES)
        if _RULE.match(text):
            parts.append([])
        elif text:
            parts[-1].append(text)
    parts = [part for part in parts if part] or [["wrong arguments"]]
    message = " ".join(parts[0]).rstrip(".")
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST - 3]}..."
    more = [" ".join(part) for part in parts[1:]]
    near = next((found[1] for text in more if (found := re.match(r"Perhaps you meant: (--[\w-]+)", text))), None)
    known = next((text for text in more if text.startswith("Available")), None)
    hint = f"; did you mean {near}?" if near else f" ({known[0].lower()}{known[1:]})" if known else ""
    seen = re.search(r"fairlead[\w -]*--help", more[-1] if more else "")
    return f"{message}{hint}; see {seen[0] if seen else 'fairlead --help'}"
