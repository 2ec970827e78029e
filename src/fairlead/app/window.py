"""The page: its tabs, its looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

import fairlead
from fairlead.app.compare_tab import CompareTab
from fairlead.app.fields import SharedFields
from fairlead.app.library import Library
from fairlead.app.mix_tab import add_mix_tab
from fairlead.app.plane_tab import add_plane_tab
from fairlead.app.runner import Runner
from fairlead.app.scales_tab import add_scales_tab
from fairlead.app.sweeps_tab import add_sweeps_tab

FONT = ("system-ui", "Segoe UI", "Roboto", "sans-serif")
BLUES = (
    *("#eef5fa", "#d6e8f4", "#aed1e9", "#7db4d9", "#3f92c6", "#0072b2"),
    *("#00629a", "#00517f", "#004063", "#003048", "#00202f"),
)
MONO = ("ui-monospace", "Consolas", "monospace")


def window(library: Library, files: Path) -> Any:
    """The page for a library.

    Args:
        files: a folder for what is downloaded.
    """
    runner = Runner(files)
    with gr.Blocks(title="fairlead", analytics_enabled=False, fill_width=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f'<header><h1>fairlead</h1><p class="quiet">playground · version {fairlead.__version__}</p></header>')
        compare = None
        with gr.Tabs():
            if library.models:
                with gr.Tab("Images", id="images"):
                    shared = SharedFields.add(library)
                    with gr.Tabs():
                        with gr.Tab("Compare", id="compare"):
                            compare = CompareTab.add(library, runner, shared)
                        with gr.Tab("Scales", id="scales"):
                            add_scales_tab(library, runner, shared, compare)
                        with gr.Tab("Mix", id="mix"):
                            add_mix_tab(library, runner, shared)
            with gr.Tab("Two dimensions", id="plane"):
                add_plane_tab(runner)
            if library.sweeps:
                with gr.Tab("Sweeps", id="sweeps"):
                    add_sweeps_tab(library, compare)
        page.unload(runner.leave)
    page.queue(max_size=library.limits.waiting, api_open=False)
    return page


def theme() -> Any:
    """The report's colours; fonts of the system, so that nothing is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.Color(*BLUES),
        neutral_hue="slate",
        radius_size="sm",
        spacing_size="sm",
        font=[gr.themes.Font(name) for name in FONT],
        font_mono=[gr.themes.Font(name) for name in MONO],
    ).set(
        body_text_color="#181c22",
        body_text_color_subdued="#5b626d",
        border_color_primary="#e3e6eb",
        block_border_color="#e3e6eb",
        block_label_text_color="#5b626d",
        block_title_text_color="#181c22",
        button_primary_background_fill="#0072b2",
        button_primary_background_fill_hover="#00629a",
        button_primary_text_color="#ffffff",
        slider_color="#0072b2",
    )


LIGHT = "() => document.body.classList.remove('dark')"
"""Script: the page is light whatever the system prefers, as pictures and reports are."""
CSS = """
:root { color-scheme: light; }
.gradio-container { max-width: min(1200px, 100vw) !important; margin: 0 auto; }
gradio-app, .gradio-container, .gradio-container > .main, .gradio-container > .main > .wrap { width: 100%; }
.gradio-container main, .gradio-container main > .column { min-width: 0; max-width: 100%; width: 100%; }
footer { display: none !important; }
header h1 { font-size: 28px; letter-spacing: -0.01em; margin: 0; }
header { display: flex; flex-wrap: wrap; align-items: baseline; column-gap: 14px; }
.quiet { color: #5b626d; font-size: 14px; margin: 2px 0; overflow-wrap: anywhere; }
.wrong { color: #a8320a; background: #fdf1ec; border-left: 4px solid #d55e00; padding: 8px 12px; margin: 2px 0;
  font-size: 14px; overflow-wrap: anywhere; }
.cost { color: #5b626d; font-size: 14px; margin: 6px 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.cost code { color: #181c22; background: #f6f7f9; padding: 1px 5px; }
.code textarea, .code input { font-family: ui-monospace, Consolas, monospace !important; }
progress { width: 100%; height: 5px; border: 0; background: #e3e6eb; appearance: none; display: block; }
progress::-webkit-progress-bar { background: #e3e6eb; }
progress::-webkit-progress-value { background: #0072b2; }
progress::-moz-progress-bar { background: #0072b2; }
.tiles { display: grid; gap: 10px; overflow-x: auto;
  grid-template-columns: repeat(var(--columns), minmax(56px, 220px)); }
.tiles.small { grid-template-columns: repeat(var(--columns), minmax(56px, 128px)); }
.tiles figure { margin: 0; min-width: 0; }
.tiles img, .tiles .blank { width: 100%; aspect-ratio: 1; display: block; background: #f1f3f6; object-fit: contain; }
.tiles.small img { image-rendering: pixelated; }
.tiles figcaption { color: #5b626d; font-size: 12px; text-align: center; overflow-wrap: anywhere; }
.wide { overflow-x: auto; max-width: 100%; }
.gradio-container .row, .gradio-container .form { flex-wrap: wrap; }
.gradio-container .column, .gradio-container .block, .gradio-container .html-container { min-width: 0; }
.gradio-container .form > .block:has(input[type=range]), #live {
  min-width: min(240px, 100%) !important; }
.wide svg { min-width: 720px; max-width: 100%; height: auto; display: block; }
.wide img.plot { min-width: 900px; max-width: 100%; width: 100%; height: auto; display: block; }
figure { margin: 8px 0; }
h2 { font-size: 18px; margin: 10px 0 2px; }
.findings { background: #eef5fa; border-left: 4px solid #0072b2; padding: 12px 18px 4px; font-size: 15.5px; }
.findings p { margin: 0 0 8px; max-width: 90ch; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 10px 0; }
.wide table, .wide tr { border: 0 !important; }
.wide th, .wide td { padding: 6px 12px !important; border: 0 !important; border-bottom: 1px solid #e3e6eb !important;
  text-align: right; white-space: nowrap; }
.wide th:first-child { text-align: left; font-weight: 500; }
.wide thead th { color: #5b626d; font-weight: 500; border-bottom: 2px solid #e3e6eb !important; }
#row-images .grid-container { grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)) !important; }
#row-images .grid-wrap, #row-images .gallery-container {
  height: auto !important; min-height: 0 !important; max-height: none !important; overflow: hidden !important; }
figcaption, caption { color: #5b626d; font-size: 14px; text-align: left; }
"""
