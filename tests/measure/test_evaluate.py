"""Scores, their protocol, and the floor."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import to_float
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.frechet import Moments, frechet_distance, paired_difference
from fairlead.measure.sample_metrics import shares_at_limits
from fairlead.measure.score import METRICS, Samples, Score


@pytest.fixture(scope="module")
def evaluator(judge, extractor):
    return Evaluator(load_digits("train"), load_digits("test"), judge, extractor)


@pytest.fixture(scope="module")
def real():
    """120 real digits as if they had been generated, twelve of each."""
    data = load_digits("train")
    index = torch.cat([(data.labels == k).nonzero()[:12, 0] for k in range(10)])
    return data.images[index], data.labels[index]


def _noisy(images: torch.Tensor, level: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * level
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def test_a_score_has_every_metric_and_its_protocol(evaluator, real, judge, extractor):
    images, labels = real
    score = evaluator.score(images, labels, to_float(images), range(120))
    assert list(score.metrics) == [
        name for name in METRICS if name not in ("cosine", "reward")
    ]  # of prompts, and of a reward that is asked for
    assert all(estimate.n == 120 for estimate in score.metrics.values())
    protocol = score.protocol
    assert protocol.judge.endswith(judge.weight_hash)
    assert protocol.features.endswith(extractor.weight_hash)
    assert load_digits("train").fingerprint in protocol.reference
    assert protocol.labels.startswith("10 labels x 12 #")
    assert protocol.seeds == "0..119"
    features = extractor.features(images)
    by_hand = frechet_distance(
        real=Moments.of(extractor.features(load_digits("train").images)), fake=Moments.of(features)
    )
    assert score.metrics["distance"].value == pytest.approx(by_hand, rel=1e-12)
    share = ((images == 0) | (images == 255)).double().mean()
    assert score.metrics["saturation"].value == pytest.approx(float(share), abs=1e-12)


def test_shares_at_the_limits_stand_for_an_x0_that_is_gone(evaluator, real):
    images, labels = real
    x0 = 1.2 * to_float(images)
    whole = evaluator.score(images, labels, x0, range(120))
    stored = evaluator.score(images, labels, None, range(120), saturation=shares_at_limits(x0))
    assert stored.metrics == whole.metrics
    for given in ({"x0": x0, "saturation": shares_at_limits(x0)}, {"x0": None, "saturation": torch.zeros(7)}):
        with pytest.raises(UsageError, match="expected one share per image, instead of x0"):
            evaluator.score(images, labels, seeds=range(120), **given)


def test_samples_come_back_from_their_tensors_and_give_the_same_differences(evaluator, real):
    images, labels = real
    a, b = (evaluator.score(_noisy(images, level), labels, to_float(images), range(120)) for level in (70.0, 60.0))
    again = [
        replace(score, samples=Samples.from_tensors(evaluator.moments, {**score.samples.tensors(), "more": labels}))
        for score in (a, b)
    ]
    assert again[0].compare(again[1]) == a.compare(b)
    assert set(again[0].samples.values) == {"accuracy", "confidence", "saturation"}


def test_noise_moves_every_metric_the_right_way(evaluator, real):
    images, labels = real
    clean = evaluator.score(images, labels, None, range(120))
    noisy = evaluator.score(_noisy(images, 90.0), labels, None, range(120))
    change = noisy.compare(clean)
    assert "saturation" not in change
    assert change["distance_debiased"].value > 5 * change["distance_debiased"].error
    assert change["accuracy"].value < 0
    assert change["confidence"].value < -3 * change["confidence"].error


def test_wrong_labels_lower_adherence_and_nothing_else(evaluator, real):
    images, labels = real
    right = evaluator.score(images, labels, None, range(120)).metrics
    wrong = evaluator.score(images, (labels + 1) % 10, None, range(120)).metrics
    assert right["accuracy"].value > 0.95
    assert wrong["accuracy"].value < 0.05
    assert wrong["distance"] == right["distance"]


def test_scores_of_different_protocols_refuse_to_be_compared(evaluator, real):
    images, labels = real
    here = evaluator.score(images, labels, None, range(120))
    there = evaluator.score(images, labels, None, range(7, 127))
    with pytest.raises(UsageError, match=r"different protocols.*seeds: '0\.\.119' and '7\.\.126'"):
        here.compare(there)
    fewer = evaluator.score(images[::2], labels[::2], None, range(0, 120, 2))
    with pytest.raises(UsageError, match=r"n: 120 and 60; .*labels: .*; seeds: "):
        here.compare(fewer)
    assert here.protocol.hash != there.protocol.hash


def test_differences_are_paired_while_the_samples_are_known(evaluator, real, extractor):
    images, labels = real
    a = evaluator.score(_noisy(images, 70.0), labels, None, range(120))
    b = evaluator.score(_noisy(images, 60.0), labels, None, range(120))
    paired = a.compare(b)
    stored = [Score.from_dict(json.loads(json.dumps(score.as_dict()))) for score in (a, b)]
    unpaired = stored[0].compare(stored[1])
    for name in ("distance", "distance_debiased", "confidence"):
        assert paired[name].paired
        assert not unpaired[name].paired
        assert paired[name].value == pytest.approx(unpaired[name].value, abs=1e-12)
        assert 0 < paired[name].error < unpaired[name].error
    x, y = (extractor.features(_noisy(images, level)) for level in (70.0, 60.0))
    expected = paired_difference(real=evaluator.moments, a=x, b=y, labels=labels)
    assert paired["distance_debiased"].value == pytest.approx(expected.value, abs=1e-9)
    assert paired["distance_debiased"].error == expected.error


def test_too_few_samples_for_a_paired_distance_say_so(evaluator, real):
    images, labels = real
    some = torch.arange(0, 120, 3)  # 40 samples for 64 features
    a = evaluator.score(_noisy(images, 70.0)[some], labels[some], None, range(40))
    b = evaluator.score(_noisy(images, 60.0)[some], labels[some], None, range(40))
    change = a.compare(b)
    assert not change["distance"].paired
    assert change["confidence"].paired
    assert change["distance"].error == math.hypot(a.metrics["distance"].error, b.metrics["distance"].error)


def test_a_changed_protocol_does_not_load(evaluator, real):
    stored = evaluator.score(*real, None, range(120)).as_dict()
    assert Score.from_dict(stored).protocol.hash == stored["protocol"]["hash"]
    stored["protocol"]["n"] = 50_000
    with pytest.raises(UsageError, match="measure it again"):
        Score.from_dict(stored)


def test_the_floor_averages_disjoint_blocks_of_held_out_images(evaluator, judge):
    floor = evaluator.floor(100)
    test = load_digits("test")
    assert (floor.n, floor.blocks) == (100, 3)
    assert "3 disjoint blocks of 100" in floor.note
    assert floor.metrics["accuracy"].n == len(test)
    assert floor.metrics["accuracy"].value >= 0.99
    # the bias of small n is in the raw distance and not in the other
    small = evaluator.floor(50)
    assert small.metrics["distance"].value > 1.3 * floor.metrics["distance"].value
    assert floor.metrics["distance_debiased"].value < 0.5 * floor.metrics["distance"].value


def test_the_floor_says_when_there_are_too_few_images(evaluator):
    floor = evaluator.floor(1000)
    assert (floor.n, floor.blocks) == (359, 1)
    assert "only 359 held-out images" in floor.note
    assert floor.metrics["distance"].error > 0


def test_the_door_is_guarded(evaluator, real, judge, extractor):
    train, test = load_digits("train"), load_digits("test")
    with pytest.raises(UsageError, match="same network"):
        Evaluator(train, test, judge, judge)
    with pytest.raises(UsageError, match="pass two splits"):
        Evaluator(train, train, judge, extractor)
    images, labels = real
    with pytest.raises(UsageError, match="119 seeds"):
        evaluator.score(images, labels, None, range(119))
    with pytest.raises(UsageError, match="quantise to uint8"):
        evaluator.score(to_float(images), labels, None, range(120))
