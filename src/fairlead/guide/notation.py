"""How guidance objects are written: the printing half of the expression grammar (``expression`` reads)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fairlead.core.arguments import plain

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: no text in UTF-8 can hold it."""


def is_number(value: object) -> bool:
    """A float, or an int that fits in one; not a bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def plain_fields(instance: Any) -> None:
    """Numbers of numpy and torch among the fields of a frozen dataclass become Python's own."""
    for field in fields(instance):
        value = getattr(instance, field.name)
        if (number := plain(value)) is not value:
            object.__setattr__(instance, field.name, number)


def literal(value: Any) -> str:
    """4 for 4.0, "seven" quoted, dicts and tuples in full, anything else by its own ``str``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, str):
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return str(value)


def call_text(name: str, instance: Any) -> str:
    """``name(first, second, keyword=...)`` of a dataclass; what has its default is left out."""
    arguments, gap = [], False
    for field in fields(instance):
        value = getattr(instance, field.name)
        if value == field.default:
            gap = True
        elif field.kw_only or gap:
            arguments.append(f"{field.name}={literal(value)}")
        else:
            arguments.append(literal(value))
    return f"{name}({', '.join(arguments)})"
