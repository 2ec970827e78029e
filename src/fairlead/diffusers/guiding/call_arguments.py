"""Arguments of network calls, nested as pipelines nest them: their parts by path, and the rows of samples in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.recorder import Path

Rows = Mapping[Path, int]
"""Path of an argument that has rows for each sample -> along which dimension."""


def leaves(value: Any, listed: frozenset[Path], path: Path = ()) -> dict[Path, Any]:
    """Path -> what is there, of nested arguments; lists in ``listed`` are rows of a batch."""
    if path not in listed:
        if isinstance(value, Mapping):
            return {p: v for key, part in value.items() for p, v in leaves(part, listed, (*path, str(key))).items()}
        if isinstance(value, list | tuple):
            return {p: v for i, part in enumerate(value) for p, v in leaves(part, listed, (*path, i)).items()}
    return {path: value}


def nested_again(value: Any, listed: frozenset[Path], given: Mapping[Path, Any], path: Path = ()) -> Any:
    """Nested arguments with what ``given`` has in its places."""
    if path not in listed:
        if isinstance(value, Mapping):
            return {key: nested_again(part, listed, given, (*path, str(key))) for key, part in value.items()}
        if isinstance(value, list | tuple):
            parts = [nested_again(part, listed, given, (*path, i)) for i, part in enumerate(value)]
            return type(value)(parts) if not hasattr(value, "_fields") else type(value)(*parts)
    return given.get(path, value)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is not type(b):
        return False
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return a is b


def row_count(value: Any, dim: int = 0) -> int:
    """Of a list, or of a tensor along a dimension; 0 for anything else."""
    if isinstance(value, list):
        return len(value) if dim == 0 else 0
    return value.shape[dim] if isinstance(value, Tensor) and value.ndim > dim else 0


def block(value: Any, j: int, count: int, dim: int = 0) -> Any:
    """The j-th of ``count`` equal parts."""
    size = row_count(value, dim) // count
    return value[j * size : (j + 1) * size] if isinstance(value, list) else value.narrow(dim, j * size, size)


def join_rows(parts: Sequence[Any], dim: int = 0) -> Any:
    """Rows of several blocks, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return [value for part in parts for value in part] if isinstance(parts[0], list) else torch.cat(list(parts), dim)


def stacked(value: Any) -> Any:
    """A list of tensors of one shape as a tensor; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(v, Tensor) and v.shape == value[0].shape for v in value):
        return torch.stack(value)
    return value


def picked(value: Any, samples: Sequence[int], n: int, dim: int = 0) -> Any:
    """The rows of these samples, of a value with rows for all n."""
    size = row_count(value, dim) // n
    index = [sample * size + i for sample in samples for i in range(size)]
    if isinstance(value, list):
        return [value[i] for i in index]
    if index == list(range(value.shape[dim])):
        return value
    return value.index_select(dim, torch.tensor(index, device=value.device))


def fit_one_batch(parts: Sequence[Mapping[Path, Any]], rows: Rows) -> bool:
    """Whether arguments can go into one batch."""
    first = parts[0]
    for other in parts[1:]:
        if first.keys() != other.keys():
            return False
        for path, value in other.items():
            mine, dim = first[path], rows.get(path)
            if dim is None:
                if not same(mine, value):
                    return False
            elif isinstance(value, Tensor) and isinstance(mine, Tensor):
                if value.shape[:dim] + value.shape[dim + 1 :] != mine.shape[:dim] + mine.shape[dim + 1 :]:
                    return False
            elif isinstance(value, Tensor) != isinstance(mine, Tensor):
                return False
    return True


def in_one_batch(parts: Sequence[Mapping[Path, Any]], rows: Rows) -> dict[Path, Any]:
    return {p: join_rows([part[p] for part in parts], rows[p]) if p in rows else v for p, v in parts[0].items()}


def rows_joined(parts: Sequence[Mapping[Path, Any]], rows: Rows) -> dict[str, Any]:
    """Arguments of single rows in one batch, by name: those that are no part of others.

    Raises:
        UsageError: if they do not fit one batch.
    """
    if not fit_one_batch(parts, rows):
        raise UsageError("the negatives that nag reads do not go into one network call; give all samples the same one")
    return {str(path[0]): value for path, value in in_one_batch(parts, rows).items() if len(path) == 1}


Kind = TypeVar("Kind", bound=Hashable)


def asked_by_kind(
    kinds: Sequence[Kind],
    arguments: Callable[[Kind, list[int]], dict[Path, Any]],
    ask: Callable[[Kind, Mapping[Path, Any], Tensor | None], Tensor],
    rows: Rows | None,
) -> Tensor:
    """What a network answers, [rows, ...], in one call where the arguments of all kinds fit one batch, else in one for
    each kind, or for each row where it is not known what rows of arguments are.

    Args:
        kinds: of every row, the condition that it is under.
        arguments: of a kind and of its rows.
        ask: calls the network for a kind and the rows at an index; None: for all, in their order.
        rows: arguments that have rows for each sample; None: not known, nothing goes into one batch.
    """
    groups: dict[tuple[Kind, int], list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault((kind, row if rows is None else 0), []).append(row)
    parts = {group: arguments(group[0], mine) for group, mine in groups.items()}
    order = [row for mine in groups.values() for row in mine]
    straight = order == list(range(len(order)))
    if len(parts) > 1 and (rows is None or not fit_one_batch(list(parts.values()), rows)):
        together = torch.cat([ask(group[0], parts[group], torch.tensor(mine)) for group, mine in groups.items()])
    else:
        together = ask(
            kinds[0], in_one_batch(list(parts.values()), rows or {}), None if straight else torch.tensor(order)
        )
    return together if straight else together[torch.tensor(order, device=together.device).argsort()]


def scaled_lists(plain: Any, guided: Any, count: int, path: Path = ()) -> set[Path]:
    """Lists that are ``count`` times as long in the guided call."""
    if isinstance(plain, Mapping) and isinstance(guided, Mapping):
        return {p for k in plain if k in guided for p in scaled_lists(plain[k], guided[k], count, (*path, str(k)))}
    if isinstance(plain, list) and isinstance(guided, list) and plain and len(guided) == count * len(plain):
        return {path}
    if isinstance(plain, list | tuple) and isinstance(guided, list | tuple):
        pairs = enumerate(zip(plain, guided, strict=False))
        return {p for i, (a, b) in pairs for p in scaled_lists(a, b, count, (*path, i))}
    return set()


def sample_lists(arguments: Mapping[str, Any], n: int) -> set[Path]:
    """Top-level lists of tensors with one entry for each sample, and not for each layer with all samples in each."""
    return {
        (name,)
        for name, value in arguments.items()
        if isinstance(value, list) and len(value) == n and all(isinstance(v, Tensor) for v in value)
        if not all(row_count(v) == n for v in value)
    }


def scaled_rows(plain: Mapping[Path, Any], guided: Mapping[Path, Any], count: int, n: int) -> dict[Path, int]:
    """What is ``count`` times as long in the guided call, and along which dimension."""
    found: dict[Path, int] = {}
    for path, value in guided.items():
        dims = 1 if isinstance(value, list) else getattr(value, "ndim", 0)
        for dim in range(dims):
            before = row_count(plain[path], dim) if path in plain else n if dim == 0 else 0
            if before and row_count(value, dim) == count * before:
                found[path] = dim
                break
    return found
