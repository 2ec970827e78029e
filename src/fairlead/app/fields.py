"""The fields that all images share: model, conditions, negative, seed, sampler; and a guidance with its sliders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.knobs import MOST, about, extended, knobs, methods, presets, turned
from fairlead.app.library import Library
from fairlead.app.trial import Trial
from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError
from fairlead.core.registry import names

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Of events that only look: at once, without a spinner, and no public endpoint."""


@dataclass(frozen=True, eq=False)
class SharedFields:
    """Components.

    Attributes:
        inputs: in the order in which :meth:`trial` takes their values.
        model: the first of them.
        submits: those in which Enter samples.
    """

    inputs: tuple[Any, ...]
    model: Any
    submits: tuple[Any, ...]

    @classmethod
    def add(cls, library: Library) -> SharedFields:
        """Put them on the page."""
        first, limits = library.models[0], library.limits
        loaded = library.model(first)
        with gr.Row(equal_height=True):
            model = gr.Dropdown(list(library.models), value=first, label="Model", scale=2, elem_id="model")
            conds = gr.Dropdown(
                choices_of(loaded.examples),
                value=choices_of(loaded.examples)[:2],
                multiselect=True,
                allow_custom_value=True,
                label="Classes or prompts",
                scale=3,
                elem_id="conds",
            )
            negative = gr.Textbox(label="Negative", placeholder="away from this", scale=2)
        with gr.Row(equal_height=True):
            n = gr.Slider(1, 16, value=3, step=1, label="Images of each", elem_id="n")
            steps = gr.Slider(1, limits.steps, value=20, step=1, label="Steps", elem_id="steps")
            seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", elem_id="seed", min_width=90)
            sampler = gr.Dropdown(
                names("sampler"),
                value="ddim",
                allow_custom_value=True,
                label="Sampler",
                elem_id="sampler",
                min_width=120,
            )
        said = gr.HTML(tiles.line(model_line(library, first)))

        def chosen(name: str) -> tuple[Any, str]:
            try:
                found = choices_of(library.model(name).examples)
                return gr.update(choices=found, value=found[:2]), tiles.line(model_line(library, name))
            except UsageError as error:
                return gr.update(choices=[], value=[]), tiles.line(str(error), wrong=True)

        model.input(chosen, model, [conds, said], api_visibility="private", concurrency_limit=None)
        return cls((model, conds, negative, n, steps, seed, sampler), model, (negative,))

    @staticmethod
    def trial(guidance: Any, values: Sequence[Any]) -> Trial:
        """The setting that the fields and an expression say."""
        model, conds, negative, n, steps, seed, sampler = values
        return Trial(
            model=str(model),
            guidance=str(guidance or "none"),
            conds=tuple(str(cond).strip() for cond in conds or () if str(cond).strip()),
            negative=str(negative or ""),
            n=whole("images", n),
            seed=whole("seed", seed),
            sampler=str(sampler or "ddim"),
            steps=whole("steps", steps),
        )


@dataclass(frozen=True, eq=False)
class GuidanceField:
    """An expression with what it means, sliders for its numbers, and menus that write it.

    Attributes:
        expression: the text.
        said: below it: what is wrong, or what its methods are.
        sliders: for the first numbers of the expression; the rest of them are hidden.
    """

    expression: Any
    said: Any
    sliders: tuple[Any, ...]

    @classmethod
    def add(cls, name: str, value: str, label: str) -> GuidanceField:
        """Put it on the page under a label. The ids of its parts begin with its name."""
        own = name.lower()
        expression = gr.Textbox(value, label=label, elem_id=f"{own}-guidance", elem_classes="code", lines=1)
        said = gr.HTML(explained(value), elem_id=f"{own}-said")
        start = slider_settings(value)
        with gr.Column(elem_classes="knobs"):
            sliders = tuple(gr.Slider(elem_id=f"{own}-knob-{i}", **start[i]) for i in range(MOST))
        with gr.Row():
            menu = [(f"{one}: {said}", one) for one, said in methods().items()]
            more = gr.Dropdown(menu, value=None, label="Add a method", elem_id=f"{own}-add", min_width=140)
            ready = [("none", "none"), *((text, text) for texts in presets().values() for text in texts)]
            preset = gr.Dropdown(ready, value=None, label="Presets", elem_id=f"{own}-presets", min_width=140)
        field = cls(expression, said, sliders)
        outputs = [said, *sliders]
        expression.input(cls.shown, expression, outputs, trigger_mode="always_last", **QUIET)
        for index, slider in enumerate(sliders):
            slider.input(
                _turn(index),
                [expression, slider],
                [expression, said],
                trigger_mode="always_last",
                preprocess=False,
                **QUIET,
            )  # fmt: skip
        more.input(_extend, [expression, more], [expression, more, *outputs], **QUIET)
        preset.input(lambda text: (text, None, *cls.shown(text)), preset, [expression, preset, *outputs], **QUIET)
        return field

    @staticmethod
    def shown(text: Any) -> tuple[Any, ...]:
        """What stands below an expression, and how its sliders are."""
        return explained(str(text)), *(gr.update(**setting) for setting in slider_settings(str(text)))


def explained(text: str) -> str:
    """The error of the grammar, or what each method of the expression is."""
    try:
        found = knobs(text.strip() or "none")
        del found
    except UsageError as error:
        return "" if text.strip().startswith("tuned") else tiles.line(str(error), wrong=True)
    used = [name for name in methods() if f"{name}(" in text]
    return tiles.line(
        " · ".join(f"{name}: {about(name)}" for name in used) or "no guidance: the conditional model alone"
    )


def slider_settings(text: str) -> list[dict[str, Any]]:
    """For each slider what makes it the knob of that number; hidden where there is none."""
    try:
        found = knobs(text.strip() or "none")
    except UsageError:
        found = []
    settings: list[dict[str, Any]] = []
    for knob in found:
        settings.append(
            {
                "minimum": knob.low,
                "maximum": knob.high,
                "value": knob.value,
                "step": knob.step,
                "label": knob.label,
                "visible": True,
            }
        )
    return settings + [{"visible": False, "label": "", "value": 0}] * (MOST - len(settings))


def choices_of(examples: Sequence[Any]) -> list[str]:
    return [str(example) for example in examples if example is not None]


def model_line(library: Library, name: str) -> str:
    """A model in one line."""
    model = library.model(name)
    size = " x ".join(map(str, model.image_shape))
    count = len(model.classes)
    summary = f"{count} classes" if count else f"conditioned on {', '.join(model.conditions) or 'nothing'}"
    data = model.metadata.get("data")
    return " · ".join([f"images {size}", summary, *([f"trained on {data}"] if data else [])])


def decimal(what: str, value: Any) -> float:
    """A number from a field; raises UsageError for anything else, such as an empty field."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{what}: expected a number, got {'nothing' if value is None else shown(value)}")
    return float(value)


def whole(what: str, value: Any) -> int:
    """A whole number from a field; raises UsageError for anything else."""
    if (number := decimal(what, value)) != number // 1:
        raise UsageError(f"{what}: expected a whole number, got {shown(value)}")
    return int(number)


def _turn(index: int) -> Callable[[str, Any], tuple[Any, Any]]:
    def turn(text: str, value: Any) -> tuple[Any, Any]:
        if value is None:  # its number is being written
            return gr.skip(), gr.skip()
        try:
            changed = turned(text, index, decimal("slider", value))
        except UsageError as error:
            return gr.skip(), tiles.line(str(error), wrong=True)
        return changed, explained(changed)

    return turn


def _extend(text: str, name: str) -> tuple[Any, ...]:
    try:
        changed = extended(text, name)
    except UsageError as error:
        return (gr.skip(), None, tiles.line(str(error), wrong=True), *(gr.skip() for _ in range(MOST)))
    return (changed, None, *GuidanceField.shown(changed))
