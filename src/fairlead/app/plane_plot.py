"""The picture of a walk in two dimensions: the score field, the paths, the samples on the sharpened density."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fairlead.app.plane import REACH, Walk, lattice
from fairlead.core.errors import UsageError
from fairlead.report.plots import BLUE, plot_style

_ORANGE, _INK = "#D55E00", "#181C22"
PATHS = 60
"""Samples whose paths are drawn."""


def plane_png(walk: Walk, step: int, w: float) -> bytes:
    """Three panels.

    Args:
        step: where the field stands and the paths end, from 0.
        w: exponent of the sharpened density.
    """
    step = min(step, len(walk.states) - 1)
    with plot_style():
        figure = Figure(figsize=(12.6, 4.7), layout="constrained")
        FigureCanvasAgg(figure)
        field, paths, samples = figure.subplots(1, 3)
        _draw_field(field, walk, step)
        _draw_paths(paths, walk, step)
        _draw_samples(samples, walk, w)
        for axes in (field, paths, samples):
            axes.set_xlim(-REACH, REACH)
            axes.set_ylim(-REACH, REACH)
            axes.set_aspect("equal")
            axes.grid(False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _draw_field(axes: Axes, walk: Walk, step: int) -> None:
    alpha, sigma = walk.level(step)
    axes.set_title(f"Guided score at sigma = {sigma / alpha:.3g}" if alpha > 1e-6 else "Guided score in pure noise")
    _fill(axes, walk, walk.density(step), "Blues")
    places = lattice(21)
    try:
        score = walk.score(places, step)
    except UsageError as error:
        axes.text(0, -REACH * 0.9, str(error), ha="center", fontsize=7.5, color=_INK, wrap=True)
    else:
        length = score.norm(dim=1, keepdim=True).clamp(min=1e-12)
        arrows = score / length * (length / length.max()).sqrt()
        axes.quiver(*places.T, *arrows.T, color=_INK, angles="xy", scale=26, width=0.0032, alpha=0.75)
    axes.scatter(
        walk.states[step][:, 0], walk.states[step][:, 1], s=7, color=_ORANGE, alpha=0.7, linewidths=0, zorder=3
    )
    axes.set_xlabel("shaded: density of the class at this noise; dots: samples", fontsize=8)


def _draw_paths(axes: Axes, walk: Walk, step: int) -> None:
    axes.set_title(f"Paths, step {step} of {walk.steps}")
    _outlines(axes, walk)
    for path in walk.states[: step + 1, :PATHS].unbind(1):
        axes.plot(*path.T, color=BLUE, linewidth=0.7, alpha=0.45)
    axes.scatter(walk.states[step, :PATHS, 0], walk.states[step, :PATHS, 1], s=9, color=_ORANGE, linewidths=0, zorder=3)
    axes.set_xlabel("outlines: density of each class; orange: that of the class", fontsize=8)


def _draw_samples(axes: Axes, walk: Walk, w: float) -> None:
    axes.set_title(f"Samples on p(x) p(c|x)^{w:g}")
    _fill(axes, walk, walk.sharpened(w), "Greens")
    axes.scatter(walk.states[-1, :, 0], walk.states[-1, :, 1], s=8, color=_ORANGE, alpha=0.8, linewidths=0, zorder=3)
    axes.set_xlabel("shaded: the sharpened density of the data", fontsize=8)


def _fill(axes: Axes, walk: Walk, log_density: Tensor, colours: str) -> None:
    """Filled contours of a density, light to dark."""
    x, y, density = _mesh(walk, log_density)
    top = float(density.max())
    levels = [top * share for share in (0.01, 0.05, 0.15, 0.35, 0.6, 0.85, 1.001)]
    axes.contourf(x, y, density, levels=levels, cmap=colours)


def _outlines(axes: Axes, walk: Walk) -> None:
    for label in range(walk.mixture.n_classes):
        own = walk.mixture.log_density(walk.grid, 1.0, 0.0, (walk.grid[:, 0] * 0 + label).long())
        x, y, density = _mesh(walk, own)
        top = float(density.max())
        mine = label == walk.label
        axes.contour(
            x, y, density, levels=[0.1 * top, 0.5 * top], colors=_ORANGE if mine else "#B8BDC6",
            linewidths=1.2 if mine else 0.8,
        )  # fmt: skip


def _mesh(walk: Walk, log_density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    side = round(len(walk.grid) ** 0.5)
    x, y = (walk.grid[:, i].reshape(side, side) for i in (0, 1))
    return x, y, log_density.exp().reshape(side, side)
