"""The loss of a denoiser on held-out images by noise level, of its raw and its averaged weights.

Every image is seen once in each range of log-SNR, at a level and with noise that are fixed once for all. Numbers of
two steps, of the raw and the averaged weights, and of two trainings with one objective on the same images, hence differ
by the weights alone. It is the squared error of what the network predicts (its objective), unweighted, each image under
its own conditions, none dropped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.data.degrade import DRAWS
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, stratified_order, stream, to_float
from fairlead.data.names import same_names
from fairlead.data.text import encoder_from_config
from fairlead.measure.metrics import mean_estimate
from fairlead.train.conditions import DataConditions
from fairlead.train.loop import Training
from fairlead.train.objective import Draw, squared_errors
from fairlead.train.step_table import read_table

EDGES = (8.0, 5.0, 2.0, -1.0, -4.0, -7.0)
"""Of the ranges in log-SNR: from hardly any noise to hardly any image."""
MOST, FEWEST = 128, 8
"""Images."""
_ROWS = 64
"""In a network call, at most."""
_SEED = 0
"""Of levels and noise: the same for every training."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Of one step, at noise levels ``low`` <= log-SNR < ``high``, a mean over ``n`` images with its standard error.

    Attributes:
        raw: of the weights that the optimiser holds.
        averaged: of their average.
        difference: averaged minus raw; its error is paired image by image, and so smaller than that of either.
    """

    step: int
    low: float
    high: float
    n: int
    raw: float
    raw_error: float
    averaged: float
    averaged_error: float
    difference: float
    difference_error: float


COLUMNS = tuple(each.name for each in fields(HeldOutLoss))
"""Of ``RUN/validation.csv``."""


def images_for(training: Training) -> int:
    """Of each range: so many that measuring ten times takes a few per cent of the training."""
    config = training.config
    return min(MOST, max(FEWEST, config.steps * config.batch_size // 1000))


def held_out_images(training: Training, count: int) -> ImageData:
    """At most ``count`` of the images that the data of a training holds out.

    Raises:
        UsageError: if there are none, or they cannot be read.
    """
    given = training.config.data
    if not given:
        raise UsageError("the data are in memory and nothing is held out; data=(training, held_out) gives both")
    return load_data(**{**given, "limit": min(count, given.get("limit", count))}, split="test")


def check_held_out(found: ImageData, data: ImageData) -> None:
    """Raise UsageError unless these images are such as ``data``."""
    if found.shape != data.shape or not same_names(found.classes, data.classes):
        raise UsageError(
            f"held-out images are {'x'.join(map(str, found.shape))} of {len(found.classes)} classes, those trained on "
            f"{'x'.join(map(str, data.shape))} of {len(data.classes)}"
        )


class Validation:
    """Measures a training on ``data``.

    Args:
        count: of its images, at most.

    Raises:
        UsageError: if none of the captions can be read, or the data lacks a condition.
    """

    def __init__(self, training: Training, data: ImageData, count: int) -> None:
        config = training.config
        data = data.subset(stratified_order(data.labels, _SEED)[:count])
        if config.text:
            data = _readable(data, config.text)
        self._training, self.data = training, data
        images = to_float(data.images)
        with torch.no_grad():
            self._x0 = images if training.autoencoder is None else training.autoencoder.encode(images).cpu()
        self._condition = Condition(len(data))
        if training.conditions is not None:
            own = DataConditions.of(data, config.net, config.text, config.image)
            draws = torch.rand(len(data), DRAWS, generator=stream("validation image", _SEED, 0))
            self._condition = own.at(torch.arange(len(data)), images, draws)
        noisiest = float(training.schedule.log_snr(torch.ones((), dtype=torch.float64)))
        self.ranges = [(low, high) for high, low in pairwise(EDGES) if low >= noisiest]
        self._draws = [self._draw(number, low, high) for number, (low, high) in enumerate(self.ranges)]

    def _draw(self, number: int, low: float, high: float) -> Draw:
        """Levels spread evenly over the range, and noise."""
        n, generator = len(self.data), stream("validation", _SEED, number)
        places = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        t = self._training.schedule.t_of_log_snr(low + (high - low) * places)
        return Draw(t, torch.randn((n, *self._training.noise_shape), generator=generator), {})

    def measure(self) -> list[HeldOutLoss]:
        """Of the present step; the training goes on undisturbed."""
        training = self._training
        raw = training.accelerator.unwrap_model(training.network)
        with _evaluating(raw), _evaluating(training.average.module):
            both = [(self._errors(raw, draw), self._errors(training.average.module, draw)) for draw in self._draws]
        found = []
        for (low, high), (own, averaged) in zip(self.ranges, both, strict=True):
            estimates = [mean_estimate(values) for values in (own, averaged, averaged - own)]
            numbers = [number for estimate in estimates for number in (estimate.value, estimate.error)]
            found.append(HeldOutLoss(training.step, low, high, len(own), *numbers))
        return found

    @torch.no_grad()
    def _errors(self, network: nn.Module, draw: Draw) -> Tensor:
        """float64 [n], of each image."""
        training, found = self._training, []
        config, task, device = training.config, training.task, training.accelerator.device
        for part in torch.split(torch.arange(len(self.data)), _ROWS):
            x0, own = self._x0[part].to(device), Draw(draw.t[part], draw.eps[part], {})
            inputs = task.inputs(x0, own, self._condition[part], training.schedule)
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                output = task.output(network, inputs, config)
            output = output[0] if config.internal else output
            objective: Any = config.objective
            found.append(squared_errors(output, x0, own, training.schedule, objective).double().cpu())
        return torch.cat(found)


def read_losses(run: Path) -> list[HeldOutLoss]:
    """What ``RUN/validation.csv`` holds, in the order of the steps."""
    rows = [[float(cell) for cell in row] for row in read_table(run / "validation.csv", COLUMNS)]
    return [HeldOutLoss(int(step), low, high, int(n), *rest) for step, low, high, n, *rest in rows]


def held_out_lines(rows: Sequence[HeldOutLoss]) -> list[str]:
    """A table for the terminal, of one step."""
    head = (
        f"{'log-SNR':>10}  {'raw':>17}  {'averaged':>17}  loss of {rows[0].n:,} held-out images, ± one standard error"
    )
    return [head] + [
        f"{row.low:>4g} to {row.high:>2g}  {cell(row.raw, row.raw_error):>17}  "
        f"{cell(row.averaged, row.averaged_error):>17}"
        for row in rows
    ]


def cell(value: float, error: float) -> str:
    """``0.0123 ± 0.0004``"""
    return f"{value:.4g}" if math.isnan(error) else f"{value:.4f} ± {error:.4f}"


def _readable(data: ImageData, text: dict[str, object]) -> ImageData:
    """The images whose captions the encoder reads: some know only the words that they were trained on."""
    encoder, kept = encoder_from_config(text), []
    for i in range(len(data)):
        try:
            encoder(data.sentences(i))
        except UsageError:
            continue
        kept.append(i)
    if not kept:
        raise UsageError("the text encoder reads the captions of none of the held-out images")
    if len(kept) < len(data):
        print(
            f"held-out loss: without {len(data) - len(kept)} of {len(data)} images, whose captions the text encoder "
            "does not read",
            file=sys.stderr,
        )
    return data.subset(torch.tensor(kept))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)
