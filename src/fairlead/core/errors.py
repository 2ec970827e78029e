"""The one error a user causes: its message is a single line saying what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong input. The command line prints the message and exits with code 2, without a traceback."""


def unknown(kind: str, given: object, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among ``known``: lists them, nearest spelling first."""
    names = list(known)
    near = difflib.get_close_matches(str(given), names)
    near.sort(key=lambda name: sorted(name) != sorted(str(given)))  # letters in another order are likeliest
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {str(given)!r}{hint} (known: {', '.join(names)})")
