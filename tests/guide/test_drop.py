"""Guidance by each of several conditions: hand-computed on a denoiser that adds up its conditions."""

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VPCosine
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse

SCHEDULE = VPCosine()
T = torch.tensor(0.5, dtype=torch.float64)


def denoised(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
    """x0 = 10 text + label + 100 text label, each 0 where it is dropped: not additive, so the crossed term shows."""
    tally(len(x_t))
    text, label = (condition.values[name] * condition.keep[name] for name in ("text", "label"))
    x0 = (10 * text + label + 100 * text * label)[:, None].expand_as(x_t)
    alpha, sigma = SCHEDULE.alpha_sigma(T)
    return Prediction.from_x0(x0, x_t, alpha, sigma)


def condition() -> Condition:
    values = {"text": torch.tensor([1.0, 2.0, 3.0]), "label": torch.tensor([1.0, 1.0, 2.0])}
    keep = {"text": torch.tensor([True, True, False]), "label": torch.tensor([True, True, True])}
    return Condition(3, {name: value.double() for name, value in values.items()}, keep)


def guided(expression: str, run: Condition) -> tuple[list[float], int]:
    denoiser = GuidedDenoiser(denoised, parse(expression), SCHEDULE, run)
    with counting() as cost:
        x0 = denoiser(torch.zeros(3, 2, dtype=torch.float64), T, run).x0
    return x0[:, 0].tolist(), cost.rows


def test_each_condition_has_its_own_scale():
    """D + 3 (D - D_without_text) + (D - D_without_label); the third sample has no text, so dropping it adds nothing."""
    found, rows = guided('cfg(4, drop="text") + cfg(2, drop="label")', condition())
    whole, no_text, no_label = (111.0, 221.0, 2.0), (1.0, 1.0, 2.0), (10.0, 20.0, 0.0)
    by_hand = [d + 3 * (d - a) + (d - b) for d, a, b in zip(whole, no_text, no_label, strict=True)]
    assert found == pytest.approx(by_hand, abs=1e-9)
    assert rows == 9


def test_dropping_all_names_is_plain_cfg_and_shares_its_rows():
    plain, rows = guided("cfg(4)", condition())
    assert guided('cfg(4, drop=["text", "label"])', condition()) == (plain, rows)
    both, together = guided('cfg(2) + cfg(3, drop=["label", "text"])', condition())
    assert both == pytest.approx(plain, abs=1e-9)
    assert (rows, together) == (6, 6)


def test_a_condition_that_no_sample_has_costs_nothing_to_drop():
    run = condition().drop(names=["text"])
    found, rows = guided('cfg(4, drop="text")', run)
    assert (found, rows) == ([1.0, 1.0, 2.0], 3)
    assert guided('cfg(4, drop="label")', run)[0] == pytest.approx([4.0, 4.0, 8.0], abs=1e-9)


@pytest.mark.parametrize(
    "text", ['cfg(4, drop="text")', 'cfg(4, drop=["ink", "text"])', 'cfg(2, drop="label").during(t=(0, 0.5))']
)
def test_it_prints_as_it_reads(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('cfg(4, drop="ink")', r'cfg\(4, drop="ink"\): drops \'ink\', the model has label, text; drop one of those'),
        ("cfg(4, drop=3)", "expected drop to be a condition's name or a list of different ones, got 3"),
        ("cfg(4, drop=[])", r"got \(\)|got \[\]"),
        ('cfg(4, drop=["text", "text"])', "list of different ones"),
        ('cfg(4, negative="one", drop="text")', "either a negative or drop, not both; give one of the two"),
    ],
)
def test_what_cannot_be_dropped_is_refused(expression, message):
    with pytest.raises(UsageError, match=message):
        guided(expression, condition())
