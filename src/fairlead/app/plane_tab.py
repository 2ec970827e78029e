"""The page of two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.fields import QUIET, GuidanceField, decimal, whole
from fairlead.app.plane import LONGEST, MIXTURES, POINTS, Walk, walk_plan, walking
from fairlead.app.plane_plot import plane_png
from fairlead.app.runner import Runner
from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.tune.setting import scale_of

START = "cfg(3)"


def add_plane_tab(runner: Runner) -> None:
    """Put it on the page."""
    gr.HTML(
        tiles.line(
            "An exact Gaussian mixture in place of a network: what a scale does, without the errors of training."
        )
    )
    with gr.Row():
        name = gr.Dropdown([*MIXTURES], value=next(iter(MIXTURES)), label="Distribution", elem_id="plane-name", scale=2)
        label = gr.Dropdown(
            _classes(next(iter(MIXTURES))), value="0", label="Class", elem_id="plane-class", min_width=80
        )
    with gr.Row():
        n = gr.Slider(1, POINTS, value=200, step=1, label="Samples", elem_id="plane-n")
        steps = gr.Slider(1, LONGEST, value=40, step=1, label="Steps", elem_id="plane-steps")
        seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", elem_id="plane-seed", min_width=80)
        sampler = gr.Dropdown(
            names("sampler"),
            value="ddim",
            allow_custom_value=True,
            label="Sampler",
            elem_id="plane-sampler",
            min_width=110,
        )
    field = GuidanceField.add("Plane", START, "Guidance of the samples")
    with gr.Row(elem_classes="go"):
        go = gr.Button("Sample", variant="primary", elem_id="plane-sample", scale=3)
        stop = gr.Button("Stop", elem_id="plane-stop", scale=1)
    state = gr.HTML(elem_id="plane-state")
    with gr.Row():
        step = gr.Slider(0, 40, value=20, step=1, label="Field and paths at step", elem_id="plane-step")
        w = gr.Slider(-2, 10, value=3, step=0.05, label="w of the sharpened density", elem_id="plane-w")
    picture = gr.HTML(elem_id="plane-picture")
    inputs = [name, label, field.expression, n, steps, seed, sampler]
    outputs = [state, picture, step, w]

    def begin(request: gr.Request, one: str, own: str, text: str, *rest: Any) -> str:
        try:
            count, many, first, how = rest
            label_of = whole("class", int(own) if str(own).isdecimal() else own)
            mixture, plan = walk_plan(
                one, label_of, str(text), whole("samples", count), whole("seed", first), str(how), whole("steps", many)
            )
        except UsageError as error:
            runner.cancel(request)
            return tiles.line(str(error), wrong=True)
        runner.begin(request, lambda: walking(mixture, plan, label_of))
        return tiles.line("waiting for its turn")

    def watch(request: gr.Request, at: float, exponent: float) -> Iterator[tuple[Any, ...]]:
        for walk in runner.watch(request):
            if not walk.ended:
                yield tiles.line(f"step {len(walk.states) - 1} of {walk.steps}"), gr.skip(), gr.skip(), gr.skip()
                continue
            runner.keep(request, "walk", walk)
            scale = scale_of(str(walk.plan.guidance))
            place, sharp = min(round(at), walk.steps), exponent if scale is None else scale
            sharp = min(max(sharp, -2.0), 10.0)
            yield (
                plane_line(walk, sharp),
                plane_html(walk, place, sharp),
                gr.update(maximum=walk.steps, value=place),
                sharp,
            )

    def look(request: gr.Request, at: Any, exponent: Any) -> tuple[Any, Any]:
        walk = runner.kept(request, "walk")
        if not isinstance(walk, Walk) or at is None or exponent is None:
            return gr.skip(), gr.skip()
        try:
            place, sharp = max(0, whole("step", at)), decimal("w", exponent)
        except UsageError as error:
            return tiles.line(str(error), wrong=True), gr.skip()
        return plane_line(walk, sharp), plane_html(walk, place, sharp)

    runner.on(go.click, begin, inputs, [state], watch, outputs, more=[step, w])
    runner.on(field.expression.submit, begin, inputs, [state], watch, outputs, more=[step, w])
    for slider in field.sliders:
        runner.on(slider.release, begin, inputs, [state], watch, outputs, more=[step, w])
    for slider in (step, w):
        slider.input(look, [step, w], [state, picture], trigger_mode="always_last", preprocess=False, **QUIET)
    stop.click(runner.stop, None, state, **QUIET)
    name.input(lambda one: gr.update(choices=_classes(one), value="0"), name, label, **QUIET)


def plane_html(walk: Walk, step: int, w: float) -> str:
    """HTML: the picture."""
    alt = f"score field, paths and samples of {walk.plan.guidance} beside the sharpened density with w = {w:g}"
    source = tiles.data_uri(plane_png(walk, step, w))
    return f'<div class="wide"><img class="plot" alt="{tiles.text(alt)}" src="{source}"></div>'


def plane_line(walk: Walk, w: float) -> str:
    """Cost, and the moments of the samples beside those of the sharpened density."""
    n = walk.states.shape[1]
    cost = f"{walk.rows / n:g} evaluations per sample"
    if not walk.ended or n < 2:
        return tiles.line(cost)
    mean, spread = walk.moments(w)
    last = walk.states[-1]
    words = [f"({a:.2f}, {b:.2f})" for a, b in (last.mean(0), last.std(0), mean, spread)]
    return tiles.line(
        f"{cost} · samples: mean {words[0]}, standard deviation {words[1]} · p(x) p(c|x)^{w:g}: mean {words[2]}, "
        f"standard deviation {words[3]} (N = {n})"
    )


def _classes(name: str) -> list[str]:
    return [str(label) for label in range(MIXTURES[name]().n_classes)] if name in MIXTURES else []
