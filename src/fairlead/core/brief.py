"""How objects that hold tensors, networks and long lists are printed: on a few lines at most. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_FEW, _LONG = 6, 60
"""Entries of a list that are printed, characters of a value."""


def brief(self: Any) -> str:
    """``__repr__`` of a dataclass: the fields that are not their defaults, tensors by dtype and shape, long texts and
    lists by their beginning."""
    shown = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}
    defaults = {field.name: field.default for field in fields(self)}
    parts = [f"{name}={_short(value)}" for name, value in shown.items() if value is not defaults[name]]
    return f"{type(self).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "tolist"):  # of torch or numpy
        few = value.ndim == 1 and len(value) <= _FEW
        return str(value.tolist()) if few else f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if hasattr(value, "state_dict"):
        return type(value).__name__
    if isinstance(value, Mapping):
        parts = [f"{_short(key)}: {_short(entry)}" for key, entry in list(value.items())[:_FEW]]
        return "{" + _listed(parts, len(value)) + "}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        parts = [_short(entry) for entry in value[:_FEW]]
        inside = _listed(parts, len(value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if is_dataclass(value) and type(value).__repr__ is brief:
        return f"{type(value).__name__}(...)"
    if callable(value) and not is_dataclass(value):
        return getattr(value, "__name__", type(value).__name__)
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _listed(parts: list[str], count: int) -> str:
    return ", ".join(parts) + (f", ... {count} in all" if count > len(parts) else "")
