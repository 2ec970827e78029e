"""The accuracy of a classifier of noisy images over the noise level, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fairlead.core.errors import UsageError
from fairlead.measure.noisy import NoiseBin
from fairlead.report.plots import BLUE, GREY, plot_style


def accuracy_plot(bins: Sequence[NoiseBin], classes: int) -> bytes:
    """PNG: one point a bin with its standard error, data on the left and noise on the right; chance is dashed."""
    if not bins:
        raise UsageError("accuracy plot: expected at least one bin of noise levels, got none")
    with plot_style():
        figure = Figure(figsize=(5.6, 3.6), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        middle = [(entry.low + entry.high) / 2 for entry in bins]
        value = [100 * entry.accuracy.value for entry in bins]
        error = [100 * entry.accuracy.error for entry in bins]
        axes.errorbar(middle, value, error, [(entry.high - entry.low) / 2 for entry in bins], color=BLUE, marker="o")
        axes.axhline(100 / classes, color=GREY, linestyle="--", linewidth=1)
        axes.annotate("chance", (middle[0], 100 / classes), xytext=(0, 4), textcoords="offset points", color=GREY)
        axes.set(
            xlabel="log-SNR (noise to the right)",
            ylabel="accuracy in %",
            ylim=(0, 102),
            title=f"Class of a noisy image; {bins[0].accuracy.n:,} test images a bin",
        )
        axes.invert_xaxis()
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
