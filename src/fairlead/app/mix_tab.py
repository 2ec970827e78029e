"""Classes mixed by weights, and the way from one condition to another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.combined import mixture, way
from fairlead.app.fields import QUIET, SharedFields, choices_of, decimal, whole
from fairlead.app.forming import Side, forming
from fairlead.app.library import Library
from fairlead.app.runner import Runner
from fairlead.app.trial import Trial
from fairlead.core.errors import UsageError
from fairlead.sample.run import Plan

PARTS = 3
_WEIGHTS = (2.0, 2.0, 0.0)


def add_mix_tab(library: Library, runner: Runner, shared: SharedFields) -> None:
    """Put it on the page."""
    named = choices_of(library.model(library.models[0]).examples)
    choices: list[Any] = []

    def choice(label: str, own: str, index: int) -> Any:
        value = named[index] if index < len(named) else None
        field = gr.Dropdown(named, value=value, allow_custom_value=True, label=label, elem_id=own, min_width=120)
        choices.append(field)
        return field

    gr.HTML("<h2>Mixed by weights</h2>" + tiles.line("A positive weight asks for it, a negative one for its absence."))
    names, weights = [], []
    with gr.Row():
        for i, weight in enumerate(_WEIGHTS):
            with gr.Column(min_width=200):
                names.append(choice(f"Condition {i + 1}", f"mix-{i}", i))
                weights.append(gr.Slider(-6, 6, value=weight, step=0.1, label="Weight", elem_id=f"mix-weight-{i}"))
    mix = _Part(runner, "mix", "Sample the mixture")

    def begin_mix(request: gr.Request, *values: Any) -> str:
        def plan() -> Plan:
            parts = [
                (str(name or ""), decimal("weight", weight))
                for name, weight in zip(values[:PARTS], values[PARTS:], strict=False)
            ]
            trial = shared.trial(mixture(parts), values[2 * PARTS :])
            return Trial(**{**vars(trial), "conds": ()}).plan(library)

        return mix.begin(request, plan)

    mix.connect(begin_mix, [*names, *weights, *shared.inputs])

    gr.HTML("<h2>From one to another</h2>" + tiles.line("The same noise, and the conditions mixed step by step."))
    with gr.Row():
        first, last = choice("From", "way-from", 0), choice("To", "way-to", 1)
        frames = gr.Slider(3, 16, value=8, step=1, label="Frames", elem_id="way-frames")
        guidance = gr.Textbox("cfg(2)", label="Guidance", elem_id="way-guidance", elem_classes="code")
    strip = _Part(runner, "way", "Sample the way")

    def begin_way(request: gr.Request, a: str, b: str, count: float, text: str, *values: Any) -> str:
        def plan() -> Plan:
            trial = shared.trial(text, values)
            ends = (str(a or "").strip(), str(b or "").strip())
            if not all(ends):
                raise UsageError("interpolation: expected two classes or prompts")
            return way(library, Trial(**{**vars(trial), "conds": ends, "n": min(trial.n, 4)}), whole("frames", count))

        return strip.begin(request, plan)

    strip.connect(begin_way, [first, last, frames, guidance, *shared.inputs])

    def renew(name: str) -> list[Any]:
        try:
            found = choices_of(library.model(name).examples)
        except UsageError:
            found = []
        return [gr.update(choices=found, value=found[i % len(found)] if found else None) for i in range(len(choices))]

    shared.model.input(renew, shared.model, choices, **QUIET)


class _Part:
    """A button, a stop, and the pictures below."""

    def __init__(self, runner: Runner, name: str, title: str) -> None:
        self._runner = runner
        with gr.Row(elem_classes="go"):
            self._go = gr.Button(title, variant="primary", elem_id=f"{name}-sample", scale=3)
            stop = gr.Button("Stop", elem_id=f"{name}-stop", scale=1)
        self._state = gr.HTML(elem_id=f"{name}-state")
        self._pictures = gr.HTML(elem_id=f"{name}-images")
        stop.click(runner.stop, None, self._state, **QUIET)

    def begin(self, request: gr.Request, plan: Any) -> str:
        try:
            plans: Mapping[str, Plan] = {"": plan()}
        except UsageError as error:
            self._runner.cancel(request)
            return tiles.line(str(error), wrong=True)
        self._runner.begin(request, lambda: forming(plans))
        return tiles.line("waiting for its turn")

    def connect(self, begin: Any, inputs: Sequence[Any]) -> None:
        def watch(request: gr.Request) -> Iterator[tuple[str, str]]:
            for sides in self._runner.watch(request):
                side = sides[""]
                labels = [_short(label) for label in tiles.captions(side)]
                frames = len({*side.plan.conds})
                columns = frames if frames > 1 else len(labels)
                yield _state(side), tiles.side(side, "mixture", columns, labels)

        self._runner.on(self._go.click, begin, inputs, [self._state], watch, [self._state, self._pictures])


def _short(label: str) -> str:
    """``0.857143 zero + 0.142857 one · 0`` with two digits."""
    return re.sub(r"\b0\.\d{3,}", lambda found: f"{float(found[0]):.2f}", label)


def _state(side: Side) -> str:
    return tiles.line("done" if side.ended else f"step {side.step} of {side.steps}")
