"""Conditions: named tensors with a keep mask per name. Dropping in training and nulling in guidance are one mechanism.

A network that receives ``keep[name][i] == False`` uses its own null token of that name for sample i and does not read
``values[name][i]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fairlead.core.arguments import as_tensor, is_count, plain_list, shown
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError


@dataclass(frozen=True)
class Perturbation:
    """Something a network does worse on purpose, in the layers named, for guidance away from the result.

    Attributes:
        kind: "identity_attention": every position attends to itself only; "blur_queries": queries are blurred over
            space; "skip": the block passes its input on; "negative_text": what is read from the text moves away from
            what would be read from another one, ``Condition.negative``.
        layers: names of the network's layers, see ``Model.layers``.
        amount: of "blur_queries", the standard deviation of the Gaussian in positions; inf is their mean. Of
            "negative_text", the scale; 1 is off.
        limit: of "negative_text", the largest norm of what is read, over that of the text's own.
        blend: of "negative_text", the share of the result, the rest being the text's own.
        negative: of "negative_text", the spec of the other text; None is null.
    """

    kind: Literal["identity_attention", "blur_queries", "skip", "negative_text"]
    layers: tuple[str, ...]
    amount: float = 0.0
    limit: float = math.inf
    blend: float = 1.0
    negative: str | int | None = None


@dataclass(frozen=True, eq=False)
class Condition:
    """The conditions of n samples: named tensors, each with a keep mask.

    Attributes:
        n: number of samples.
        values: name -> tensor [n, ...]; e.g. ``label`` int64 [n], or floating [n, dim]: embeddings already made.
        keep: name -> bool [n]; False means null for that sample. The same names as ``values``.
        perturb: perturbation -> bool [n], the samples for which the network applies it.
        negative: of n samples too, whose text those of a perturbation "negative_text" move away from; None where there
            is no such perturbation.
        null: name -> floating [n, ...]: what stands in the place of the network's own null token, in its form; of
            names without it the network's own. See ``Model.null_tokens``.
    """

    n: int
    values: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    perturb: Mapping[Perturbation, Tensor] = field(default_factory=dict)
    negative: Condition | None = None
    null: Mapping[str, Tensor] = field(default_factory=dict)

    __repr__ = brief

    def __post_init__(self) -> None:
        if not is_count(self.n, 0):
            raise UsageError(f"condition: expected a number of samples, got {shown(self.n)}")
        if not isinstance(self.values, Mapping) or not isinstance(self.keep, Mapping):
            raise UsageError("condition: expected values and keep masks by name, {name: tensor}; see Condition.of")
        if set(self.values) != set(self.keep):
            raise UsageError(f"condition: values name {sorted(self.values)} but keep masks name {sorted(self.keep)}")
        for name, value in self.values.items():
            if not isinstance(value, Tensor) or not isinstance(self.keep[name], Tensor):
                raise UsageError(
                    f"condition {name!r}: expected tensors, got {shown(value)} and {shown(self.keep[name])}; "
                    "Condition.of takes lists too"
                )
            if value.ndim == 0 or self.keep[name].dtype != torch.bool:
                raise UsageError(
                    f"condition {name!r}: expected values [{self.n}, ...] and a bool keep mask [{self.n}], "
                    f"got values {tuple(value.shape)} and a mask of {self.keep[name].dtype}"
                )
            if value.shape[0] != self.n or self.keep[name].shape != (self.n,):
                raise UsageError(
                    f"condition {name!r}: expected {self.n} samples, got values {tuple(value.shape)} "
                    f"and a keep mask {tuple(self.keep[name].shape)}"
                )
        if self.negative is None and any(p.kind == "negative_text" for p in self.perturb):
            raise UsageError(
                "condition: a perturbation 'negative_text' needs a negative; give perturbed(..., negative)"
            )
        if self.negative is not None and self.negative.n != self.n:
            raise UsageError(f"condition: expected a negative of {self.n} samples, got one of {self.negative.n}")
        for name, token in self.null.items():
            if name not in self.values or len(token) != self.n:
                raise UsageError(
                    f"condition: expected null tokens of {self.n} samples for {sorted(self.values)}, got {name!r} of "
                    f"{len(token)}"
                )

    @classmethod
    def of(cls, **values: Any) -> Condition:
        """All values kept: ``Condition.of(label=[3, 5])``, lists, arrays or tensors [n, ...]."""
        if not values:
            raise UsageError("Condition.of(): expected at least one named tensor; an empty condition is Condition(n)")
        found = {name: _values(name, value) for name, value in values.items()}
        first = next(iter(found.values()))
        n = len(first) if first.ndim else 1
        return cls(n, found, {name: torch.ones(n, dtype=torch.bool, device=v.device) for name, v in found.items()})

    @property
    def is_null(self) -> bool:
        """True if nothing is kept for any sample."""
        return not any(bool(mask.any()) for mask in self.keep.values())

    def drop(self, mask: Tensor | None = None, names: Iterable[str] | None = None) -> Condition:
        """Null the given ``names`` (default: all) of the samples where ``mask`` (bool [n]; default: all) is True."""
        given: Any = [names] if isinstance(names, str) else names
        if isinstance(given, Iterable) and not isinstance(given, Tensor):
            given = list(given)
        if not isinstance(given, list | None) or not all(isinstance(name, str) for name in given or ()):
            raise UsageError(f"drop: expected names of conditions, got {shown(names)}")
        chosen = set(self.values if given is None else given)
        missing = chosen - set(self.values)
        if missing:
            raise UsageError(f"condition has no {sorted(missing)}; it has {sorted(self.values)}")
        mask = None if mask is None else as_tensor("drop", mask)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (self.n,)):
            raise UsageError(f"drop: expected a bool mask [{self.n}], got {mask.dtype} {list(mask.shape)}")
        keep = {
            name: (old & ~mask.to(old.device) if mask is not None else torch.zeros_like(old)) if name in chosen else old
            for name, old in self.keep.items()
        }
        return replace(self, keep=keep)

    def perturbed(
        self, perturbation: Perturbation, rows: Tensor | None = None, negative: Condition | None = None
    ) -> Condition:
        """The same, with the network perturbed for the samples where ``rows`` (bool [n]; default: all) is True.

        Args:
            negative: of a perturbation "negative_text", of n samples.
        """
        where = torch.ones(self.n, dtype=torch.bool) if rows is None else rows
        perturb = {**self.perturb, perturbation: where.to(self.device)}
        return replace(self, perturb=perturb, negative=self.negative if negative is None else negative)

    def __getitem__(self, index: Tensor | slice | int | Sequence[int]) -> Condition:
        """The samples at ``index`` (a slice, a number, int64 indices or a bool mask [n])."""
        if not isinstance(index, Tensor | slice):
            index = self._index(index)
        values = {name: v[index] for name, v in self.values.items()}
        keep = {name: k[index] for name, k in self.keep.items()}
        on_mask = index if isinstance(index, slice) else index.to(self.device)
        perturb = {name: mask[on_mask] for name, mask in self.perturb.items()}
        n = len(range(self.n)[index]) if isinstance(index, slice) else _count(index)
        null = {name: token[index] for name, token in self.null.items()}
        return Condition(n, values, keep, perturb, None if self.negative is None else self.negative[index], null)

    def _index(self, index: Any) -> Tensor | slice:
        index = plain_list(index)
        if isinstance(index, int) and not isinstance(index, bool):
            place = range(self.n)[index]  # an IndexError ends a loop over samples
            return slice(place, place + 1)
        if not isinstance(index, list | tuple | range) or not all(isinstance(place, int) for place in index):
            raise UsageError(f"condition[...]: expected a slice, a number or a list of numbers, got {shown(index)}")
        return torch.tensor(index, dtype=None if index else torch.int64)

    @property
    def device(self) -> torch.device:
        """Where values and masks are; the CPU if it holds none, wherever the network is."""
        return next((mask.device for mask in self.keep.values()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> Condition:
        return self.mapped(lambda value: value.to(device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same condition with every tensor changed, to another device or memory."""
        return Condition(
            self.n,
            {name: change(v) for name, v in self.values.items()},
            {name: change(k) for name, k in self.keep.items()},
            {name: change(mask) for name, mask in self.perturb.items()},
            None if self.negative is None else self.negative.mapped(change),
            {name: change(token) for name, token in self.null.items()},
        )

    def equals(self, other: Condition) -> bool:
        """Same samples for the network: equal keep masks, equal values where kept, equal null tokens where not."""
        if not isinstance(other, Condition):
            raise UsageError(f"condition: expected another one to compare with, got {shown(other)}")
        if self.n != other.n or set(self.values) != set(other.values) or set(self.perturb) != set(other.perturb):
            return False
        if (self.negative is None) != (other.negative is None):
            return False
        if self.negative is not None and other.negative is not None and not self.negative.equals(other.negative):
            return False
        for name in {*self.null, *other.null}:
            dropped = ~self.keep[name]
            if bool(dropped.any()) and not (
                name in self.null
                and name in other.null
                and torch.equal(self.null[name][dropped], other.null[name][dropped])
            ):
                return False
        return all(torch.equal(mask, other.perturb[name]) for name, mask in self.perturb.items()) and all(
            torch.equal(self.keep[name], other.keep[name])
            and torch.equal(self.values[name][self.keep[name]], other.values[name][other.keep[name]])
            for name in self.values
        )

    @staticmethod
    def cat(parts: Iterable[Condition]) -> Condition:
        """One after the other along the sample axis; all parts must have the same names."""
        parts = list(parts) if isinstance(parts, Iterable) else []
        if not parts or not all(isinstance(part, Condition) for part in parts):
            raise UsageError(f"conditions to join: expected a list of them, got {shown(parts)}")
        names = parts[0].values.keys()
        if any(part.values.keys() != names for part in parts):
            raise UsageError(f"conditions to join have different names: {[sorted(p.values) for p in parts]}")
        if any(part.null.keys() != parts[0].null.keys() for part in parts):
            raise UsageError(
                f"conditions to join: some have null tokens of their own, {[sorted(p.null) for p in parts]}; give all"
            )
        n = sum(part.n for part in parts)
        perturb: dict[Perturbation, Tensor] = {}
        start = 0
        for part in parts:
            for name, mask in part.perturb.items():
                if name not in perturb:
                    perturb[name] = torch.zeros(n, dtype=torch.bool, device=part.device)
                perturb[name][start : start + part.n] = mask
            start += part.n
        negative = None
        if any(part.negative is not None for part in parts):  # the others move away from nothing
            alone = [part.negative or Condition(part.n, part.values, part.keep, null=part.null) for part in parts]
            negative = Condition.cat(alone)
        return Condition(
            n,
            {name: torch.cat([part.values[name] for part in parts]) for name in names},
            {name: torch.cat([part.keep[name] for part in parts]) for name in names},
            perturb,
            negative,
            {name: torch.cat([part.null[name] for part in parts]) for name in parts[0].null},
        )


def _values(name: str, value: Any) -> Tensor:
    """[n, ...]"""
    if isinstance(value, str) or (isinstance(value, list | tuple) and any(isinstance(entry, str) for entry in value)):
        raise UsageError(f"condition {name!r}: names and prompts go through model.encode([...]), got {shown(value)}")
    return as_tensor(f"condition {name!r}", value)


def _count(index: Tensor) -> int:
    return int(index.sum()) if index.dtype == torch.bool else len(index)
