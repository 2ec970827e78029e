"""A search by prompts alone: its interval is paired over prompts and seeds, and needs no real images."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import Batch, Goal, Measurement, together
from fairlead.tune.search import find_guidance
from fairlead.tune.template import Template

SCALE = Template.of("cfg({scale})", ["scale=1:8"])
COSINE = Goal("cosine", maximise=True)
PROMPTS = 6


class Prompted:
    """A ``Measure``: cosines of images of six prompts, highest at ``best``. What is easy for one prompt is not for
    another (``levels``), each image has luck of its own that all scales share, and a little that the scale changes."""

    def __init__(self, best: float, levels: float, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.best = best
        self.luck, self.turn = 0.03 * torch.randn(2, 1 << 13, generator=draws, dtype=torch.float64)
        self.levels = levels * torch.randn(PROMPTS, generator=draws, dtype=torch.float64)

    def __call__(self, setting, seeds):
        at, labels = math.log(setting[0] / self.best), torch.arange(seeds.start, seeds.stop) % PROMPTS
        own = self.luck[seeds.start : seeds.stop] + at * self.turn[seeds.start : seeds.stop]
        cosine = 0.3 - 0.02 * at**2 + self.levels[labels] + own
        return Batch(torch.zeros(len(seeds), 1), {"cosine": cosine}, 40.0 * len(seeds), labels)


def found(measure):
    return find_guidance(measure, None, SCALE, budget=3000, objective=COSINE)


def test_the_interval_of_the_best_scale_holds_it_in_most_draws():
    held = 0
    for seed in range(20):
        _, low, high = found(Prompted(3.1, 0.1, seed)).best
        held += low <= 3.1 <= high
    assert held >= 17  # of 20 at 95 %: 16 or fewer would be so in 1.6 % of all such tests


def test_how_easy_a_prompt_is_changes_neither_the_interval_nor_what_is_recommended():
    without, spread = found(Prompted(3.1, 0.0)), found(Prompted(3.1, 0.5))
    assert spread.best == pytest.approx(without.best, rel=1e-6)
    assert (spread.guidance, spread.why) == (without.guidance, without.why)
    errors = [[row.metrics["cosine"].error for row in one.rows] for one in (without, spread)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_settings_have_no_distance_without_real_images():
    tuned = found(Prompted(3.1, 0.1))
    assert {name for row in tuned.rows for name in row.metrics} == {"cosine"}
    measure, seeds = Prompted(3.1, 0.1), range(24)
    one = Measurement((2.0,), seeds, measure((2.0,), seeds), None)
    with pytest.raises(UsageError, match="unknown metric 'distance_debiased'"):
        together([one], "distance_debiased")


def test_a_bound_on_the_cosine_is_kept():
    rule = Constraint("cosine", 0.295, at_least=True)
    tuned = find_guidance(
        Prompted(3.1, 0.0), None, SCALE, budget=3000, objective=Goal("rows"), constraints=[rule]
    )  # fmt: skip
    (chosen,) = [row for row in tuned.rows if row.guidance == tuned.guidance]
    assert chosen.metrics["cosine"].value >= 0.295
