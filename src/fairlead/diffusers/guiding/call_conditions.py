"""The arguments of a pipeline's network for the rows that a guidance asks for, from those that the pipeline passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.models.model import LabelEncoder, Spec, encode_nothing

_SHARED = ("txt_ids", "img_ids")  # positions, the same for all rows
_CACHED = 512


@dataclass(frozen=True)
class Halves:
    """Which rows of a pipeline's batch belong to its n samples: conditional ones from ``own``, null ones from ``null``
    (None: there are none)."""

    n: int
    own: int = 0
    null: int | None = None

    @property
    def rows(self) -> int:
        return self.n if self.null is None else 2 * self.n


class Feed:
    """Picks rows. A condition names them: ``sample`` is the sample's index (its keep mask says nothing), ``prompt`` is
    0 for the sample's own prompt and i for the i-th named one; where it is not kept, the row is null.

    Args:
        halves: of the pipeline's batch.
        null: text argument -> its null rows, [n, ...] or [1, ...], where the batch has none.
        named: text argument -> the rows of the named prompts, in order.
    """

    def __init__(
        self, halves: Halves, null: Mapping[str, Tensor], named: Mapping[str, Sequence[Tensor]], texts: Sequence[str]
    ) -> None:
        self.halves, self.texts = halves, tuple(texts)
        self.null, self.named = null, named
        self.arguments: Mapping[str, Any] = {}
        self._places: dict[int, tuple[Condition, Tensor, Tensor]] = {}
        self._picked: dict[tuple[str, int], tuple[Tensor, Condition, Tensor]] = {}
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, condition: Condition) -> dict[str, Any]:
        """The arguments for the rows of a condition."""
        return {name: self._mapped(value, name, condition) for name, value in self.arguments.items()}

    def picked(self, value: Tensor, condition: Condition) -> Tensor:
        """Rows of a tensor [rows, ...] of the pipeline's batch that does not hold text."""
        return self._rows(value, "", condition)

    def text(self, condition: Condition) -> dict[str, Tensor]:
        """The floating-point text arguments of a condition's rows."""
        found: dict[str, Tensor] = {}

        def keep(value: Tensor, path: str) -> None:
            if path in self.texts and value.is_floating_point() and "mask" not in path:
                found[path] = self._rows(value, path, condition)

        _walk(self.arguments, "", keep)
        return found

    def _mapped(self, value: Any, path: str, condition: Condition) -> Any:
        if path.split(".")[0] in _SHARED:
            return value
        return _walk(value, path, lambda tensor, at: self._rows(tensor, at, condition))

    def _rows(self, value: Tensor, path: str, condition: Condition) -> Tensor:
        if path in condition.values:  # an embedding that guidance has changed
            return condition.values[path].to(value)
        if not value.ndim or len(value) != self.halves.rows:
            return value
        key = path, id(condition)
        known = self._picked.get(key)
        if known is not None and known[0] is value and known[1] is condition:
            return known[2]
        text, other = self._index(condition)
        table, index = (self._table(value, path), text) if path in self.texts else (value, other)
        whole = table is value and len(index) == len(value) and torch.equal(index, torch.arange(len(index)))
        result = value if whole else table.index_select(0, index.to(value.device))
        if len(self._picked) > _CACHED:
            self._picked.clear()
        self._picked[key] = value, condition, result
        return result

    def _table(self, value: Tensor, path: str) -> Tensor:
        """The pipeline's rows, then those that it does not have."""
        more = [self.null[path]] if path in self.null else []
        more += list(self.named.get(path, ()))
        if not more:
            return value
        known = self._tables.get(path)
        if known is None or known[0] is not value:
            for rows in more:
                if rows.shape[1:] != value.shape[1:]:
                    raise UsageError(
                        f"{path}: the pipeline passed embeddings {list(value.shape[1:])}, the prompts that the "
                        f"guidance names gave {list(rows.shape[1:])}; they must agree"
                    )
            known = value, torch.cat([value, *(rows.to(value) for rows in more)])
            self._tables[path] = known
        return known[1]

    def _index(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Of every row of a condition: where its text is in the table, and where everything else is."""
        known = self._places.get(id(condition))
        if known is None or known[0] is not condition:
            if len(self._places) > _CACHED:
                self._places.clear()
            known = (condition, *self._located(condition))
            self._places[id(condition)] = known
        return known[1], known[2]

    def _located(self, condition: Condition) -> tuple[Tensor, Tensor]:
        halves, sample = self.halves, condition.values["sample"].cpu()
        own = halves.own + sample
        if "prompt" not in condition.values:
            return own, own
        named, kept = condition.values["prompt"].cpu(), condition.keep["prompt"].cpu()
        extra = len(next(iter(self.null.values()))) if self.null else 0
        if halves.null is not None:
            null_text = null_other = halves.null + sample
        else:
            null_text, null_other = halves.rows + (sample if extra == halves.n else torch.zeros_like(sample)), own
        text = torch.where(named > 0, halves.rows + extra + named - 1, own)
        return torch.where(kept, text, null_text), torch.where(kept, own, null_other)


def _walk(value: Any, path: str, visit: Callable[[Tensor, str], Any]) -> Any:
    """``visit(tensor, path)`` for every tensor in nested dicts, lists and tuples, in a copy of them."""
    if isinstance(value, Tensor):
        return visit(value, path)
    if isinstance(value, Mapping):
        return {key: _walk(part, f"{path}.{key}" if path else str(key), visit) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_walk(part, f"{path}.{i}", visit) for i, part in enumerate(value)])
    return value


def samples_condition(n: int, **values: tuple[Tensor, Tensor]) -> Condition:
    """A condition of n samples that know their index; ``values`` are (value, keep)."""
    index = torch.arange(n)
    own = {"sample": (index, torch.zeros(n, dtype=torch.bool)), **values}
    return Condition(n, {k: v for k, (v, _) in own.items()}, {k: m for k, (_, m) in own.items()})


class Specs:
    """Conditions that a guidance names, and the run's own; called with one spec a sample."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        raise NotImplementedError

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        """Of n samples; ``labels`` [n] where the pipeline passes some; null if ``empty``."""
        raise NotImplementedError


@dataclass(frozen=True)
class PromptSpecs(Specs):
    """Prompts by name: ``prompt`` is 0 for a sample's own and i for the i-th of ``known``."""

    known: Sequence[str]

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        places = torch.tensor([0 if spec is None else 1 + list(self.known).index(str(spec)) for spec in specs])
        return samples_condition(len(specs), prompt=(places, places > 0))

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        return samples_condition(n, prompt=(torch.zeros(n, dtype=torch.long), torch.full((n,), not empty)))


@dataclass(frozen=True)
class LabelSpecs(Specs):
    """Class names and indices; an index beyond the classes is null."""

    labels: LabelEncoder

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        made = self.labels(specs)
        return samples_condition(len(specs), label=(made.values["label"], made.keep["label"]))

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        assert labels is not None
        mine = labels.cpu().long()
        keep = mine < len(self.labels.classes)
        return samples_condition(n, label=(mine.where(keep, 0), keep))


@dataclass(frozen=True)
class NoSpecs(Specs):
    """Of an unconditional pipeline."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        return samples_condition(encode_nothing(specs).n)

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        return samples_condition(n)
