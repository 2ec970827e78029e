"""What rehearsals of a pipeline say of its calls: which rows are whose, and what differs between the predictions.

Over 300 lines, as what a pattern is and what is refused while it is learned stand together.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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
from fairlead.diffusers.guiding.segments import Segment, segment_of
from fairlead.diffusers.layers import well_known


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
        in_turn: whether each of the two calls of a step has noisy samples of its own, so that the step is guided at the
            second; ``scale`` is known then.
        own_at, null_at: places of the conditional and the null prediction among those of a step.
        count: blocks of rows in a call of the guided run.
        weight: of the conditional block in what reaches the scheduler, where a third block beside these two has a
            scale of its own (the image's of InstructPix2Pix): the guided run keeps that scale.
        controls: calls of the control network of one step, of the conditional prediction.
        control_null: where the null prediction has a call of the control network of its own, what its arguments are,
            where they differ.
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
    in_turn: bool = False
    own_at: int = 0
    null_at: int = 0
    count: int = 1
    weight: float | None = None
    controls: tuple[RecordedCall, ...] = ()
    control_null: Mapping[Path, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PromptCall:
    """A call of the network with another prompt.

    Attributes:
        arguments: all of them.
        unlike: those that differ from the call's own, by path.
        control: those of the control network that do.
    """

    arguments: Mapping[str, Any]
    unlike: Mapping[Path, Any]
    control: Mapping[Path, Any] = field(default_factory=dict)


def _check_left_behind(pipe: Any) -> None:
    """Raise UsageError if a network of a PAG pipeline still has the processors of a call that ended early."""
    for name, part in pipe.components.items():
        for processor in getattr(part, "attn_processors", {}).values():
            left = type(processor).__name__
            if left.startswith("PAG"):
                raise UsageError(
                    f"{type(pipe).__name__}: pipe.{name} still has the {left} of an earlier call, which some classes "
                    f"of diffusers leave there after output_type='latent'; call pipe.{name}.set_attn_processor("
                    "AttnProcessor2_0()) first"
                )


def learned(rehearsals: Rehearsals, bound: inspect.BoundArguments, forced: Mapping[str, Any]) -> Pattern:
    """The pattern of a pipeline's call.

    Args:
        forced: changes to the call, such as a negative prompt.

    Raises:
        UsageError: if the pipeline cannot be rehearsed, or not be understood.
    """
    kind = type(rehearsals.pipe).__name__
    _check_left_behind(rehearsals.pipe)
    off, on, more = rehearsals.off(bound, 1.0), dict(forced), 0.0
    plain = rehearsals.first_step(bound, Recorder(answers=rehearsals.answers), {**forced, **off})
    if not plain.calls:
        raise UsageError(f"{kind} calls no network before its first scheduler step; attach to the pipeline inside it")
    if not answers_alone(plain.answer):
        raise UsageError(
            f"{kind}: its network returns several tensors, or none, which attach cannot combine yet; use the "
            "pipeline's own guidance"
        )
    if plain.scheduler != "scheduler" and getattr(rehearsals.pipe, "scheduler", None) is not None:
        raise UsageError(
            f"{kind} denoises twice, and first with pipe.{plain.calls[0].name} and pipe.{plain.scheduler}, which "
            "attach does not guide; use the pipeline's own guidance"
        )

    rows, answered = plain.calls[0].rows, len(stacked(output_of(plain.answer)))
    if rows != answered:
        raise UsageError(
            f"{kind}: its network returns {answered} for {rows} rows, so these are not a batch of samples; use the "
            "pipeline's own guidance"
        )

    def again(changes: Mapping[str, Any]) -> Rehearsal:
        return rehearsals.first_step(bound, Recorder(plain.answer, plain.calls[0].rows, rehearsals.answers), changes)

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
            if _size(guided) == _size(plain) and _always(plain) == 1:  # its scale is its network's business
                off, on = {}, dict(forced)
                plain = guided = rehearsals.first_step(bound, Recorder(answers=rehearsals.answers), forced)
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
        if n > 1 or well_known(first.network):
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
    settings, used, other, weight, in_turn = off, None, 0, None, False
    if blocks:
        unlike = [sum(not same(part.get(p), v) for p, v in base.items()) for part in blocks]
        if always == 1:
            weights = answer_weights(guided, output)
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
        in_turn = count == 1 and not same(blocks[mine_at][(first.sample,)], blocks[other][(first.sample,)])
        if in_turn:
            settings, used = on, scale if weights is None else weights[mine_at]
            if len(blocks) != 2 or used in (None, 0.0, 1.0):
                raise UsageError(
                    "the predictions of a step have noisy samples of their own here, and how they are combined is not "
                    "known; use the pipeline's own guidance"
                )
        at_hand = count > 1 or in_turn
        own = {} if at_hand else {p: blocks[mine_at][p] for p in paths}
        null = {} if at_hand else {p: _for_all(blocks[other][p], v, n) for p, v in own.items() if p in blocks[other]}
    apart = blocks and count == 1 and len(guided.controls) == len(guided.calls) > len(plain.controls)
    control_null = other_text(guided.controls[mine_at], guided.controls[other]) if apart else {}
    return Pattern(
        n, tuple(plain.calls), plain.answer, (guided if blocks else plain).calls[0].arguments, listed, rows, own, null,
        segment_of(stacked(plain.sample), x, None), output, off, settings, used, in_turn, mine_at, other, count, weight,
        tuple(plain.controls), control_null,
    )  # fmt: skip


def other_text(own: RecordedCall, other: RecordedCall) -> dict[Path, Any]:
    """The arguments of a call of a control network that differ from those of the own one."""
    mine = leaves(own.arguments, frozenset())
    return {p: v for p, v in leaves(other.arguments, frozenset()).items() if p in mine and not same(v, mine[p])}


def _for_all(null: Any, own: Any, n: int) -> Any:
    """Null rows for every sample, of as many or of one."""
    rows, alike = row_count(null), isinstance(null, Tensor) and isinstance(own, Tensor) and null.ndim == own.ndim > 2
    if not alike or row_count(own) != n or rows == n:
        return null
    if rows != 1:
        raise UsageError(f"the negative gave {rows} null rows for {n} samples; give one, or one per sample")
    return null.expand(n, *null.shape[1:])


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


def answer_weights(guided: Rehearsal, output: Segment | None) -> list[float] | None:
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
