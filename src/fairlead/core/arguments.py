"""Arguments of the public functions: numbers of numpy and torch as Python's own; what is none is refused.

Without torch, which the command line imports late.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor

MOST = 2**31
"""Below this are counts of anything: samples, steps, pixels."""


def plain(value: Any) -> Any:
    """The Python number of a numpy scalar, or of a numpy array or tensor without axes; anything else as it is."""
    if type(value).__module__ == "builtins":
        return value
    item = getattr(value, "item", None)
    if item is None or getattr(value, "ndim", None) != 0:
        return value
    try:
        return item()
    except RuntimeError:  # a tensor without data
        return value


def plain_list(value: Any) -> Any:
    """A list for a numpy array or tensor with axes; a single number as :func:`plain`; anything else as it is."""
    value = plain(value)
    return value.tolist() if getattr(value, "ndim", 0) and hasattr(value, "tolist") else value


def is_count(value: object, least: int = 1) -> bool:
    """An integer of at least ``least`` that can be a count, not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < MOST


def shown(value: object, most: int = 160) -> str:
    """What was given, on one line, for a message: its ``repr``, cut; an integer that is too long to be written is
    described."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # more digits than Python writes, inside containers too
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else "a number of too many digits"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def chosen(what: str, value: Any, choices: Iterable[str]) -> None:
    """Raise UsageError unless the value is one of the choices."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise unknown(what, value if isinstance(value, str) else shown(value), choices)


def as_path(what: str, value: Any) -> Path:
    """Raises UsageError for what is no path."""
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise UsageError(f"{what}: expected a path, got {shown(value)}")
    return Path(value)


def as_mapping(what: str, value: Any) -> Mapping[str, Any]:
    """{} for None; raises UsageError for anything but a mapping with names for keys."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{what}: expected things by name, such as {{'name': ...}}, got {shown(value)}")
    return value


def as_tensor(what: str, value: Any, wide: bool = False) -> Tensor:
    """A tensor as it is, or one of numbers of numpy or Python, or lists of those, in float64 if ``wide``.

    Raises:
        UsageError: for anything else.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.as_tensor(plain_list(value), dtype=torch.float64 if wide else None)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(f"{what}: expected numbers, a tensor or a list of those, got {shown(value)}") from error


def as_names(what: str, value: Any) -> tuple[str, ...]:
    """A tuple of texts; raises UsageError for one text, and for anything but a list of them."""
    if isinstance(value, str) or not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise UsageError(f"{what}: expected a list of texts, got {shown(value)}")
    return tuple(value)
