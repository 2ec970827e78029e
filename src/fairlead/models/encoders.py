"""What a person writes -> a ``Condition``, for models of one condition or of several.

A spec is one condition: a class name or index where the model has labels, a prompt where it reads text, None for null.
Where it has several, each by its name: ``"label=seven; text=a red seven"``; what is not named is null. A value with a
semicolon is quoted as in JSON. A string that names nothing is the text, or the label of a model without text. An empty
prompt is null, as None is.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.data.degrade import Degradation
from fairlead.data.images import ImageData
from fairlead.data.negatives import expanded
from fairlead.models.model import LabelEncoder, Spec

_MOST = 4096
"""Prompts whose values are remembered: a run encodes each of its prompts once a batch and branch."""
_PART = re.compile(r'\s*(?:([^=;"]+?)\s*=)?\s*("(?:[^"\\]|\\.)*"|[^;]*?)\s*(;|$)', re.DOTALL)
"""One part of a spec: name, if it has one, value, what ends it."""


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """Prompts -> the value of "text", each different prompt once.

    Attributes:
        encode: prompts -> [n, ...]; may refuse one with a UsageError.
    """

    encode: Callable[[Sequence[str]], Tensor]
    _known: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        for spec in specs:
            if spec is not None and not isinstance(spec, str):
                raise UsageError(f"condition {spec!r}: this model reads text; give a prompt such as 'a red seven'")
        prompts = [expanded(str(spec or "").strip()) for spec in specs]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            self._known.update(zip(new, self.encode(new), strict=True))
        value = torch.stack([self._known[prompt] for prompt in prompts])
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return Condition(len(specs), {"text": value}, {"text": torch.tensor([bool(prompt) for prompt in prompts])})


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """Files -> the value of "image".

    Attributes:
        kind: what it shows of an image.
        shape: of the images, (c, s, s).
    """

    kind: Degradation
    shape: tuple[int, ...]
    _known: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        empty = torch.zeros(self.kind.channels(self.shape[0]), *self.shape[1:])
        values = [empty if spec is None else self._read(spec) for spec in specs]
        keep = torch.tensor([spec is not None for spec in specs])
        return Condition(len(specs), {"image": torch.stack(values)}, {"image": keep})

    def _read(self, spec: str | int) -> Tensor:
        if not isinstance(spec, str):
            raise UsageError(f"condition {spec!r}: this model is shown an image; give the path of a file")
        if spec not in self._known:
            self._known[spec] = self.kind.read(spec, self.shape)
        return self._known[spec]


@dataclass(frozen=True, eq=False)
class ConditionEncoder:
    """Specs of a model with several conditions, or with one that is not its label.

    Attributes:
        parts: name -> what encodes that condition.
    """

    parts: Mapping[str, LabelEncoder | PromptEncoder | ImageEncoder]

    @property
    def default(self) -> str:
        """The condition that a spec without names means."""
        return next((name for name in ("text", "label") if name in self.parts), next(iter(self.parts)))

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        read = [self.read(spec) for spec in specs]
        values: dict[str, Tensor] = {}
        keep: dict[str, Tensor] = {}
        for name, encoder in self.parts.items():
            part = encoder([named.get(name) for named in read])
            (inner,) = part.values
            values[name], keep[name] = part.values[inner], part.keep[inner]
        return Condition(len(specs), values, keep)

    def read(self, spec: Spec) -> dict[str, Spec]:
        """Name -> the spec of that condition; what is not named is left out.

        Raises:
            UsageError: for a name given twice, or one among named ones that the model has not.
        """
        if spec is None:
            return {}
        parts = _parts(spec) if isinstance(spec, str) else []
        if not any(name in self.parts for name, _ in parts):
            return {self.default: spec}
        named: dict[str, Spec] = {}
        for name, value in parts:
            if name is None:
                raise UsageError(
                    f"condition {spec!r}: expected every part as NAME=..., separated by ';', with names among "
                    f"{', '.join(self.parts)}"
                )
            if name not in self.parts:
                raise unknown(f"condition in {spec!r}:", name, self.parts)
            if name in named:
                raise UsageError(f"condition {spec!r}: {name!r} is given twice; give it once")
            named[name] = value
        return named


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


def _parts(spec: str) -> list[tuple[str | None, str]]:
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
