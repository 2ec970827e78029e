"""Sweeps and searches: the curve, the front, and the images and the paired difference of a point that is clicked."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gradio as gr

from fairlead.app import tiles
from fairlead.app.compare_tab import NAMES, CompareTab
from fairlead.app.fields import QUIET, GuidanceField
from fairlead.app.library import Library
from fairlead.app.swept import Swept
from fairlead.core.errors import UsageError, unknown

_LOOK: dict[str, Any] = {**QUIET, "show_progress": "minimal", "preprocess": False}


def add_sweeps_tab(library: Library, compare: CompareTab | None) -> None:
    """Put it on the page; ``compare`` takes over a point's guidance, where there is such a tab."""
    opened = _Opened(library)
    with gr.Row():
        place = gr.Dropdown(
            [*library.sweeps], value=next(iter(library.sweeps), None), label="Sweep or search", elem_id="sweep", scale=4
        )
        again = gr.Button("Open", variant="primary", elem_id="sweep-open", scale=1)
    said = gr.HTML(elem_id="sweep-said")
    curves = gr.HTML(elem_id="sweep-curves")
    front = gr.Image(
        label="The front: click a point", elem_id="sweep-front", visible=False, interactive=False, format="png",
        buttons=[],
    )  # fmt: skip
    with gr.Row(visible=False) as chosen:
        name = gr.Dropdown([], label="Setting", elem_id="sweep-setting", filterable=False)
        other = gr.Dropdown([], label="Compared with", elem_id="sweep-other", filterable=False)
        sends = [gr.Button(f"As {own.lower()} setting", visible=compare is not None) for own in NAMES]
    pictures = gr.HTML(elem_id="sweep-images")
    point_outputs = [said, pictures]

    def open_(path: str | None) -> tuple[Any, ...]:
        try:
            found = opened.fresh(path)
            names = [*found.points]
            first = found.best or names[0]
            base = found.point(first).baseline
            against = next((each for each in names if found.points[each].setting == base), names[0])
            picture = found.front[0] if len(names) > 1 else None
            return (
                found.findings(),
                found.curves(),
                gr.update(value=picture, visible=picture is not None),
                gr.update(visible=True),
                gr.update(choices=names, value=first),
                gr.update(choices=names, value=against),
                _point(found, first, against),
            )
        except UsageError as error:
            hidden = gr.update(visible=False)
            return tiles.line(str(error), wrong=True), "", hidden, hidden, gr.skip(), gr.skip(), ""

    def show(path: str | None, own: str, against: str) -> tuple[Any, Any]:
        try:
            return gr.skip(), _point(opened.of(path), own, against)
        except UsageError as error:
            return tiles.line(str(error), wrong=True), gr.skip()

    def click(event: gr.SelectData, path: str | None, against: str) -> tuple[Any, ...]:
        try:
            found = opened.of(path)
            own = found.nearest(*map(float, event.index))
            return gr.skip(), own, _point(found, own, against)
        except UsageError as error:
            return tiles.line(str(error), wrong=True), gr.skip(), gr.skip()

    opens = [said, curves, front, chosen, name, other, pictures]
    for event in (place.input, again.click):
        event(open_, place, opens, **_LOOK)
    for event in (name.input, other.input):
        event(show, [place, name, other], point_outputs, **_LOOK)
    front.select(click, [place, other], [said, name, pictures], **_LOOK)
    if compare is not None:
        for field, button in zip(compare.fields, sends, strict=True):
            button.click(
                _sender(opened),
                [place, name],
                [field.expression, field.said, *field.sliders],
                preprocess=False,
                **QUIET,
            )


def _sender(opened: _Opened) -> Any:
    def send(path: str | None, own: str) -> tuple[Any, ...]:
        text = opened.of(path).point(own).guidance
        return text, *GuidanceField.shown(text)

    return send


def _point(found: Swept, name: str, against: str) -> str:
    """The images of a setting above those of the other, and the numbers."""
    shown = []
    for own in dict.fromkeys((name, against)):
        examples = found.point(own).examples[:20]
        labels = [found.classes[i % len(found.classes)] if found.classes else str(i) for i in range(len(examples))]
        point = found.point(own)
        cost = f"{point.rows_per_image:g} network rows and {point.ms_per_image:.1f} ms per image"
        pictures = tiles.tiles(examples, labels, own, len(found.classes) or 10)
        shown.append(f'<p class="cost"><code>{tiles.text(own)}</code> · {cost}</p>{pictures}')
    return "".join(shown) + found.against(name, against)


class _Opened:
    """The folders that were looked at last; only those of the library."""

    def __init__(self, library: Library) -> None:
        self._library, self._read = library, lru_cache(maxsize=4)(Swept.of)

    def of(self, place: str | None) -> Swept:
        """Raises UsageError for a folder that the library has not."""
        if place not in self._library.sweeps:
            raise unknown("sweep", place, self._library.sweeps)
        return self._read(place)

    def fresh(self, place: str | None) -> Swept:
        """The same, read anew."""
        self._read.cache_clear()
        return self.of(place)
