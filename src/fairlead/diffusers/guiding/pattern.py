"""What rehearsals of a pipeline say of its calls: which rows are whose, and what differs between the predictions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.rehearsal import Path, RecordedCall, Recorder, Rehearsal, Rehearsals, joined, output_of

_CLOSE = 1e-5


@dataclass(frozen=True, eq=False)
class Region:
    """Where one tensor lies in another: the first ``size`` along ``dim``, times ``factor``; ``dim`` None: the whole."""

    dim: int | None
    size: int
    factor: float

    def of(self, value: Tensor) -> Tensor:
        found = value if self.dim is None else value.narrow(self.dim, 0, self.size)
        return found if self.factor == 1 else found * self.factor

    def put(self, value: Tensor, into: Tensor) -> Tensor:
        """``value``, what :meth:`of` returns, in its place in ``into``."""
        value = value if self.factor == 1 else value / self.factor
        if self.dim is None:
            return value
        rest = into.narrow(self.dim, self.size, into.shape[self.dim] - self.size)
        return torch.cat([value.to(rest), rest], self.dim)


def region_of(inner: Any, outer: Any, factors: Sequence[float] | None = (1.0, -1.0)) -> Region | None:
    """Where ``inner`` lies in ``outer``, up to a factor; None if it is not to be seen there.

    Args:
        factors: that may be; None: any, found by least squares.
    """
    if not isinstance(inner, Tensor) or not isinstance(outer, Tensor) or inner.ndim != outer.ndim:
        return None
    unlike = [i for i, (a, b) in enumerate(zip(inner.shape, outer.shape, strict=True)) if a != b]
    if len(unlike) > 1 or any(inner.shape[i] > outer.shape[i] for i in unlike):
        return None
    dim = unlike[0] if unlike else None
    part = outer if dim is None else outer.narrow(dim, 0, inner.shape[dim])
    mine, theirs = inner.double(), part.double()
    size = 0 if dim is None else inner.shape[dim]
    norm = float((theirs**2).sum())
    for factor in factors or ((float((mine * theirs).sum()) / norm,) if norm else ()):
        if float((mine - factor * theirs).abs().amax()) <= _CLOSE * max(1e-12, float(mine.abs().amax())):
            return Region(dim, size, float(factor))
    return None


def leaves(value: Any, listed: frozenset[Path], path: Path = ()) -> dict[Path, Any]:
    """Path -> what is there, of nested arguments; lists in ``listed`` are rows of a batch."""
    if path not in listed:
        if isinstance(value, Mapping):
            return {p: v for key, part in value.items() for p, v in leaves(part, listed, (*path, str(key))).items()}
        if isinstance(value, list | tuple):
            return {p: v for i, part in enumerate(value) for p, v in leaves(part, listed, (*path, i)).items()}
    return {path: value}


def rebuilt(value: Any, listed: frozenset[Path], given: Mapping[Path, Any], path: Path = ()) -> Any:
    """Nested arguments with what ``given`` has in its places."""
    if path not in listed:
        if isinstance(value, Mapping):
            return {key: rebuilt(part, listed, given, (*path, str(key))) for key, part in value.items()}
        if isinstance(value, list | tuple):
            parts = [rebuilt(part, listed, given, (*path, i)) for i, part in enumerate(value)]
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


@dataclass(frozen=True, eq=False)
class Pattern:
    """How a pipeline calls its network, with guidance switched off.

    Attributes:
        n: samples.
        calls: of one step, of the conditional prediction.
        form: arguments of a call beside the null call, with whatever they are nested in.
        listed: arguments that are lists with one entry for each sample.
        rows: arguments with rows for each sample: they are picked; None: not known, a branch is called by itself.
        own: what the arguments of the conditional call are beside the null call, where they differ from those of that,
            or from those of a call without guidance.
        null: the same of the null call; None if the pipeline has none.
        latents: where the scheduler's samples lie in the network's argument.
        output: where what reaches the scheduler lies in the network's output.
        settings: changes to the call in the guided run: what switches the pipeline's own guidance off, or, where it
            does more with the combined prediction than to combine, what has it guide.
        scale: of the pipeline's own guidance then, u + scale (c - u); None: off.
        own_at: place of the conditional prediction among the two of a step, where the scale is not None.
        together: whether both ride in one call then.
    """

    n: int
    calls: tuple[RecordedCall, ...]
    answer: Any
    form: Mapping[str, Any]
    listed: frozenset[Path]
    rows: frozenset[Path] | None
    own: Mapping[Path, Any]
    null: Mapping[Path, Any] | None
    latents: Region | None
    output: Region | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    own_at: int = 0
    together: bool = False


def learned(rehearsals: Rehearsals, bound: inspect.BoundArguments, forced: Mapping[str, Any]) -> Pattern:
    """The pattern of a pipeline's call.

    Args:
        forced: changes to the call, such as a negative prompt.

    Raises:
        UsageError: if the pipeline cannot be rehearsed, or not be understood.
    """
    kind = type(rehearsals.pipe).__name__
    plain = rehearsals.run(bound, Recorder(), **forced, **rehearsals.off(bound, 1.0))
    if not plain.calls:
        raise UsageError(f"{kind} calls no network before its first scheduler step; attach to the pipeline inside it")
    if not output_is_known(plain.answer):
        raise UsageError(f"{kind}: its network answers {type(output_of(plain.answer)).__name__}, expected a tensor")
    off, on, more = rehearsals.off(bound, 1.0), dict(forced), 0.0
    guided = rehearsals.run(bound, Recorder(plain.answer, plain.calls[0].rows), **forced)
    if _size(guided) == _size(plain) and rehearsals.scales(bound):
        lower = rehearsals.run(
            bound, Recorder(plain.answer, plain.calls[0].rows), **forced, **rehearsals.off(bound, 0.0)
        )
        if _size(lower) < _size(guided):  # its scale is ours minus 1
            plain, off, more = (
                rehearsals.run(bound, Recorder(), **forced, **rehearsals.off(bound, 0.0)),
                rehearsals.off(bound, 0.0),
                1.0,
            )
        else:
            on = {**rehearsals.on(bound), **forced}
            guided = rehearsals.run(bound, Recorder(plain.answer, plain.calls[0].rows), **on)
    scales = rehearsals.scales(bound)
    value = (
        on.get(scales[0], bound.arguments.get(scales[0], rehearsals.signature.parameters[scales[0]].default))
        if scales
        else None
    )
    return _compared(plain, guided, off, on, None if not isinstance(value, int | float) else float(value) + more)


def output_is_known(answer: Any) -> bool:
    output = output_of(answer) if isinstance(answer, Tensor | tuple) or hasattr(answer, "keys") else None
    return isinstance(output, Tensor) or (isinstance(output, list) and all(isinstance(v, Tensor) for v in output))


def _size(found: Rehearsal) -> tuple[int, int]:
    return sum(call.rows for call in found.calls), len(found.calls)


def _compared(
    plain: Rehearsal, guided: Rehearsal, off: Mapping[str, Any], on: Mapping[str, Any], scale: float | None
) -> Pattern:
    first, n = plain.calls[0], plain.calls[0].rows
    lists = {(first.sample,)} if isinstance(first.x, list) else set()
    together = len(guided.calls) == len(plain.calls) and _size(guided)[0] > _size(plain)[0]
    apart = len(guided.calls) > len(plain.calls)
    count = 1
    blocks: list[dict[Path, Any]] = []
    rows: set[Path] | None = None
    if together:
        count = guided.calls[0].rows // n
        call = guided.calls[0]
        lists |= _lists(first.arguments, call.arguments, count)
        mine, theirs = leaves(first.arguments, frozenset(lists)), leaves(call.arguments, frozenset(lists))
        rows = {
            path
            for path, value in theirs.items()
            if _length(value) and _length(value) == count * (_length(mine[path]) if path in mine else n)
        }
        for j in range(count):
            blocks.append({p: _block(v, j, _length(v) // count) if p in rows else v for p, v in theirs.items()})
    elif apart:
        lists |= _lists_of_samples(first.arguments, n)
        blocks = [leaves(call.arguments, frozenset(lists)) for call in guided.calls]
        if n > 1:
            rows = {p for p, v in leaves(first.arguments, frozenset(lists)).items() if _length(v) == n}
    else:
        lists |= _lists_of_samples(first.arguments, n)
        if n > 1:
            rows = {p for p, v in leaves(first.arguments, frozenset(lists)).items() if _length(v) == n}
    listed = frozenset(lists)
    latents = region_of(_stacked(plain.sample), _stacked(first.x), None)
    output = region_of(_prediction(plain), _stacked(output_of(plain.answer)))
    own: Mapping[Path, Any] = {}
    null: Mapping[Path, Any] | None = None
    settings: Mapping[str, Any] = off
    used, mine_at = None, 0
    if blocks:
        base = leaves(first.arguments, listed)
        unlike = [sum(not same(block.get(p), v) for p, v in base.items()) for block in blocks]
        weights = weights_of(guided, output)
        if weights is None and output is not None and len(blocks) == 2 and scale not in (None, 1.0):
            settings, used = on, scale
        mine_at = min(range(len(blocks)), key=unlike.__getitem__)
        if weights is not None and unlike.count(min(unlike)) > 1:
            mine_at = max(range(len(blocks)), key=weights.__getitem__)
        other = max((j for j in range(len(blocks)) if j != mine_at), key=unlike.__getitem__)
        paths = [  # what is unlike that of the call alone may be padded, for both
            p
            for p, v in blocks[mine_at].items()
            if not same(v, blocks[other].get(p)) or (p != (first.sample,) and not same(v, base.get(p)))
        ]
        own = {p: blocks[mine_at][p] for p in paths}
        null = {p: blocks[other][p] for p in paths if p in blocks[other]}
    return Pattern(
        n, tuple(plain.calls), plain.answer, (guided if blocks else plain).calls[0].arguments, listed,
        None if rows is None else frozenset(rows), own, null, latents,
        output, settings, used, mine_at, together,
    )  # fmt: skip


def _prediction(found: Rehearsal) -> Any:
    """What reached the scheduler, without the channels beyond those of the samples (a learned variance)."""
    output, sample = found.output, found.sample
    tensors = isinstance(output, Tensor) and isinstance(sample, Tensor) and output.ndim == sample.ndim > 1
    wider = tensors and output.shape[1] > sample.shape[1] and output.shape[2:] == sample.shape[2:]
    return output[:, : sample.shape[1]] if wider else output


def weights_of(guided: Rehearsal, output: Region | None) -> list[float] | None:
    """The weight of each block's answer in what reached the scheduler, by least squares; None where that is no weighted
    sum of the answers and the samples."""
    if output is None:
        return None
    parts = [output.of(_stacked(made)) for made in guided.made]
    reached = _prediction(guided)
    if len(parts) < 2 or not isinstance(reached, Tensor) or any(p.shape != reached.shape for p in parts):
        return None
    columns = torch.stack([part.double().flatten() for part in parts], 1)
    target = reached.double().flatten()
    found = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
    off = float((columns @ found - target).abs().amax())
    return found.tolist() if off <= 1e-3 * max(1e-12, float(target.abs().amax())) else None


def _stacked(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(v, Tensor) and v.shape == value[0].shape for v in value):
        return torch.stack(value)
    return value


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim) else 0


def _block(value: Any, j: int, length: int) -> Any:
    return value[j * length : (j + 1) * length]


def _lists(plain: Any, guided: Any, count: int, path: Path = ()) -> set[Path]:
    """Lists that are ``count`` times as long in the guided call."""
    if isinstance(plain, Mapping) and isinstance(guided, Mapping):
        return {p for k in plain if k in guided for p in _lists(plain[k], guided[k], count, (*path, str(k)))}
    if isinstance(plain, list) and isinstance(guided, list) and plain and len(guided) == count * len(plain):
        return {path}
    if isinstance(plain, list | tuple) and isinstance(guided, list | tuple):
        pairs = enumerate(zip(plain, guided, strict=False))
        return {p for i, (a, b) in pairs for p in _lists(a, b, count, (*path, i))}
    return set()


def _lists_of_samples(arguments: Mapping[str, Any], n: int) -> set[Path]:
    """Top-level lists of tensors with one entry for each sample."""
    return {
        (name,)
        for name, value in arguments.items()
        if isinstance(value, list) and len(value) == n and all(isinstance(v, Tensor) for v in value)
    }


def picked(value: Any, samples: Sequence[int], n: int) -> Any:
    """The rows of these samples, of a value with rows for all n."""
    length = _length(value) // n
    index = [sample * length + i for sample in samples for i in range(length)]
    if isinstance(value, list):
        return [value[i] for i in index]
    if index == list(range(len(value))):
        return value
    return value[torch.tensor(index, device=value.device)]


def own_block(call: RecordedCall, pattern: Pattern) -> RecordedCall:
    """The conditional rows of a call that holds those of both predictions."""
    flat = leaves(call.arguments, pattern.listed)
    mine = {p: _block(v, pattern.own_at, _length(v) // 2) for p, v in flat.items() if p in (pattern.rows or ())}
    return replace(call, arguments=rebuilt(call.arguments, pattern.listed, mine))


def alike(parts: Sequence[Mapping[Path, Any]]) -> bool:
    """Whether arguments can go into one batch."""
    first = parts[0]
    for other in parts[1:]:
        if first.keys() != other.keys():
            return False
        for path, value in other.items():
            mine = first[path]
            if isinstance(value, Tensor) != isinstance(mine, Tensor):
                return False
            if isinstance(value, Tensor) and value.shape[1:] != mine.shape[1:]:
                return False
    return True


def in_one_batch(parts: Sequence[Mapping[Path, Any]], rows: Callable[[Path], bool]) -> dict[Path, Any]:
    return {p: joined([part[p] for part in parts]) if rows(p) else v for p, v in parts[0].items()}
