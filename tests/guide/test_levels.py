"""Scales given at noise levels."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse
from fairlead.guide.levels import AtLevels
from fairlead.guide.step import Step
from fairlead.sample.ddim import DDIM
from fairlead.sample.grids import trailing
from tests.guide.toy import NETWORK, SPECS, images, steered


def at(sigma: float) -> Step:
    return Step(0.5, sigma, -2 * math.log(sigma) if sigma else math.inf)


def test_values_at_levels_are_those_given_and_between_them_linear_in_log_sigma() -> None:
    levels = AtLevels({14: 1, 2: 3, 0.5: 5})
    assert [levels.value(at(sigma)) for sigma in (14.0, 2.0, 0.5)] == [1, 3, 5]
    assert levels.value(at(1.0)) == pytest.approx(4, abs=1e-14)  # the geometric mean of 2 and 0.5
    for share in (0.1, 0.5, 0.9):
        assert levels.value(at(14 ** (1 - share) * 2**share)) == pytest.approx(1 + 2 * share, abs=1e-13)


def test_held_at_the_ends() -> None:
    levels = AtLevels({14: 1, 2: 3, 0.5: 5})
    assert [levels.value(at(sigma)) for sigma in (15.0, 1e9, math.inf)] == [1, 1, 1]
    assert [levels.value(at(sigma)) for sigma in (0.4, 1e-9, 0.0)] == [5, 5, 5]
    assert AtLevels({2: 7}).value(at(0.1)) == AtLevels({2: 7}).value(at(9.0)) == 7


def test_constant_levels_are_the_number_to_the_bit() -> None:
    """At any sigma, and so in a run on a network."""
    levels = AtLevels({14: 1.1, 3: 1.1, 0.013: 1.1})
    assert {levels.value(at(10**exponent)) for exponent in np.linspace(-4, 3, 500)} == {1.1}
    grid, x_t = trailing(NETWORK.schedule, 6), images(t=torch.ones((), dtype=torch.float64))
    ends = []
    for text in ("cfg(2.3)", "cfg(levels({9: 2.3, 0.2: 2.3}))"):
        denoiser = steered(text, SPECS, times=grid)
        *_, last = DDIM().frames(denoiser, x_t, grid, NETWORK.schedule, denoiser.condition, lambda step: x_t)
        ends.append(last.x_t)
    assert torch.equal(*ends)


def test_any_order_and_any_numbers_are_one_scale() -> None:
    a = AtLevels({0.5: 5, 14: 1, 2: 3})
    numbers: Any = {np.float64(14): torch.tensor(1.0), np.int64(2): 3.0, 0.5: np.float32(5)}
    b = AtLevels(numbers)
    assert a == b
    assert hash(a) == hash(b)
    assert str(a) == str(b) == "levels({14: 1, 2: 3, 0.5: 5})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfg(levels({}))", r"levels: expected scales by noise level such as \{14: 1, 0.5: 5\}, got \{\}"),
        ("cfg(levels(3))", "levels: expected scales by noise level such as .* got 3"),
        ("cfg(levels({0: 3}))", "levels: expected each level to be a finite sigma > 0, got 0"),
        ("cfg(levels({inf: 3}))", "levels: expected each level to be a finite sigma > 0, got inf"),
        ('cfg(levels({"seven": 3}))', "levels: expected each level to be a finite sigma > 0, got 'seven'"),
        ("cfg(levels({2: [1, 2]}))", r"levels: expected one number at each level, got \(1, 2\) at 2"),
        ("cfg(levels({2: ramp(1, 2)}))", "levels: expected one number at each level, got .* at 2"),
        ("cfg(levels({2: inf}))", "levels: expected scale to be a finite number"),
        ("cfg(levels({2: 1, 2.0: 3}))", "2.0 is given twice"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
