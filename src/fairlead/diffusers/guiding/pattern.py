"""What rehearsals of a pipeline say of its calls: which rows are whose, and what differs between the predictions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.call_arguments import (
    Rows,
    block,
    leaves,
    nested_again,
    row_count,
    same,
    sample_lists,
    scaled_lists,
    scaled_rows,
    stacked,
)
from fairlead.diffusers.guiding.recorder import (
    Path,
    RecordedCall,
    Recorder,
    Rehearsal,
    answers_alone,
    output_of,
)
from fairlead.diffusers.guiding.rehearsal import Rehearsals

_CLOSE = 1e-5


@dataclass(frozen=True, eq=False)
class Segment:
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


def segment_of(inner: Any, outer: Any, factors: Sequence[float] | None = (1.0, -1.0)) -> Segment | None:
    """Where ``inner`` lies in ``outer``, up to its form and a factor; None if it is not to be seen there.

    Args:
        factors: that may be; None: any, found by least squares.
    """
    if not isinstance(inner, Tensor) or not isinstance(outer, Tensor):
        return None
    if inner.ndim != outer.ndim and inner.numel() == outer.numel():  # with or without a dimension of one
        inner = inner.reshape(outer.shape)
    place = shaped(inner, outer)
    if place is None:
        return None
    mine, theirs = inner.double(), place.of(outer).double()
    norm = float((theirs**2).sum())
    for factor in factors or ((float((mine * theirs).sum()) / norm,) if norm else ()):
        if float((mine - factor * theirs).abs().amax()) <= _CLOSE * max(1e-12, float(mine.abs().amax())):
            return replace(place, factor=float(factor))
    return None


def shaped(inner: Tensor, outer: Any) -> Segment | None:
    """Where something of the shape of ``inner`` lies in ``outer``, at its beginning; None if it does not fit."""
    if not isinstance(outer, Tensor) or inner.ndim != outer.ndim:
        return None
    unlike = [i for i, (a, b) in enumerate(zip(inner.shape, outer.shape, strict=True)) if a != b]
    if len(unlike) > 1 or any(inner.shape[i] > outer.shape[i] for i in unlike):
        return None
    return Segment(unlike[0] if unlike else None, inner.shape[unlike[0]] if unlike else 0, 1.0)


@dataclass(frozen=True, eq=False)
class Pattern:
    """How a pipeline calls its network, and how it is to be run under a guidance.

    Attributes:
        n: samples.
        calls: of one step, of the conditional prediction.
        form: arguments of a call beside the null call, with whatever they are nested in.
        listed: arguments that are lists with one entry for each sample.
        rows: arguments with rows for each sample: they are picked; None: not known, a branch is called by itself.
        own: where each prediction has a call of its own, what the arguments of the conditional one are, where they
            differ from those of the null one, or from those of a call without guidance.
        null: the same of the null call; None if the pipeline has none, {} where both ride in one call.
        latents: where the scheduler's samples lie in the network's argument.
        output: where what reaches the scheduler lies in the network's output.
        off: changes to the call that switch the pipeline's own guidance off.
        settings: changes to the call in the guided run. A pipeline with a call for each prediction is run with its own
            guidance off, but where it does more with the combined prediction than to combine.
        scale: of the pipeline's own guidance where it does, u + scale (c - u); None: it combines, or is off.
        own_at, null_at: places of the conditional and the null prediction among those of a step.
        count: blocks of rows in a call of the guided run.
        weight: of the conditional block in what reaches the scheduler, where a third block beside these two has a
            scale of its own (the image's of InstructPix2Pix): the guided run keeps that scale.
    """

    n: int
    calls: tuple[RecordedCall, ...]
    answer: Any
    form: Mapping[str, Any]
    listed: frozenset[Path]
    rows: Rows | None
    own: Mapping[Path, Any]
    null: Mapping[Path, Any] | None
    latents: Segment | None
    output: Segment | None
    off: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    own_at: int = 0
    null_at: int = 0
    count: int = 1
    weight: float | None = None


def learned(rehearsals: Rehearsals, bound: inspect.BoundArguments, forced: Mapping[str, Any]) -> Pattern:
    """The pattern of a pipeline's call.

    Args:
        forced: changes to the call, such as a negative prompt.

    Raises:
        UsageError: if the pipeline cannot be rehearsed, or not be understood.
    """
    kind = type(rehearsals.pipe).__name__
    off, on, more = rehearsals.off(bound, 1.0), dict(forced), 0.0
    plain = rehearsals.first_step(bound, Recorder(answers=rehearsals.answers), {**forced, **off})
    if not plain.calls:
        raise UsageError(f"{kind} calls no network before its first scheduler step; attach to the pipeline inside it")
    if not answers_alone(plain.answer):
        raise UsageError(
            f"{kind}: its network answers with several tensors, or none, which attach cannot combine yet; use the "
            "pipeline's own guidance"
        )

    rows, answered = plain.calls[0].rows, len(stacked(output_of(plain.answer)))
    if rows != answered:
        raise UsageError(
            f"{kind}: its network answers {rows} rows with {answered}, so they are no batch of samples; use the "
            "pipeline's own guidance"
        )

    def again(changes: Mapping[str, Any]) -> Rehearsal:
        return rehearsals.first_step(bound, Recorder(plain.answer, plain.calls[0].rows), changes)

    guided = again({**forced, **rehearsals.guider()})
    if _size(guided) == _size(plain) and rehearsals.scales(bound):
        zero = rehearsals.off(bound, 0.0)
        if _size(again({**forced, **zero})) < _size(guided):  # its scale is ours minus 1
            off, more = zero, 1.0
            plain = rehearsals.first_step(bound, Recorder(answers=rehearsals.answers), {**forced, **off})
            guided = again(forced)
        else:
            on = {**rehearsals.on(bound), **forced}
            guided = again(on)
    return _compared(plain, guided, off, on, rehearsals.scale(bound, on, more))


def _size(found: Rehearsal) -> tuple[int, int]:
    return sum(call.rows for call in found.calls), len(found.calls)


def _compared(
    plain: Rehearsal, guided: Rehearsal, off: Mapping[str, Any], on: Mapping[str, Any], scale: float | None
) -> Pattern:
    first, n, answer = plain.calls[0], plain.calls[0].rows, stacked(output_of(plain.answer))
    lists: set[Path] = {(first.sample,)} if isinstance(first.x, list) else set()
    always = _always(plain) if _size(guided) == _size(plain) else 1
    together = len(guided.calls) == len(plain.calls) and _size(guided)[0] > _size(plain)[0]
    count, rows = 1, None
    blocks: list[dict[Path, Any]] = []
    if together or always > 1:
        count = always if always > 1 else guided.calls[0].rows // n
        call = first if always > 1 else guided.calls[0]
        n = n // always
        lists |= scaled_lists(first.arguments, call.arguments, count)
        flat = leaves(call.arguments, frozenset(lists))
        before = {} if always > 1 else leaves(first.arguments, frozenset(lists))
        rows = scaled_rows(before, flat, count, n)
        blocks = [{p: block(v, j, count, rows[p]) if p in rows else v for p, v in flat.items()} for j in range(count)]
    else:
        lists |= sample_lists(first.arguments, n)
        if len(guided.calls) > len(plain.calls):
            blocks = [leaves(call.arguments, frozenset(lists)) for call in guided.calls]
        if n > 1:
            rows = {p: 0 for p, v in leaves(first.arguments, frozenset(lists)).items() if row_count(v) == n}
    listed, prediction = frozenset(lists), _prediction(plain)
    x = stacked(first.x)
    if always > 1:
        regions = [segment_of(prediction, block(answer, j, count)) for j in range(count)]
        mine_at = next((j for j, region in enumerate(regions) if region is not None), 0)
        base, output, x = blocks[mine_at], regions[mine_at], block(x, mine_at, count)
    else:
        base, output, mine_at = leaves(first.arguments, listed), segment_of(prediction, answer), 0
    own: Mapping[Path, Any] = {}
    null: Mapping[Path, Any] | None = None
    settings, used, other, weight = off, None, 0, None
    if blocks:
        unlike = [sum(not same(part.get(p), v) for p, v in base.items()) for part in blocks]
        if always == 1:
            weights = weights_of(guided, output)
            if weights is None and output is not None and len(blocks) == 2 and scale not in (None, 1.0):
                settings, used = on, scale
            mine_at = min(range(len(blocks)), key=unlike.__getitem__)
            if weights is not None and unlike.count(min(unlike)) > 1:
                mine_at = max(range(len(blocks)), key=weights.__getitem__)
        others = [j for j in range(len(blocks)) if j != mine_at]
        other = max(others, key=unlike.__getitem__)
        if always == 1 and together and count == 3 and weights is not None:
            other, weight = min(others, key=unlike.__getitem__), weights[mine_at]
        if together:
            settings = on
        paths = [  # what is unlike that of the call alone may be padded, for both
            p
            for p, v in blocks[mine_at].items()
            if not same(v, blocks[other].get(p)) or (p != (first.sample,) and not same(v, base.get(p)))
        ]
        own = {} if count > 1 else {p: blocks[mine_at][p] for p in paths}
        null = {} if count > 1 else {p: blocks[other][p] for p in paths if p in blocks[other]}
    return Pattern(
        n, tuple(plain.calls), plain.answer, (guided if blocks else plain).calls[0].arguments, listed, rows, own, null,
        segment_of(stacked(plain.sample), x, None), output, off, settings, used, mine_at, other, count, weight,
    )  # fmt: skip


def _always(plain: Rehearsal) -> int:
    """How many blocks of rows a call has of a pipeline that never leaves one out: its network answers for so many times
    what reaches the scheduler."""
    answer, reached = stacked(output_of(plain.answer)), _prediction(plain)
    if not isinstance(reached, Tensor) or not reached.ndim or answer.ndim != reached.ndim or len(plain.calls) != 1:
        return 1
    count = len(answer) // max(1, len(reached))
    return count if count in (2, 3) and count * len(reached) == len(answer) == plain.calls[0].rows else 1


def _prediction(found: Rehearsal) -> Any:
    """What reached the scheduler, without the channels beyond those of the samples (a learned variance)."""
    output, sample = found.output, found.sample
    tensors = isinstance(output, Tensor) and isinstance(sample, Tensor) and output.ndim == sample.ndim > 1
    wider = tensors and output.shape[1] > sample.shape[1] and output.shape[2:] == sample.shape[2:]
    return output[:, : sample.shape[1]] if wider else output


def weights_of(guided: Rehearsal, output: Segment | None) -> list[float] | None:
    """The weight of each block's answer in what reached the scheduler, by least squares; None where that is no weighted
    sum of them."""
    if output is None:
        return None
    parts = [output.of(stacked(made)) for made in guided.made]
    reached = _prediction(guided)
    if len(parts) < 2 or not isinstance(reached, Tensor) or any(p.shape != reached.shape for p in parts):
        return None
    columns = torch.stack([part.double().flatten() for part in parts], 1)
    target = reached.double().flatten()
    found = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
    off = float((columns @ found - target).abs().amax())
    return found.tolist() if off <= 1e-3 * max(1e-12, float(target.abs().amax())) else None


def block_of(call: RecordedCall, pattern: Pattern, place: int) -> RecordedCall:
    """The rows of one prediction of a call that holds those of several."""
    flat, rows = leaves(call.arguments, pattern.listed), pattern.rows or {}
    mine = {p: block(v, place, pattern.count, rows[p]) for p, v in flat.items() if p in rows}
    return replace(call, arguments=nested_again(call.arguments, pattern.listed, mine))
