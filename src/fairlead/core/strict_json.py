"""JSON as files hold it. Every JSON file that is read is read here: with limits, and with one meaning.

The seal of a description is a hash of all that it says, kept in it: who changes one by hand hears of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEEPEST, LARGEST = 64, 2**28
"""Brackets inside brackets, bytes of a file."""
SEAL = "seal"
"""Where a description keeps its seal."""


def parse_json(text: str | bytes, *, lines: bool = False) -> Any:
    """The value that ``text`` holds, with ``lines`` the list of the values of its lines; UTF-8 if it is bytes.

    Raises:
        ValueError: if it is no JSON, names a key twice, is nested deeper than 64 brackets, has a number of more digits
            than Python reads, or a text that cannot be written again (half of a surrogate pair).
    """
    if isinstance(text, bytes):
        text = text.decode()  # UnicodeDecodeError is a ValueError
    try:
        if lines:
            value: Any = [json.loads(line, object_pairs_hook=_once) for line in text.split("\n") if line.strip()]
        else:
            value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"brackets are nested deeper than {DEEPEST}") from None
    level, depth = [value], 0
    while level:
        if depth >= DEEPEST and any(isinstance(part, dict | list) for part in level):
            raise ValueError(f"brackets are nested deeper than {DEEPEST}")
        inside: list[Any] = []
        for part in level:
            if isinstance(part, str):
                part.encode()  # UnicodeEncodeError is a ValueError
            elif isinstance(part, dict):
                inside += [*part, *part.values()]
            elif isinstance(part, list):
                inside += part
        level, depth = inside, depth + 1
    return value


def read_json(path: Path, *, lines: bool = False) -> Any:
    """The value in a file, see :func:`parse_json`.

    Raises:
        OSError: if it cannot be read.
        ValueError: as :func:`parse_json`, and for a file of more than 256 MiB, or one that is no plain file.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
    return parse_json(text, lines=lines)


def seal_of(described: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of a description without its seal; the order of keys and spaces do not count."""
    plain = json.loads(json.dumps({key: value for key, value in described.items() if key != SEAL}))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sealed(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description with its seal, last."""
    return {**{key: value for key, value in described.items() if key != SEAL}, SEAL: seal_of(described)}


def opened(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description without its seal, which is checked where there is one: version 0.1.0 wrote none.

    Raises:
        ValueError: if it was changed after it was written.
    """
    plain = dict(described)
    seal = plain.pop(SEAL, None)
    if seal is not None and seal != (of := seal_of(plain)):
        raise ValueError(
            f"it was changed after it was written: it says {SEAL} {str(seal)[:40]!r}, its content has {of}"
        )
    return plain


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found
