"""What a guidance does, shown: the film of its predictions, plots over the noise level, a page. See ``sample.trace``
for what is measured. Over 300 lines: four panels, a table, a page."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fairlead.core.arguments import as_path
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.guide.terms import Guidance, Term
from fairlead.models.load import Weights
from fairlead.models.model import Given, Model
from fairlead.report.image_grid import image_grid
from fairlead.report.page import Block, Code, Png, Section, Svg, Text, write_page
from fairlead.report.plots import plot_style, to_svg
from fairlead.report.text_table import WIDTH, as_text, in_columns
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Precision, Sampling
from fairlead.sample.trace import Trace
from fairlead.sample.watcher import PER_STEP, PER_TERM
from fairlead.tune.answers import loaded_with

FILES = ("explain.json", "explain.png", "film.png", "explain.html")
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK, _GREY = "#181C22", "#8A8F98"

_LEGEND = (
    "Means over the seeds; sizes are root mean squares in x0; angle: to the conditional prediction D_c, in degrees; "
    "eff. w: the w for which cfg(w) comes closest (finished: after the finishers), - where the null prediction was not "
    "evaluated; out: share of x0 outside the data range; rows: as in a run that is not explained."
)


def explain(
    model: Model | str | Path,
    cond: Given | Sequence[Given] = None,
    *,
    guidance: Guidance | Term | str,
    seeds: int | Sequence[int] = (0, 1, 2, 3),
    sampler: Sampler | str = "ddim",
    steps: int = 20,
    grid: str = "trailing",
    batch_size: int = 64,
    precision: Precision = "fp32",
    resources: Mapping[str, Any] | None = None,
    compare: bool = False,
    weights: Weights | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    command: str = "",
) -> Explanation:
    """Sample as :func:`fairlead.sample` does, and report what the guidance did at every step.

    Args:
        seeds: a sample each; means are over them.
        compare: also evaluate the conditional and the null prediction at steps where the guidance does not, for the
            angles and the effective scale there. Their rows are counted apart; the samples stay the same bits.
        weights, device: of a model that is given by its path, as for ``load``.
        out: folder for what :meth:`Explanation.save` writes; must not hold an explanation yet.
        command: said on its page as what made it.

    Raises:
        UsageError: as ``sample`` does, but for values that are not finite: these are part of the explanation.
    """
    sampling = Sampling(sampler, steps, grid, batch_size, precision)
    if out is not None:
        check_free(Path(out), "choose another --out")
    with nullcontext() if out is None else Hold(out):
        if out is not None:
            check_free(Path(out), "choose another --out")
        with progress(f"loading {model}"):
            model, steering, chosen = loaded_with(model, guidance, sampler, steps, weights, device)
        plan = Plan.of(model, cond, steering, sampling, seeds=seeds, resources=resources)
        with progress("", len(plan.batches) * sampling.steps, "step") as advance:
            found = Explanation.of(plan, compare, on_frame=lambda _: advance(1))
        found = replace(found, settings={**found.settings, **chosen})
        if out is not None:
            with progress("drawing pictures"):
                found.save(out, command)
    return found


class Explanation(Trace):
    """A :class:`~fairlead.sample.trace.Trace` that can be drawn and saved."""

    def findings(self) -> str:
        """The numbers that a reader wants first, in a few sentences."""
        n = len(self.seeds)
        said = [f"{self.guidance} takes {sum(self.rows) / n:g} network rows per sample in {self.steps} steps."]
        strength = self.step["strength"].nanmean(1).nan_to_num(-1)
        if float(strength.max()) > 0:
            at = int(strength.argmax())
            said.append(
                f"It changes the conditional prediction most in step {at + 1} (log-SNR {self.log_snr[at]:.2f}), by "
                f"{float(strength[at]):.1%} of its size."
            )
        effective = [value for value in self.mean("effective_finished") if not math.isnan(value)]
        if effective and self.finishers + self.terms:
            said.append(f"It acts like cfg(w) with w from {min(effective):.3g} to {max(effective):.3g}.")
        outside = self.step["outside_finished"].nanmean(1)
        if not bool(outside.isnan().all()):
            said.append(f"In the last step {float(outside[-1]):.1%} of x0 lie outside the data range.")
        if self.compared_rows:
            said.append(f"{self.compared_rows / n:g} further rows per sample were evaluated only for comparison.")
        if self.broken is not None:
            said.append(f"The run broke: {self.broken}.")
        return " ".join(said)

    def table(self, width: int = WIDTH) -> str:
        """The means over the seeds as text, a line per step, in blocks of columns no wider than ``width``."""
        names = [_letter(index) for index in range(len(self.terms))]
        lines = [f"guidance {self.guidance}"]
        lines += [f"{name} = {text}" for name, text in zip(names, self.terms, strict=True)] if names[1:] else []
        wrapped = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="    ")]
        return "\n".join([*wrapped, "", *in_columns(self._columns(names), width), "", *textwrap.wrap(_LEGEND, width)])

    def _columns(self, names: list[str]) -> list[tuple[str, list[str]]]:
        columns = [
            ("step", [str(i + 1) for i in range(self.steps)]),
            ("t", [f"{t:.3f}" for t in self.t]),
            ("sigma", [f"{s:.3g}" for s in self.sigma]),
            ("log-SNR", [f"{level:.2f}" for level in self.log_snr]),
            ("rows", [str(rows) for rows in self.rows]),
            ("|D_c|", as_text(self.mean("condition"), ".3f")),
        ]
        for k, name in enumerate(names):
            own = f"{name} " if names[1:] else ""
            columns += [
                (f"{own}scale", as_text(self.mean("scale", k), ".3g")),
                (f"{own}size", as_text(self.mean("size", k), ".4f")),
                (f"{own}angle", as_text(self.mean("angle", k), ".1f")),
            ]
        for i, first in enumerate(names):
            for j in range(i + 1, len(names)):
                columns.append((f"{first}^{names[j]}", as_text(self.between[i, j].nanmean(1).tolist(), ".1f")))
        columns += [
            ("total", as_text(self.mean("total"), ".4f")),
            ("eff. w", as_text(self.mean("effective"), ".3f")),
        ]
        if self.finishers:
            columns.append(("finished", as_text(self.mean("effective_finished"), ".3f")))
        if not bool(self.step["outside"].isnan().all()):
            columns += [
                ("out D_c", as_text(self.mean("outside_condition"), ".1%")),
                ("out", as_text(self.mean("outside"), ".1%")),
            ]
            if self.finishers:
                columns.append(("out fin.", as_text(self.mean("outside_finished"), ".1%")))
        return columns

    def film_png(self) -> bytes | None:
        """PNG: for each of the first seeds the conditional above the guided x0, a column per step; None if samples are
        no images."""
        if self.film is None:
            return None
        rows, _, columns, *shape = self.film.shape
        names = [f"seed {self.seeds[i]}, {what}" for i in range(rows) for what in ("conditional", "guided")]
        heads = [f"step {i + 1} sigma\u00a0{self.sigma[i]:.3g}" for i in self.film_steps]
        return image_grid(self.film.reshape(2 * rows, columns, *shape), names, heads, self.guidance)

    def figure(self) -> Figure:
        """Four panels over log-SNR: sizes, angles, effective scale, share outside the data range; the mean over the
        seeds, shaded from the smallest to the largest."""
        x, infinite = self._places()
        with plot_style():
            figure = Figure(figsize=(10.4, 7.2), layout="constrained")
            FigureCanvasAgg(figure)
            (sizes, angles), (scales, outside) = figure.subplots(2, 2)
            self._draw_sizes(sizes, x)
            self._draw_angles(angles, x)
            self._draw_scales(scales, x)
            self._draw_outside(outside, x)
            for axes in (sizes, angles, scales, outside):
                axes.set_xlabel("log-SNR: noise on the left, data on the right")
                if axes.get_legend_handles_labels()[0]:
                    axes.legend()
            note = f"{len(self.seeds)} seeds: mean, smallest and largest"
            figure.supxlabel(
                note + ("; the first step, at log-SNR -inf, is drawn one step to the left" if infinite else ""),
                fontsize=8.5,
            )
        return figure

    def _places(self) -> tuple[list[float], bool]:
        """Where on the axis each step stands; pure noise, at -inf, one step before the next."""
        levels = list(self.log_snr)
        finite = [level for level in levels if math.isfinite(level)]
        if len(finite) == len(levels):
            return levels, False
        gap = (finite[-1] - finite[0]) / max(1, len(finite) - 1) if len(finite) > 1 else 1.0
        start = finite[0] if finite else 0.0
        return [level if math.isfinite(level) else start - gap for level in levels], True

    def _draw_sizes(self, axes: Axes, x: list[float]) -> None:
        axes.set_title("What is added to x0")
        axes.set_ylabel("root mean square")
        for k, text in enumerate(self.terms):
            _band(axes, x, self.term["size"][k], k, _short(text))
        if len(self.terms) != 1:
            _band(axes, x, self.step["total"], None, "all terms")
        if self.finishers:
            _band(axes, x, self.step["finished"], None, "after the finishers", "--")
        axes.set_ylim(bottom=0)

    def _draw_angles(self, axes: Axes, x: list[float]) -> None:
        axes.set_title("Its direction")
        axes.set_ylabel("angle in degrees")
        axes.axhline(90, color=_GREY, linewidth=0.8)
        for k, text in enumerate(self.terms):
            _band(axes, x, self.term["angle"][k], k, f"{_short(text, 20)} to the conditional prediction")
        for i in range(len(self.terms)):
            for j in range(i + 1, len(self.terms)):
                label = f"{_short(self.terms[i], 16)} to {_short(self.terms[j], 16)}"
                _band(axes, x, self.between[i, j], None, label, ":")

    def _draw_scales(self, axes: Axes, x: list[float]) -> None:
        axes.set_title("Effective scale")
        axes.set_ylabel("w of the closest cfg(w)")
        axes.axhline(1, color=_GREY, linewidth=0.8)
        for k, text in enumerate(self.terms):
            axes.plot(x, self.mean("scale", k), color=_color(k), linestyle=":", label=f"scale of {_short(text)}")
        _band(axes, x, self.step["effective"], None, "effective")
        if self.finishers:
            _band(axes, x, self.step["effective_finished"], None, "effective, after the finishers", "--")

    def _draw_outside(self, axes: Axes, x: list[float]) -> None:
        axes.set_title("x0 outside the data range")
        axes.set_ylabel("share of values")
        if bool(self.step["outside"].isnan().all()):
            axes.text(0.5, 0.5, "this model's data has no range", ha="center", transform=axes.transAxes, color=_GREY)
            return
        _band(axes, x, self.step["outside_condition"], 0, "conditional prediction")
        _band(axes, x, self.step["outside"], None, "guided")
        if self.finishers:
            _band(axes, x, self.step["outside_finished"], None, "after the finishers", "--")
        axes.set_ylim(bottom=0)

    def png(self) -> bytes:
        """:meth:`figure` as a PNG."""
        stream = io.BytesIO()
        with plot_style():
            self.figure().savefig(stream, format="png", dpi=120, metadata={"Software": None})
        return stream.getvalue()

    def save(self, folder: str | Path, command: str = "") -> list[Path]:
        """Write explain.json, explain.png, film.png (if samples are images) and explain.html.

        Raises:
            UsageError: if the folder holds an explanation already, or a file cannot be written.
        """
        folder = as_path("folder", folder)
        check_free(folder)
        film = self.film_png()
        contents: dict[str, bytes] = {"explain.json": json.dumps(self.to_json(), indent=1).encode()}
        contents["explain.png"] = self.png()
        if film is not None:
            contents["film.png"] = film
        try:
            with Hold(folder), unbroken():
                check_free(folder)
                for name, content in contents.items():
                    with replacing(folder / name, durable=name.endswith(".json")) as partial:
                        partial.write_bytes(content)
                page = self._page(folder / "explain.html", film, command)
        except OSError as error:
            raise UsageError(f"cannot write the explanation to {folder}: {error}") from error
        return [*(folder / name for name in contents), page]

    def _page(self, path: Path, film: bytes | None, command: str) -> Path:
        sections = []
        if film is not None:
            caption = (
                "For each seed: the conditional prediction of x0 above the guided one, both at the x_t of the guided "
                "run; grey where the guidance did not evaluate the conditional prediction."
            )
            picture = Png(film, "conditional and guided predictions, a column per step", caption)
            sections.append(Section("The film", [picture]))
        drawing = Svg(to_svg(self.figure()), "sizes, angles, effective scale and saturation over the noise level")
        sections.append(Section("Over the noise level", [drawing]))
        meanings = "\n\n".join(f"{name.replace('_', ' ')}: {text}." for name, text in {**PER_STEP, **PER_TERM}.items())
        numbers: list[Block] = [Code(self.table()), Text(meanings)]
        sections.append(Section("Step by step", numbers))
        provenance = {
            "guidance": self.guidance,
            "conditions": ", ".join("null" if cond is None else str(cond) for cond in dict.fromkeys(self.conds)),
            "seeds": ", ".join(map(str, self.seeds)),
            **{name: str(value) for name, value in self.settings.items() if name != "model"},
            **{f"model: {name}": str(value) for name, value in self.settings["model"].items()},
        }
        commands = [command] if command else []
        title = f"What {self.guidance} does"
        return write_page(path, title, sections, provenance, findings=self.findings(), commands=commands)


def check_free(folder: Path, instead: str = "choose another folder") -> None:
    """Raise UsageError unless an explanation can be written there without replacing one."""
    check_folder(folder, instead, fresh={name: name for name in FILES})


def _band(axes: Axes, x: list[float], values: Tensor, index: int | None, label: str, style: str = "-") -> None:
    """Mean of [steps, n] over the seeds, shaded from smallest to largest."""
    mean = values.nanmean(1)
    if bool(mean.isnan().all()):
        return
    color, marker = (_INK, None) if index is None else (_color(index), _MARKERS[index % len(_MARKERS)])
    axes.plot(x, mean.tolist(), color=color, linestyle=style, marker=marker, markersize=3.5, label=label)
    low = values.where(values.isfinite(), torch.inf).amin(1)
    high = values.where(values.isfinite(), -torch.inf).amax(1)
    shown = low.isfinite() & high.isfinite()
    axes.fill_between(x, low.tolist(), high.tolist(), where=shown.tolist(), color=color, alpha=0.12, linewidth=0)


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"T{index + 1}"


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]


def _short(text: str, length: int = 34) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
