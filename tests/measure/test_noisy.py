"""Accuracy by noise level, with classifiers whose accuracy is known."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule, VPCosine, vp_scaled_linear
from fairlead.data.images import ImageData
from fairlead.report.held_out import EDGES, accuracy_by_noise

CLASSES, SHAPE = ("dark", "bright"), (1, 1, 1)


@dataclass(eq=False)
class Threshold:
    """Bright if x_t > 0: right with probability Phi(alpha / sigma) for pixels -1 and 1."""

    schedule: NoiseSchedule
    shape: tuple[int, int, int] = SHAPE
    classes: tuple[str, ...] = CLASSES
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        value = x_t.flatten(1)
        return torch.cat([-value, value], 1)


def pixels(n: int) -> ImageData:
    labels = torch.arange(n) % 2
    return ImageData((labels * 255).to(torch.uint8).reshape(n, 1, 1, 1), labels, CLASSES, "pixels", "test", False)


def test_it_is_the_closed_form_within_its_error_bars() -> None:
    schedule = VPCosine()
    bins = accuracy_by_noise(Threshold(schedule), pixels(4000))  # type: ignore[arg-type]
    assert [(entry.high, entry.low) for entry in bins] == [*pairwise(EDGES)]
    for entry in bins:
        level = torch.linspace(entry.low, entry.high, 1001, dtype=torch.float64)
        expected = float(torch.special.ndtr((level / 2).exp()).mean())
        assert entry.accuracy.n == 4000
        assert abs(entry.accuracy.value - expected) < 4 * entry.accuracy.error


def test_it_is_a_function_of_the_seed_and_of_no_batch_size() -> None:
    first, again, other = (
        [e.accuracy.value for e in accuracy_by_noise(Threshold(VPCosine()), pixels(500), seed=seed, batch_size=size)]  # type: ignore[arg-type]
        for seed, size in ((0, 256), (0, 500), (1, 256))
    )
    assert first == again != other


def test_bins_beyond_the_noisy_end_are_left_out_and_other_data_is_refused() -> None:
    bins = accuracy_by_noise(Threshold(vp_scaled_linear()), pixels(10))  # type: ignore[arg-type]
    assert min(entry.low for entry in bins) == -4  # the schedule ends at -5.4
    with pytest.raises(UsageError, match="measure it on its own data"):
        accuracy_by_noise(Threshold(VPCosine()), replace(pixels(10), classes=("a", "b")))  # type: ignore[arg-type]
