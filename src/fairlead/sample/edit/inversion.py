"""Inversion: from images to the noise that a model samples them from.

The way is that of ``ddim``, whose every step is taken back: see ``implicit.py`` for one step, ``null_text.py`` for
guided sampling that returns the image. Negative-prompt inversion (Miyake et al. 2023, 2305.16807) puts the source
condition in the place of null: under the source itself, guidance of any scale is then sampling at scale 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen, is_count, plain, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, at_step, autocast, counting
from fairlead.core.errors import UsageError, remark
from fairlead.core.progress import Progress, silent
from fairlead.guide.batching import Batching
from fairlead.guide.branch import NULL
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.terms import Guidance, Term
from fairlead.models.load import as_model
from fairlead.models.model import Given, Model
from fairlead.sample.ddim import DDIM
from fairlead.sample.edit.given import images_of
from fairlead.sample.edit.implicit import explicit, factors, fixed_point
from fairlead.sample.edit.inverted import Inversion, signal_to_noise
from fairlead.sample.edit.null_text import NullTokens, optimised
from fairlead.sample.edit.start import ImageStart, as_strength, checked_images, in_space
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Frame, GridLevels
from fairlead.sample.sampling import Precision, Sampling

Method = Literal["inversion", "fixed-point", "null-text", "negative"]
ROUNDS = {"fixed-point": 30, "null-text": 10}
TOLERANCE = 1e-6
"""Of a step by fixed point: root mean square of what is missing, in that of the state."""


def invert(
    model: Model | str | Path,
    images: Any,
    cond: Given | Sequence[Given] = None,
    *,
    method: Method = "inversion",
    guidance: Guidance | Term | str | None = None,
    strength: float = 1.0,
    rounds: int | None = None,
    seeds: int | Sequence[int] = 0,
    steps: int = 20,
    grid: str = "trailing",
    batch_size: int = 64,
    precision: Precision = "fp32",
    batching: Batching = "auto",
    resources: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Inversion:
    """Find the noise from which ``ddim`` samples the images, and measure the reconstruction error.

    Args:
        model: from ``fl.load`` or ``fl.toy``, or a path that ``fl.load`` takes.
        images: as ``start`` of ``fl.sample``.
        cond: what the images show, one for all or one each.
        method: "inversion": DDIM inversion, one evaluation a step, off by the order of the solver. "fixed-point": each
            step is solved for its start. "null-text": DDIM inversion without guidance, then null tokens for each image
            and step with which sampling under ``guidance`` returns it. "negative": DDIM inversion without guidance; the
            condition takes the place of null.
        guidance: what the way back is sampled with, and in the first two methods inverted.
        strength: the time in (0, 1] to go to; 1 is noise alone.
        rounds: evaluations of a step at most by "fixed-point" (default 30), and steps of Adam by "null-text" (10).
        seeds: for guidance that draws noise; those of the run that starts from here.
        steps, grid, batch_size, precision, batching, resources: as for ``fl.sample``.

    Raises:
        UsageError: for anything that cannot be inverted, before the first network call; a guidance that keeps something
            from step to step at the first.
    """
    chosen("method", method, get_args(Method))
    rounds, strength = _rounds(method, rounds), as_strength(strength)
    model, sampling = as_model(model), Sampling("ddim", steps, grid, batch_size, precision, batching)
    if method == "null-text" and (model.null_tokens is None or not model.null_tokens()):
        raise UsageError(
            "method 'null-text': this model has no null tokens that can be replaced; use 'negative' or 'fixed-point'"
        )
    pixels = checked_images(model, images_of(images))
    blank = ImageStart(torch.empty(len(pixels), *model.shape, device=model.device), strength)
    planned = partial(Plan.of, model, cond, sampling=sampling, seeds=seeds)
    guided = planned(guidance=guidance, resources=resources, start=blank)
    way = guided if method in ("inversion", "fixed-point") else planned(start=blank)
    began = time.perf_counter()
    with counting() as cost:
        x0, n = in_space(model, pixels), len(guided.seeds)
        x0 = x0 if len(x0) == n else x0.expand(n, *x0.shape[1:])
        with progress("inverting", n, "image") as advance:
            parts = []
            for batch in way.batches:
                parts.append(_inverted(way, guided, batch, x0[batch], method, rounds))
                advance(batch.stop - batch.start)
        states, tokens, missed = (_joined([part[i] for part in parts]) for i in range(3))
        found = Inversion(
            x_t=states["x"].float().cpu(), x0=x0.float().cpu(), back=x0.float().cpu(), conds=guided.conds,
            method=method, guidance=str(guided.guidance), steps=sampling.steps, grid=sampling.grid, strength=strength,
            tokens={name: each.transpose(0, 1).float().cpu() for name, each in tokens.items()},
            psnr=None, codec_psnr=None, cost=cost, back_cost=Cost(), seconds=0.0, metadata=dict(model.metadata),
        )  # fmt: skip
    _remark(guided, found, missed.get("error"))
    with progress("sampling the way back", n, "image") as advance:
        back = replace(guided, start=replace(found.start(model), x=states["x"])).run(each_batch(advance))
    found = replace(found, back=back.x0, back_cost=back.cost)
    if back.decoded is not None:
        pixels = pixels.expand(n, *pixels.shape[1:])
        found = replace(found, psnr=signal_to_noise(back.decoded, pixels))
        if model.shape != model.image_shape:
            with torch.no_grad():
                decoded = [model.decode(part).cpu() for part in torch.split(x0, batch_size)]
            found = replace(found, codec_psnr=signal_to_noise(torch.cat(decoded), pixels))
    return replace(found, seconds=time.perf_counter() - began)


def each_batch(advance: Callable[[int], object]) -> Callable[[Frame], None]:
    """For ``Plan.run``: counts the images of a batch when its last step is taken."""

    def on_frame(frame: Frame) -> None:
        if frame.step == frame.steps - 1:
            advance(len(frame.x_t))

    return on_frame


def _inverted(
    way: Plan, guided: Plan, batch: slice, x0: Tensor, method: Method, rounds: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The noise [n, ...] of the images of a batch, null tokens [n, steps, ...] and the largest error of a step [n]."""
    model, denoiser = way.model, way.denoiser(batch)
    levels = GridLevels.of(model.schedule, way.times, x0)
    step, scale = _step_of(way, denoiser, levels), factors(levels)
    x, path, worst = x0, [x0], torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for i in reversed(range(len(way.times) - 1)):
        with torch.no_grad():
            if method == "fixed-point":
                x, error = fixed_point(partial(step, i), x, scale[i], rounds, TOLERANCE)
                worst = torch.maximum(worst, error)
            else:
                x = explicit(partial(step, i), x, scale[i])
        if denoiser.remembers:
            raise UsageError(
                f"{way.guidance} keeps something from step to step, so that no step can be taken back alone; invert "
                "with another guidance"
            )
        if not bool(x.isfinite().all()):
            raise UsageError(
                f"inversion: step {i + 1} gave values that are not finite; lower the scale of {way.guidance}"
            )
        path.append(x)
    if method != "null-text":
        return {"x": x}, {}, {"error": worst} if method == "fixed-point" else {}
    tokens = _null_tokens(guided, batch, path[::-1], rounds)
    return {"x": x}, {name: torch.stack([each[name] for each in tokens], 1) for name in tokens[0]}, {}


def _null_tokens(guided: Plan, batch: slice, path: Sequence[Tensor], rounds: int) -> list[NullTokens]:
    """Of every step, for the images of a batch whose states are ``path``."""
    model, n = guided.model, len(path[0])
    assert model.null_tokens is not None
    own = {name: token.expand(n, *token.shape) for name, token in model.null_tokens().items()}
    null = model.encode([None] * n).to(model.device)
    per_step: list[Condition] = [replace(null, null=own)] * (len(guided.times) - 1)
    denoiser = guided.denoiser(batch, per_step)
    step = _step_of(guided, denoiser, GridLevels.of(model.schedule, guided.times, path[0]))

    def stepped(i: int, x_t: Tensor, tokens: NullTokens) -> Tensor:
        denoiser.conditions.nulls = (*per_step[:i], replace(null, null=tokens), *per_step[i + 1 :])
        return step(i, x_t)

    return optimised(stepped, path, own, rounds)


def _step_of(plan: Plan, denoiser: GuidedDenoiser, levels: GridLevels) -> Callable[[int, Tensor], Tensor]:
    """(i, x at time i of the grid) -> x at time i + 1."""
    sampler, times = DDIM(), plan.times
    memory = sampler.begin(levels)
    lower = torch.bfloat16 if plan.sampling.precision == "bf16" else None

    def never(number: int) -> Tensor:
        raise AssertionError("ddim draws no noise")

    def step(i: int, x_t: Tensor) -> Tensor:
        with autocast(x_t.device, lower):
            denoise = at_step(denoiser, i)
            return sampler.step(i, x_t, lambda x, at: denoise(x, times[at], denoiser.condition), never, memory)[0]

    return step


def _rounds(method: Method, given: int | None) -> int:
    given = plain(given)
    if given is None:
        return ROUNDS.get(method, 1)
    if method not in ROUNDS:
        raise UsageError(f"rounds={shown(given)}: method {method!r} does not iterate; leave it out")
    if not is_count(given):
        raise UsageError(f"rounds: expected an integer of at least 1, got {shown(given)}")
    return int(given)


def _remark(guided: Plan, found: Inversion, error: Tensor | None) -> None:
    """Say what did not work out."""
    if found.method in ("null-text", "negative") and guided.guidance.terms and not guided.denoiser(
        guided.batches[0]
    ).looks_at(NULL):  # fmt: skip
        remark(f"method {found.method!r}: {guided.guidance} never looks at the null condition, so it changes nothing")
    if error is not None and bool((far := error > 10 * TOLERANCE).any()):
        remark(
            f"fixed point: {int(far.sum())} of {len(error)} images have a step that is not solved, off by up to "
            f"{float(error.max()):.2g} of the state; more steps, a grid that ends closer to data (karras), or a lower "
            "scale help"
        )


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
