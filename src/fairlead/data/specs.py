"""How conditions are written: one spec, or several by name in one string; and what data says of its samples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData

Spec = str | int | None
"""One condition as a person writes it: a class name, an index, a prompt, several by name, or None for null; see
:mod:`fairlead.models.encoders`."""
_PART = re.compile(r'\s*(?:([^=;"]+?)\s*=)?\s*("(?:[^"\\]|\\.)*"|[^;]*?)\s*(;|$)', re.DOTALL)
"""One part of a spec: name, if it has one, value, what ends it."""


def data_specs(conditions: Sequence[str], data: ImageData, index: Tensor) -> list[Spec]:
    """What ``data`` says of the samples at ``index`` (int64 [n]), as specs of a model that reads ``conditions``.

    Raises:
        UsageError: if the data does not say one of them.
    """
    said: dict[str, list[str | int | None]] = {}
    for name in conditions:
        if name == "label":
            said[name] = data.labels[index].tolist()
        elif name == "text" and data.captions:
            said[name] = [data.captions[i] for i in index.tolist()]
        elif name in data.attributes:
            attribute = data.attributes[name]
            said[name] = [attribute.values[i] if i >= 0 else None for i in attribute.labels[index].tolist()]
        elif name == "image":
            raise UsageError(
                "the model is shown an image, and only sample, interpolate and explain take such conditions; "
                "doctor, sweep and tune need a model without"
            )
        else:
            raise UsageError(f"data {data.name!r} does not say {name!r} of its images, which the model is told")
    if len(said) == 1:
        return list(next(iter(said.values())))
    rows = [dict(zip(said, row, strict=True)) for row in zip(*said.values(), strict=True)]
    return [written({name: value for name, value in row.items() if value is not None}) for row in rows]


def written(named: Mapping[str, str | int]) -> str:
    """The spec of several conditions, each by its name: ``{"label": 7, "text": "a red seven"}`` ->
    ``"label=7; text=a red seven"``."""
    for name in named:
        if not isinstance(name, str) or not re.fullmatch(r"[^=;\"\s](?:[^=;\"]*[^=;\"\s])?", name):
            raise UsageError(f"condition {dict(named)!r}: expected names without '=', ';' and quotes, got {name!r}")
    return "; ".join(f"{name}={_quoted(str(value))}" for name, value in named.items())


def _quoted(value: str) -> str:
    plain = value == value.strip() and ";" not in value and not value.startswith('"')
    return value if plain else json.dumps(value, ensure_ascii=False)


def parts_of(spec: str) -> list[tuple[str | None, str]]:
    """(name, value) of every part; None where a part has no name, or is not one."""
    found: list[tuple[str | None, str]] = []
    at = 0
    while at <= len(spec):
        match = _PART.match(spec, at)
        if match is None:
            return [*found, (None, spec[at:])]
        name, value, end = match.groups()
        if value.startswith('"') and name is not None:
            try:
                value = json.loads(value, strict=False)
            except ValueError:  # an escape that JSON does not know
                name = None
        found.append((name, value))
        at = match.end()
        if not end:
            break
    return found
