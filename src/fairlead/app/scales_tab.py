"""A row of scales from one noise; a click on an image makes it the left or the right setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from fairlead.app import tiles
from fairlead.app.combined import guidances
from fairlead.app.compare_tab import NAMES, CompareTab
from fairlead.app.fields import QUIET, GuidanceField, SharedFields
from fairlead.app.forming import FormingSides, forming
from fairlead.app.library import Library
from fairlead.app.runner import Runner
from fairlead.core.errors import UsageError


def add_scales_tab(library: Library, runner: Runner, shared: SharedFields, compare: CompareTab) -> None:
    """Put it on the page."""
    gr.HTML(tiles.line("The first class or prompt and the seed from above, under each scale, from the same noise."))
    with gr.Row():
        template = gr.Textbox("cfg({scale})", label="Guidance", elem_id="row-guidance", elem_classes="code", scale=2)
        scales = gr.Textbox("0, 1, 1.5, 2, 3, 4, 6, 8", label="Scales", elem_id="row-scales", scale=2)
    with gr.Row(elem_classes="go"):
        go = gr.Button("Sample the row", variant="primary", elem_id="row-sample", scale=3)
        stop = gr.Button("Stop", elem_id="row-stop", scale=1)
        into = gr.Radio([*NAMES], value=NAMES[1], label="A click makes it", elem_id="row-into", scale=2)
    state = gr.HTML(elem_id="row-state")
    row = gr.Gallery(
        label="images", show_label=False, columns=8, allow_preview=False, format="png", object_fit="contain",
        elem_id="row-images", buttons=[], interactive=False,
    )  # fmt: skip
    said = gr.HTML(elem_id="row-said")

    def begin(request: gr.Request, text: str, numbers: str, *values: Any) -> str:
        try:
            trial = shared.trial("none", values)
            one = replace(trial, conds=trial.conds[:1], n=1)
            plans = {each: replace(one, guidance=each).plan(library) for each in guidances(text, numbers)}
        except UsageError as error:
            runner.cancel(request)
            return tiles.line(str(error), wrong=True)
        runner.begin(request, lambda: forming(plans))
        return tiles.line("waiting for its turn")

    def watch(request: gr.Request) -> Iterator[tuple[Any, ...]]:
        for sides in runner.watch(request):
            runner.keep(request, "row", [*sides])
            yield state_of(sides), pictures_of(sides) or gr.skip()

    def choose(request: gr.Request, event: gr.SelectData, name: str) -> tuple[Any, ...]:
        text = runner.kept(request, "row")[int(event.index)]
        rest: list[Any] = []
        for own in NAMES:
            mine = own == name
            rest += [text, *GuidanceField.shown(text)] if mine else [gr.skip()] * (2 + len(compare.fields[0].sliders))
        return tiles.line(f"{text} is the {name.lower()} setting of Compare"), *rest

    runner.on(go.click, begin, [template, scales, *shared.inputs], [state], watch, [state, row])
    for field in (template, scales):
        runner.on(field.submit, begin, [template, scales, *shared.inputs], [state], watch, [state, row])
    stop.click(runner.stop, None, state, **QUIET)
    outputs = [each for field in compare.fields for each in (field.expression, field.said, *field.sliders)]
    row.select(choose, into, [said, *outputs], **QUIET)


def state_of(sides: FormingSides) -> str:
    """How far a row is, and what it costs."""
    first = next(iter(sides.values()))
    rows = sum(side.tracing.cost.rows for side in sides.values())
    broken = [f"{name}: {side.broken}" for name, side in sides.items() if side.broken]
    done = all(side.ended for side in sides.values())
    step = min(side.step for side in sides.values() if not side.broken) if len(broken) < len(sides) else 0
    text = tiles.line(f"{'done' if done else f'step {step} of {first.steps}'} · {rows} network rows")
    return text + "".join(tiles.line(each, wrong=True) for each in broken)


def pictures_of(sides: FormingSides) -> list[tuple[Any, str]]:
    """Images with their expressions, for a gallery: once all are there, so that places in it do not move."""
    if not all(side.ended for side in sides.values()):
        return []
    return [(large(side.images[0]) if side.images is not None else blank(), name) for name, side in sides.items()]


def large(image: Tensor) -> Any:
    """uint8 [c, h, w] as a picture whose pixels are crisp squares, at least 128 wide."""
    array = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    times = max(1, math.ceil(128 / max(array.shape[:2])))
    return Image.fromarray(array).resize((array.shape[1] * times, array.shape[0] * times), Image.Resampling.NEAREST)


def blank() -> Any:
    return Image.new("L", (128, 128), 128)
