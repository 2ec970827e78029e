"""Names of classes and values, and numbers among them: one rule for Python, the command line, files and expressions.

Text is a name first, in any Unicode form, then without regard to case. A number is the place of a name, from 0, only
where it could not be a name: it is refused where names are numbers that are not their places (1, 2, 3) or another name
is that number, and as text also where another name has it inside ("2 stars"). ``index 3`` and :class:`Index` are places
everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unicodedata import normalize

from fairlead.core.arguments import plain, shown
from fairlead.core.errors import MOST_LISTED, UsageError, shortened


class Index(int):
    """A place among names, where an ``int`` of the user's may be meant as a name."""


def composed(text: str) -> str:
    """The one spelling of texts that look alike: accents and marks joined to their letters (NFC)."""
    return normalize("NFC", text)


def folded(text: str) -> str:
    """The same without regard to case."""
    return normalize("NFC", normalize("NFD", text).casefold())


def same_names(a: Iterable[str], b: Iterable[str]) -> bool:
    """Whether these are the same names in the same order, in whatever Unicode form."""
    return [*map(composed, a)] == [*map(composed, b)]


@dataclass(frozen=True)
class Names:
    """Names in the order of their labels.

    Attributes:
        what: they are names of, "class" or an attribute.
    """

    names: tuple[str, ...]
    what: str = "class"

    def place(self, given: Any) -> int:
        """The place of what was given.

        Raises:
            UsageError: for what is no name and no place, or could be two.
        """
        given = plain(given)
        if isinstance(given, Index):
            return self._within(given)
        if isinstance(given, str):
            return self._of_text(given)
        if isinstance(given, int) and not isinstance(given, bool):
            if self.numbered or any(number == given != place for place, number in self._numbers):
                raise UsageError(
                    f"{self.what} {given}: names here are numbers ({self._known}), so this could be one of them or a "
                    f"place; give the name as text, or 'index {given}'"
                )
            return self._within(given)
        raise self._unknown(given)

    def find(self, given: Any) -> int | None:
        """:meth:`place`, None where that would refuse."""
        try:
            return self.place(given)
        except UsageError:
            return None

    def written(self, place: int) -> str:
        """What is written for a place, and read back as it: its name, or "index 3" where another has the same name."""
        name = self.names[place]
        return name if len(self._exact[name]) == 1 else f"index {place}"

    def _of_text(self, text: str) -> int:
        exact = self._exact.get(text) or self._spelled.get(composed(text)) or ()
        if len(exact) > 1:
            places = " and ".join(f"'index {place}'" for place in exact[:4])
            raise UsageError(f"{self.what} {shortened(text)} is the name of several; give one of {places}")
        alike = exact or self._alike.get(folded(text), ())
        if len(alike) == 1:
            return alike[0]
        if place := re.fullmatch("index ([0-9]{1,18})", text):
            return self._within(int(place[1]))
        if not re.fullmatch("-?[0-9]{1,18}", text):
            raise self._unknown(text)
        number = int(text)
        if self.numbered:
            raise self._unknown(text)
        others = [name for place, name in enumerate(self.names) if place != number and number in _inside(name)]
        if others and 0 <= number < len(self.names):
            raise UsageError(
                f"{self.what} {text!r} could be {others[0]!r}, or index {number}, which is {self.names[number]!r}; "
                f"give the whole name, or 'index {number}'"
            )
        return self._within(number)

    def _within(self, number: int) -> int:
        last = len(self.names) - 1
        if 0 <= number <= last:
            return int(number)
        raise UsageError(f"{self.what} index {number} is out of range: expected 0 to {last} ({self._known})")

    def _unknown(self, given: object) -> UsageError:
        places = "" if self.numbered else f", or 0 to {len(self.names) - 1}"
        text = shortened(given) if isinstance(given, str) else shown(given)
        return UsageError(f"unknown {self.what} {text} (known: {self._known}{places})")

    @property
    def _known(self) -> str:
        more = f" and {len(self.names) - MOST_LISTED:,} more" if len(self.names) > MOST_LISTED else ""
        return ", ".join(self.names[:MOST_LISTED]) + more

    @cached_property
    def _exact(self) -> dict[str, tuple[int, ...]]:
        return _places(self.names)

    @cached_property
    def _spelled(self) -> dict[str, tuple[int, ...]]:
        return _places(map(composed, self.names))

    @cached_property
    def _alike(self) -> dict[str, tuple[int, ...]]:
        return _places(map(folded, self.names))

    @cached_property
    def numbered(self) -> bool:
        """Whether the names, or several of them, are numbers that are not their places."""
        elsewhere = [place for place, number in self._numbers if number != place]
        return len(elsewhere) > 1 or (bool(elsewhere) and len(self._numbers) == len(self.names))

    @cached_property
    def _numbers(self) -> list[tuple[int, float]]:
        """(place, number) of the names that are numbers."""
        found = ((place, _number(name)) for place, name in enumerate(self.names))
        return [(place, number) for place, number in found if number is not None]


def _places(spellings: Iterable[str]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for place, spelling in enumerate(spellings):
        found[spelling] = (*found.get(spelling, ()), place)
    return found


def _number(name: str) -> float | None:
    """The number that a whole name is, in any digits: 1, 01, 1.0, 1e3, ١."""
    try:
        number = float(normalize("NFKC", name))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _inside(name: str) -> set[int]:
    """The numbers in a name: 2 in "2 stars"."""
    return {int(digits) for digits in re.findall("[0-9]{1,18}", normalize("NFKC", name))}
