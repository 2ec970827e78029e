"""The one error a user causes: its message is a single line saying what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable

MOST_LISTED, LONGEST = 60, 200
"""Names that a message lists, characters of a given name that it repeats."""


_LONGEST_MESSAGE = 2_000
_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class UsageError(ValueError):
    """Raised for wrong input, with one line that says what to do.

    The command line prints the message and exits with code 2, without a traceback.
    The message is one line of at most 2,000 characters, whatever was given: line breaks become spaces, and the middle
    of a longer one is left out.
    """

    def __init__(self, message: object) -> None:
        text = _BREAKS.sub(" ", str(message))
        if len(text) > _LONGEST_MESSAGE:
            text = f"{text[: _LONGEST_MESSAGE - 605]} ... {text[-600:]}"
        super().__init__(text)


class Note(UserWarning):
    """What a user should know, in one line; nothing is wrong. The command line prints it as it prints an error."""


class Remark(Note):
    """A note about the run that goes on, such as too few images; said every time."""


_SAID: set[str] = set()


def note(text: str) -> None:
    """Say something once a process, as a warning of class :class:`Note`."""
    if text not in _SAID:
        _SAID.add(text)
        warnings.warn_explicit(text, Note, "fairlead", 0)  # no line of source behind it


def remark(text: str) -> None:
    """Say something, as a warning of class :class:`Remark`."""
    warnings.warn_explicit(text, Remark, "fairlead", 0)


def unknown(kind: str, given: object, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among ``known``: lists them, or the first of many, nearest spelling first."""
    names, name = list(known), str(given)
    near = difflib.get_close_matches(name[:LONGEST], names)
    near.sort(key=lambda other: sorted(other) != sorted(name))  # letters in another order are likeliest
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:MOST_LISTED])
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return UsageError(f"unknown {kind} {shortened(name, LONGEST)}{hint} (known: {listed}{more})")


def shortened(text: str, most: int = 60) -> str:
    """What was given, in quotes, for a message of one line: its first ``most`` characters."""
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")
