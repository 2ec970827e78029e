import io

import pytest
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.report.held_out import NoiseBin, accuracy_plot

BINS = [NoiseBin(low, low + 2, Estimate(0.9 - 0.1 * i, 0.02, 100)) for i, low in enumerate((2.0, 0.0, -2.0))]


def test_it_is_a_png_that_repeats_to_the_byte_and_shows_every_point() -> None:
    first = accuracy_plot(BINS, 10)
    assert first == accuracy_plot(BINS, 10)
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.size == (840, 540)
    lower = [NoiseBin(b.low, b.high, Estimate(b.accuracy.value - 0.3, 0.02, 100)) for b in BINS]
    assert accuracy_plot(lower, 10) != first


def test_without_bins_there_is_nothing_to_draw() -> None:
    with pytest.raises(UsageError, match="at least one bin"):
        accuracy_plot([], 10)
