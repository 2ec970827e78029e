"""How conditions are written: one spec, or several by name in one string; and what data says of its samples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.data.names import Names, composed

Spec = str | int | None
"""One condition as a person writes it: a class name, an index, a prompt, several by name, or None for null; see
:mod:`fairlead.models.encoders`. What a program writes has no indices: names cannot be taken for anything else."""
Given = Spec | Mapping[str, Spec]
"""A spec, or several conditions by name."""
_PART = re.compile(r'\s*(?:([^=;"]+?)\s*=)?\s*("(?:[^"\\]|\\.)*"|[^;]*?)\s*(;|$)', re.DOTALL)
"""One part of a spec: name, if it has one, value, what ends it."""


def data_specs(conditions: Sequence[str], data: ImageData, index: Tensor) -> list[Spec]:
    """What ``data`` says of the samples at ``index`` (int64 [n]), as specs of a model that reads ``conditions``.

    Raises:
        UsageError: if the data does not say one of them.
    """
    said: dict[str, list[str | None]] = {}
    for name in conditions:
        if name == "label":
            classes = Names(data.classes)
            said[name] = [classes.written(label) for label in data.labels[index].tolist()]
        elif name == "text" and data.captions:
            said[name] = [data.captions[i] for i in index.tolist()]
        elif name in data.attributes:
            attribute = data.attributes[name]
            said[name] = [attribute.values[i] if i >= 0 else None for i in attribute.labels[index].tolist()]
        elif name == "image":
            raise UsageError(
                "the model is conditioned on an image, and only sample, interpolate and explain take such conditions; "
                "doctor, sweep and tune need a model without"
            )
        else:
            raise UsageError(f"data {data.name!r} lacks {name!r}, which the model is conditioned on")
    if len(said) == 1:
        ((name, values),) = said.items()
        return [value if name == "label" or value is None else alone(name, value) for value in values]
    rows = [dict(zip(said, row, strict=True)) for row in zip(*said.values(), strict=True)]
    return [written(row) or None for row in rows]


def alone(name: str, value: str) -> str:
    """The spec of the only condition: its value, which is named where it would be read as one that is."""
    return written({name: value}) if any(composed(part or "") == name for part, _ in parts_of(value)) else value


def written(named: Mapping[str, Spec]) -> str:
    """The spec of several conditions, each by its name, without those that are None:
    ``{"label": "seven", "text": "a red seven"}`` -> ``"label=seven; text=a red seven"``."""
    for name in named:
        if not isinstance(name, str) or not re.fullmatch(r"[^=;\"\s](?:[^=;\"]*[^=;\"\s])?", name):
            raise UsageError(f"condition {dict(named)!r}: expected names without '=', ';' and quotes, got {name!r}")
    for name, value in named.items():
        if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
            raise UsageError(f"condition {name!r}: expected a name, an index, a text or None, got {shown(value)}")
    return "; ".join(f"{name}={_quoted(str(value))}" for name, value in named.items() if value is not None)


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
