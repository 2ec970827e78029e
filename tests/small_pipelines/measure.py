"""What attaching a guidance does to one small pipeline, in facts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.rehearsal import denoisers_of
from tests.pipelines.families import apart
from tests.pipelines.test_block import traces
from tests.small_pipelines.build import arguments, make, run, scale_of
from tests.small_pipelines.table import SMALL

COMPOSED, APG, SKIPPED = "cfg(5).during(sigma=(0.1, 5)) + pag(1) | rescale(0.7)", "apg(cfg(5))", "cfg(5) + slg(1)"
BATCH, CONTEXT, CALLS = "one doubled batch", "two calls in cache_context", "two calls"
PAG, GUIDER, LISTS = "PAG", "loop over a guider's batches", "lists of latents"
BLOCKS, NETWORKS = "three blocks", "two networks"


@dataclass(frozen=True)
class Measured:
    """What was seen of a class.

    Attributes:
        pattern: how it calls its network in a step of its own guidance.
        guides: how far its answer is from that at a smaller scale, relative to its largest value.
        apart: how far the attached ``cfg(5)`` is from its own guidance; None: refused.
        same: whether it is to the bit and the attribute what it was after the blocks.
        attached, composed, apg, skipped, load: "works", or why not.
    """

    pattern: str
    guides: float
    apart: float | None
    same: bool
    attached: str
    composed: str
    apg: str
    skipped: str
    load: str


def measured(name: str) -> Measured:
    """A small pipeline of the class, guided by itself and by us."""
    small = SMALL[name]
    pipe, call = make(name, small), arguments(name, small)
    seen: list[tuple[str, int, bool, str]] = []
    with watched(pipe, seen):
        own = run(pipe, call)
    guides = apart(weaker(pipe, name, call), own)
    run(pipe, call)
    before = state(pipe)
    attached, found = under(pipe, call, "cfg(5)")
    more = {"num_inference_steps": 4} if "num_inference_steps" in call else {}
    composed, apg, skipped = (under(pipe, {**call, **more}, text)[0] for text in (COMPOSED, APG, SKIPPED))
    same = torch.equal(run(pipe, call), own) and state(pipe) == before
    return Measured(
        pattern(name, pipe, seen), guides, None if found is None else apart(found, own), same, attached, composed, apg,
        skipped, loaded(pipe, call),
    )  # fmt: skip


def state(pipe: Any) -> list[Any]:
    """Everything of a pipeline that something could be left in, but what its last call was."""
    kind, own, *rest = traces(pipe)
    return [kind, comparable(own), *rest]


def comparable(value: Any) -> Any:
    """A value with lists of numbers in the place of tensors."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    return {k: comparable(part) for k, part in value.items()} if isinstance(value, dict) else value


def weaker(pipe: Any, name: str, call: dict[str, Any]) -> Tensor:
    """The pipeline's own answer at a scale of 2."""
    if SMALL[name].own is not None:
        scale = scale_of(name)
        smaller = {scale: 2.0} if scale else {"min_guidance_scale": 2.0, "max_guidance_scale": 2.0}
        return run(pipe, call, **smaller)
    was, pipe.guider = pipe.guider, diffusers.ClassifierFreeGuidance(guidance_scale=2.0)
    try:
        return run(pipe, call)
    finally:
        pipe.guider = was


def under(pipe: Any, call: dict[str, Any], text: str) -> tuple[str, Tensor | None]:
    """("works", the answer) under a guidance, or (the reason, None)."""
    try:
        with fl.attach(pipe, text):
            answer = run(pipe, call)
    except UsageError as error:
        return str(error), None
    return "works" if bool(answer.isfinite().all()) else "works, not finite", answer


def loaded(pipe: Any, call: dict[str, Any]) -> str:
    """Whether ``fl.load`` makes a model of it that samples."""
    if "max_area" in call or type(pipe).__name__.startswith(("HiDream", "Kandinsky5T2I")):
        return "not tried, it would make a megapixel"
    try:
        video = "num_frames" in inspect.signature(type(pipe).__call__).parameters
        model = fl.load(pipe, size=8 if video else 16)  # those that pipelines make by default are large
        prompt = call.get("prompt", 1 if "class_labels" in call else None)
        sampled = fl.sample(model, prompt, guidance=None if prompt is None else "cfg(4)", n=1, steps=2)
    except UsageError as error:
        return str(error)
    return "works" if bool(sampled.x0.isfinite().all()) else "works, not finite"


@contextmanager
def watched(pipe: Any, seen: list[tuple[str, int, bool, str]]) -> Iterator[None]:
    """Notes the calls of its networks: name, rows, whether the rows are a list, the cache context."""
    context = [""]
    handles = []
    for name, network in denoisers_of(pipe).items():

        def note(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
            first = args[0] if args else next(kwargs[k] for k in ("hidden_states", "sample", "x") if k in kwargs)
            seen.append((name, len(first), isinstance(first, list), context[0]))

        handles.append(network.register_forward_pre_hook(note, with_kwargs=True))
        inner = getattr(network, "cache_context", None)
        if inner is not None:

            @contextmanager
            def cache_context(title: str, *args: Any, inner: Any = inner, **kwargs: Any) -> Iterator[None]:
                context[0] = title
                with inner(title, *args, **kwargs):
                    yield
                context[0] = ""

            vars(network)["cache_context"] = cache_context
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for network in denoisers_of(pipe).values():
            vars(network).pop("cache_context", None)


def pattern(name: str, pipe: Any, seen: list[tuple[str, int, bool, str]], n: int = 1) -> str:
    """How it called its networks for n samples."""
    if "PAG" in name:
        return PAG
    if "guider" in pipe.components:
        return GUIDER
    if any(listed for _, _, listed, _ in seen):
        return LISTS
    if len({network for network, *_ in seen}) > 1:
        return NETWORKS
    if len({title for *_, title in seen}) > 1:
        return CONTEXT
    rows = max(rows for _, rows, _, _ in seen) // n
    return {1: CALLS, 2: BATCH, 3: BLOCKS}.get(rows, f"a batch of {rows}")
