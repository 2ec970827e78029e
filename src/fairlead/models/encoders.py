"""What a person writes -> a ``Condition``, for models of one condition or of several.

A spec is one condition: a class name or index where the model has labels, a prompt where it reads text, None for null.
Where it has several, each by its name: ``"label=seven; text=a red seven"``, or the same as a mapping; what is not named
is null. A value with a semicolon is quoted as in JSON. A string that names nothing is the text, or the label of a model
without text. An empty prompt is null, as None is. ``named`` of an encoder is the spec as it is written: classes and
values by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairlead.core.arguments import plain, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.data.degrade import Degradation
from fairlead.data.names import composed
from fairlead.data.specs import Given, Spec, parts_of, written
from fairlead.models.model import LabelEncoder, listed, only_texts
from fairlead.models.negatives import expanded

_MOST = 4096
"""Prompts whose values are remembered: a run encodes each of its prompts once a batch and branch."""


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """Prompts -> the value of "text", each different prompt once.

    Attributes:
        encode: prompts -> [n, ...]; may refuse one with a UsageError.
    """

    encode: Callable[[Sequence[str]], Tensor]
    _known: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)

    __repr__ = brief

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        specs = listed(specs)
        prompts = [expanded((self.named(spec) or "").strip()) for spec in specs]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            self._known.update(zip(new, self.encode(new), strict=True))
        value = torch.stack([self._known[prompt] for prompt in prompts])
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return Condition(len(specs), {"text": value}, {"text": torch.tensor([bool(prompt) for prompt in prompts])})

    def named(self, spec: Given) -> str | None:
        return only_texts("reads text; give a prompt such as 'a red seven'", spec)


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

    __repr__ = brief

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        specs = listed(specs)
        empty = torch.zeros(self.kind.channels(self.shape[0]), *self.shape[1:])
        values = [empty if spec is None else self._read(spec) for spec in specs]
        keep = torch.tensor([spec is not None for spec in specs])
        return Condition(len(specs), {"image": torch.stack(values)}, {"image": keep})

    def named(self, spec: Given) -> str | None:
        return only_texts("is shown an image; give the path of a file", spec)

    def _read(self, spec: Spec) -> Tensor:
        path = self.named(spec)
        assert path is not None
        if path not in self._known:
            self._known[path] = self.kind.read(path, self.shape)
        return self._known[path]


@dataclass(frozen=True, eq=False)
class ConditionEncoder:
    """Specs of a model with several conditions, or with one that is not its label.

    Attributes:
        parts: name -> what encodes that condition.
    """

    parts: Mapping[str, LabelEncoder | PromptEncoder | ImageEncoder]

    __repr__ = brief

    @property
    def default(self) -> str:
        """The condition that a spec without names means."""
        return next((name for name in ("text", "label") if name in self.parts), next(iter(self.parts)))

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        specs = listed(specs)
        read = [self.read(spec) for spec in specs]
        values: dict[str, Tensor] = {}
        keep: dict[str, Tensor] = {}
        for name, encoder in self.parts.items():
            part = encoder([named.get(name) for named in read])
            (inner,) = part.values
            values[name], keep[name] = part.values[inner], part.keep[inner]
        return Condition(len(specs), values, keep)

    def named(self, spec: Given) -> str | None:
        """Raises UsageError as :meth:`read`, and for a class or value that there is not."""
        given = self.read(spec)
        found = {name: self.parts[name].named(value) for name, value in given.items() if value is not None}
        value = found.get(self.default)
        if value is not None and len(found) == 1 and self.read(value) == {self.default: value}:
            return value
        return written(found) or None

    def read(self, spec: Given) -> dict[str, Spec]:
        """Name -> the spec of that condition; what is not named is left out.

        Raises:
            UsageError: for a name given twice, or one among named ones that the model has not.
        """
        if spec is None:
            return {}
        parts: list[tuple[str | None, Spec]] = []
        if isinstance(spec, Mapping):
            parts = [(str(name), plain(value)) for name, value in spec.items()]
        elif isinstance(spec, str):
            parts = [*parts_of(spec)]
        known = {composed(name): name for name in self.parts}
        parts = [(name and known.get(composed(name), name), value) for name, value in parts]
        if not isinstance(spec, Mapping) and not any(name in self.parts for name, _ in parts):
            return {self.default: spec}
        named: dict[str, Spec] = {}
        for name, value in parts:
            if name is None:
                raise UsageError(
                    f"condition {spec!r}: expected every part as NAME=..., separated by ';', with names among "
                    f"{', '.join(self.parts)}"
                )
            if name not in self.parts:
                raise unknown(f"condition in {shown(spec)}:", name, self.parts)
            if name in named:
                raise UsageError(f"condition {spec!r}: {name!r} is given twice; give it once")
            named[name] = value
        return named
