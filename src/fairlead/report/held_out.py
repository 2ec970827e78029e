"""How well a classifier of noisy images and an autoencoder do on held-out images, in numbers and in a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, stratified_order, to_float, to_uint8
from fairlead.data.names import same_names
from fairlead.diffusers.autoencoder import Autoencoder
from fairlead.measure.metrics import Estimate, mean_estimate, proportion_estimate
from fairlead.models.noisy_classifier_model import NoisyClassifierModel
from fairlead.report.image_grid import image_grid
from fairlead.report.plots import BLUE, GREY, plot_style

EDGES = (8.0, 6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0, -8.0)


@dataclass(frozen=True)
class NoiseBin:
    """Accuracy at noise levels with low <= log-SNR < high."""

    low: float
    high: float
    accuracy: Estimate


def accuracy_by_noise(
    classifier: NoisyClassifierModel,
    data: ImageData,
    edges: Sequence[float] = EDGES,
    seed: int = 0,
    batch_size: int = 256,
) -> list[NoiseBin]:
    """Every image once in each bin, at a log-SNR uniform in it, with its own noise.

    Args:
        data: of the classifier's shape and classes.
        edges: of the bins in log-SNR, falling; bins that reach beyond the noisy end of the schedule are left out.
        seed: of the noise levels and the noise.
    """
    if data.shape != classifier.shape or not same_names(data.classes, classifier.classes):
        raise UsageError(
            f"data {data.name!r} has images {list(data.shape)} of {len(data.classes)} classes, the classifier knows "
            f"{list(classifier.shape)} of {len(classifier.classes)}; measure it on its own data"
        )
    schedule, device, bins = classifier.schedule, classifier.device, []
    noisiest = float(schedule.log_snr(torch.ones((), dtype=torch.float64)))
    for number, (high, low) in enumerate(pairwise(edges)):
        if low < noisiest:
            continue
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        level = low + (high - low) * torch.rand(len(data), generator=generator, dtype=torch.float64)
        t = schedule.t_of_log_snr(level)
        hits = []
        for part in torch.split(torch.arange(len(data)), batch_size):
            x0 = to_float(data.images[part])
            alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(t[part]))
            x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
            with torch.no_grad():
                answer = classifier.log_prob(x_t.to(device), t[part]).argmax(1).cpu()
            hits.append(answer == data.labels[part])
        bins.append(NoiseBin(low, high, proportion_estimate(torch.cat(hits))))
    return bins


_CHUNK = 256


def reconstruction_error(autoencoder: Autoencoder, data: ImageData) -> dict[str, Estimate]:
    """Errors of decode(encode(image)), from the posterior mean, clipped to [-1, 1]; their means over the images.

    Returns:
        "l1": mean absolute error in units of the range, 0 to 1; "psnr": -10 log10 of the mean squared error in those
        units, in dB, of each image by itself, at most 100.

    Raises:
        UsageError: for images that it cannot encode, or none.
    """
    autoencoder.latent_shape(data.shape)
    if not len(data):
        raise UsageError(f"data {data.name!r}, split {data.split!r}, has no images to measure on")
    absolute, squared = [], []
    with torch.no_grad():
        for part in torch.split(data.images, _CHUNK):
            images = to_float(part)
            difference = (rebuilt(autoencoder, images) - images).double().flatten(1) / 2
            absolute.append(difference.abs().mean(1))
            squared.append(difference.square().mean(1))
    psnr = -10 * torch.cat(squared).clamp(min=1e-10).log10()
    return {"l1": mean_estimate(torch.cat(absolute)), "psnr": mean_estimate(psnr)}


def rebuilt(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """decode(encode(images)) of images [n, c, h, w] in [-1, 1], clipped to it."""
    return autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1)


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


def reconstruction_grid(autoencoder: Autoencoder, data: ImageData, columns: int = 10) -> bytes:
    """PNG: a row of images of ``data``, spread over its classes, and a row of their reconstructions."""
    index = stratified_order(data.labels, seed=0)[:columns]
    images = data.images[index]
    with torch.no_grad():
        again = to_uint8(rebuilt(autoencoder, to_float(images)))
    return image_grid(
        torch.stack([images, again]),
        row_labels=["image", "decoded"],
        col_labels=[data.classes[label] for label in data.labels[index].tolist()],
        title=f"{data.name} {data.split}",
    )
