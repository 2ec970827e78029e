"""Two settings side by side from one noise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.fields import QUIET, GuidanceField, SharedFields
from fairlead.app.forming import FormingSides, forming
from fairlead.app.library import Library
from fairlead.app.runner import Runner
from fairlead.app.trace_plot import trace_figure
from fairlead.app.trial import Trial, picture
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.report.page import Svg
from fairlead.report.plots import to_svg
from fairlead.sample.run import Plan

NAMES = ("Left", "Right")
START = ("none", "cfg(3)")
REDRAW = 3.0
"""Seconds between two drawings of the plots while images form."""


@dataclass(frozen=True, eq=False)
class CompareTab:
    """The two fields, which other tabs write into."""

    fields: tuple[GuidanceField, ...]

    @classmethod
    def add(cls, library: Library, runner: Runner, shared: SharedFields) -> CompareTab:
        """Put it on the page."""
        fields, pictures, saves, commands, scripts = [], [], [], [], []
        with gr.Row(elem_classes="go"):
            go = gr.Button("Sample both", variant="primary", elem_id="sample", scale=3)
            stop = gr.Button("Stop", elem_id="stop", scale=1)
            live = gr.Checkbox(
                True, label="sample again when a slider is released", elem_id="live", scale=2, container=False
            )
        state = gr.HTML(elem_id="state")
        with gr.Row():
            for name, start in zip(NAMES, START, strict=True):
                with gr.Column(min_width=320):
                    fields.append(GuidanceField.add(name, start, f"{name} guidance"))
        with gr.Row():
            for name in NAMES:
                with gr.Column(min_width=320):
                    pictures.append(gr.HTML(elem_id=f"{name.lower()}-images"))
        with gr.Accordion("Difference", open=False):
            between = gr.HTML(elem_id="difference")
        with gr.Accordion("What it did, step by step", open=True):
            did = gr.HTML(elem_id="did")
        with gr.Accordion("Take it with you", open=False, elem_id="take"), gr.Row():
            for name in NAMES:
                own = name.lower()
                with gr.Column(min_width=320):
                    commands.append(gr.Code(label=f"{name}: command", elem_id=f"{own}-command", **_CODE))
                    scripts.append(
                        gr.Code(language="python", label=f"{name}: Python", elem_id=f"{own}-python", **_CODE)
                    )
                    saves.append(gr.DownloadButton(f"Download {own} PNG", elem_id=f"{own}-png", interactive=False))

        notes = [field.said for field in fields]
        outputs = [state, *notes, *pictures, between, did, *commands, *scripts, *saves]

        def begin(request: gr.Request, left: str, right: str, *values: Any) -> tuple[Any, ...]:
            trials: dict[str, Trial] = {}
            plans: dict[str, Plan] = {}
            said: list[Any] = []
            for name, text in zip(NAMES, (left, right), strict=True):
                try:
                    trials[name] = shared.trial(text, values)
                    plans[name] = trials[name].plan(library)
                    said.append(gr.skip())
                except UsageError as error:
                    said.append(tiles.line(str(error), wrong=True))
            if len(plans) < len(NAMES):
                runner.cancel(request)
                return tiles.line("not sampled: see below the fields", wrong=True), *said
            runner.begin(request, lambda: ((trials, sides) for sides in forming(plans)))
            return tiles.line("waiting for its turn"), *said

        def watch(request: gr.Request) -> Iterator[tuple[Any, ...]]:
            drawn_at = time.monotonic()
            for trials, sides in runner.watch(request):
                draw = time.monotonic() > drawn_at + REDRAW
                yield show(trials, sides, runner.folder(request), draw)
                drawn_at = time.monotonic() if draw else drawn_at

        inputs = [*(field.expression for field in fields), *shared.inputs]
        starts = [go.click, *(field.expression.submit for field in fields), *(one.submit for one in shared.submits)]
        for start in starts:
            runner.on(start, begin, inputs, [state, *notes], watch, outputs)

        def begin_live(request: gr.Request, on: bool, *values: Any) -> tuple[Any, ...]:
            return begin(request, *values) if on else (gr.skip(),) * (1 + len(NAMES))

        for field in fields:
            for slider in field.sliders:
                runner.on(slider.release, begin_live, [live, *inputs], [state, *notes], watch, outputs)
        stop.click(runner.stop, None, state, **QUIET)
        return cls(tuple(fields))


_CODE: dict[str, Any] = {
    "interactive": False,
    "show_line_numbers": False,
    "wrap_lines": True,
    "lines": 2,
    "buttons": ["copy"],
}


def show(trials: Mapping[str, Trial], sides: FormingSides, folder: Path, draw: bool) -> tuple[Any, ...]:
    """The values of all outputs; files once both sides have ended, the plots then and when they are to be drawn."""
    ended = all(side.ended for side in sides.values())
    taken = min(side.step for side in sides.values())
    steps = next(iter(sides.values())).steps
    state = tiles.line("done" if ended else f"step {taken} of {steps}")
    pictures = [tiles.side(side, name, trials[name].n) for name, side in sides.items()]
    skipped = [gr.skip()] * len(NAMES)
    if not ended:
        return state, *skipped, *pictures, gr.skip(), drawn(sides) if draw else gr.skip(), *skipped * 3
    saves, commands, scripts = [], [], []
    for name, side in sides.items():
        path, trial = folder / f"{name.lower()}.png", trials[name]
        if side.run is not None:
            with replacing(path) as partial:
                partial.write_bytes(picture(side.run, max(1, len(trial.conds))))
        saves.append(gr.update(value=str(path) if side.run else None, interactive=side.run is not None))
        commands.append(trial.command(side.plan))
        scripts.append(trial.python(side.plan))
    return (
        state,
        *skipped,
        *pictures,
        tiles.difference(sides, next(iter(trials.values())).n),
        drawn(sides),
        *commands,
        *scripts,
        *saves,
    )


def drawn(sides: FormingSides) -> str:
    """The plots over the steps."""
    alt = "size, angle, effective scale, saturation, rows and time over the steps"
    return Svg(to_svg(trace_figure(sides)), alt, "Means over the images; times are measured while watching.").html()
