"""What a search sees: joined batches, covariances of common seeds, constraints with their intervals."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments, frechet_jackknife, paired_difference
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import DISTANCE, ROWS, Batch, Goal, Measurement, Together, together, z_of
from tests.tune.exact import REFERENCE, Linear, Toy


def measured(scale, n, toy=None, start=0):
    seeds = range(start, start + n)
    return Measurement((scale,), seeds, (toy or Linear(0.3))((scale,), seeds), REFERENCE)


def hits(share, n, name="accuracy"):
    """n samples of which the first share * n are hits."""
    values = (torch.arange(n) < round(share * n)).double()
    return Measurement((1.0,), range(n), Batch(torch.zeros(n, 1), {name: values}, float(n)), REFERENCE)


def test_joined_batches_are_what_one_batch_would_be():
    toy = Linear(0.3)
    whole, joined = measured(1.4, 300, toy), measured(1.4, 100, toy).more(toy, 300)
    assert joined.seeds == range(300)
    assert joined.rows == whole.rows == 16
    # the same samples; one product of 300 rows, another of 100 and 200
    torch.testing.assert_close(joined.batch.features, whole.batch.features, rtol=1e-12, atol=1e-12)
    assert joined.estimate(DISTANCE).value == pytest.approx(whole.estimate(DISTANCE).value, rel=1e-9)
    assert torch.equal(joined.first(100).batch.features, measured(1.4, 100, toy).batch.features)
    assert joined.more(toy, 200) is joined


def test_only_the_seeds_that_follow_can_be_joined():
    with pytest.raises(UsageError, match="expected one setting and the seeds that follow"):
        measured(1.4, 100) + measured(1.4, 100, start=150)
    with pytest.raises(UsageError, match=r"100 seeds were asked for, got \{'features': 99\}"):
        Measurement((1.0,), range(100), Batch(torch.zeros(99, 2)), REFERENCE)


@pytest.mark.parametrize("labelled", [True, False])
def test_differences_of_the_distance_are_those_of_the_pair(labelled):
    points = [measured(scale, 400) for scale in (1.2, 1.4, 1.5)]
    if not labelled:
        points = [Measurement(p.setting, p.seeds, Batch(p.batch.features), REFERENCE) for p in points]
    found = together(points, DISTANCE)
    for i in range(3):
        for j in range(i):
            a, b = points[i].batch, points[j].batch
            pair = paired_difference(real=REFERENCE, a=a.features, b=b.features, labels=a.labels)
            difference = found.difference(i, j)
            assert difference.value == pytest.approx(pair.value, abs=1e-12)
            assert difference.error == pytest.approx(pair.error, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1000])
def test_the_interval_of_a_paired_difference_holds_the_truth_on_the_exact_mixture(n):
    pairs, draws = ((1.6, 1.5), (1.0, 1.5), (2.0, 1.5), (3.0, 1.5)), 1000
    truth = {scale: Toy(0.3).distance(scale) for scale in (1.0, 1.5, 1.6, 2.0, 3.0)}
    held = dict.fromkeys(pairs, 0)
    for draw in range(draws):
        toy = Toy(0.3, draw)
        drawn = {scale: toy((scale,), range(n)) for scale in truth}
        for a, b in pairs:
            x, y, labels = drawn[a].features, drawn[b].features, drawn[a].labels
            found = paired_difference(real=REFERENCE, a=x, b=y, labels=labels)
            held[a, b] += abs(found.value - truth[a] + truth[b]) <= z_of(0.95) * found.error
    assert {pair: 0.93 <= hits / draws <= 0.97 for pair, hits in held.items()} == dict.fromkeys(pairs, True), held


def test_settings_of_different_numbers_of_seeds_compare_on_the_common_ones():
    toy = Linear(0.3)
    few, many = measured(1.2, 200, toy), measured(1.5, 900, toy)
    difference = together([few, many], DISTANCE).difference(0, 1)
    expected = together([few, many.first(200)], DISTANCE).difference(0, 1)
    assert (difference.value, difference.error, difference.n) == (expected.value, expected.error, 200)
    with pytest.raises(UsageError, match="not measured on the same seeds"):
        together([few, measured(1.5, 200, start=200)], DISTANCE)


def test_where_the_distance_is_nothing_but_bias_the_error_is_that_of_the_jackknife():
    n = 200
    found: list[Together] = []
    real = Moments(1001, torch.zeros(2, dtype=torch.float64), 1000 * torch.eye(2, dtype=torch.float64))
    while len(found) < 40:
        z = torch.randn(n, 2, dtype=torch.float64)
        a, b = (Measurement((s,), range(n), Batch(s * z), real) for s in (1.0, 1.05))
        if a._near_zero or b._near_zero:
            found.append(together([a, b], DISTANCE))
    error = sum(each.difference(0, 1).error for each in found) / len(found)
    assert error == pytest.approx(float(torch.tensor([each.difference(0, 1).value for each in found]).std()), rel=0.35)
    alone = frechet_jackknife(real=real, fake_features=a.batch.features, blocks=60).error
    assert found[-1].estimate(0).error == pytest.approx(alone, rel=1e-9)


def test_means_of_other_metrics_with_labels_have_the_variance_within_labels():
    labels = torch.arange(100) % 2
    values = labels.double()  # all variance is between the labels
    one = Measurement((1.0,), range(100), Batch(torch.zeros(100, 1), {"m": values}, 0.0, labels), REFERENCE)
    assert one.estimate("m").value == 0.5
    assert one.estimate("m").error == 0.0
    blind = Measurement((1.0,), range(100), Batch(torch.zeros(100, 1), {"m": values}), REFERENCE)
    assert blind.estimate("m").error == pytest.approx(float(values.std()) / 10, rel=1e-12)


def shares(values, labels=None):
    """One setting whose samples hit, miss, or (nan) are not asked."""
    values = torch.tensor(values, dtype=torch.float64)
    return Measurement(
        (1.0,), range(len(values)), Batch(torch.zeros(len(values), 1), {"ink": values}, 1, labels), REFERENCE
    )


def test_a_metric_counts_only_the_samples_that_are_asked():
    """As if the others had not been there: mean, error, paired difference, exact interval, n."""
    nan, labels = torch.nan, torch.tensor([0, 0, 0, 1, 1, 1])
    a, b = shares([1, nan, 0, 1, nan, 1], labels), shares([0, nan, 0, 1, nan, 1], labels)
    few, other = shares([1, 0, 1, 1]), shares([0, 0, 1, 1])
    assert a.estimate("ink") == few.estimate("ink")
    assert a.of_hits("ink")
    assert a.interval("ink", 1.96) == few.interval("ink", 1.96)
    found = together([a, b], "ink").difference(0, 1)
    assert found == together([few, other], "ink").difference(0, 1)
    assert (found.value, found.n) == (0.25, 4)
    rule = Constraint("ink", 0.5, True)
    assert rule.spread(a) == pytest.approx(0.25 * 6 / 4)  # 6 images for 4 that count
    nobody = shares([nan, nan, nan, 1]).estimate("ink")
    assert (nobody.n, nobody.value == nobody.value) == (0, False)


def test_labels_of_one_sample_share_a_stratum():
    values = [0.0, 1, 5, 9, 2, 4]
    pooled = together([shares(values, torch.tensor([0, 0, 1, 2, 3, 3]))], "ink")
    by_hand = together([shares(values, torch.tensor([0, 0, 1, 1, 3, 3]))], "ink")
    assert pooled.estimate(0) == by_hand.estimate(0)
    lone = together([shares(values, torch.tensor([0, 0, 0, 2, 3, 3]))], "ink")
    joined = together([shares(values, torch.tensor([0, 0, 0, 3, 3, 3]))], "ink")
    assert lone.estimate(0) == joined.estimate(0)


def test_rows_are_exact_and_a_maximised_metric_is_a_loss():
    one = hits(0.8, 10)
    assert (one.estimate(ROWS).value, one.estimate(ROWS).error) == (1.0, 0.0)
    assert float(Goal("accuracy", maximise=True).of([one]).values) == -0.8
    with pytest.raises(UsageError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        one.estimate("acuracy")


def test_the_interval_of_a_share_is_the_exact_one_of_the_binomial():
    low, high = hits(1.0, 100).interval("accuracy", z_of(0.95))
    assert low == pytest.approx(0.025**0.01, abs=1e-8)  # p^100 = 0.025
    assert high == 1
    assert hits(0.0, 100).interval("accuracy", z_of(0.95)) == pytest.approx((0, 1 - low), abs=1e-8)
    import scipy.stats as stats

    low, high = hits(0.97, 200).interval("accuracy", z_of(0.9))
    assert (low, high) == pytest.approx((stats.beta.ppf(0.05, 194, 7), stats.beta.ppf(0.95, 195, 6)), abs=1e-8)


@pytest.mark.parametrize(
    ("share", "n", "feasible", "surely", "hopeless"),
    [
        (1.0, 100, True, False, False),  # 100 of 100 may still be 97 %
        (1.0, 1000, True, True, False),
        (0.985, 1000, False, False, False),
        (0.9, 1000, False, False, True),
    ],
)
def test_a_constraint_knows_what_is_sure(share, n, feasible, surely, hopeless):
    rule, one, z = Constraint.parse("accuracy >= 0.99"), hits(share, n), z_of(0.95)
    assert (rule.feasible(one), rule.surely(one, z), rule.hopeless(one, z)) == (feasible, surely, hopeless)


def test_constraints_print_and_parse_back():
    for text in ("accuracy >= 0.99", "rows <= 30"):
        assert str(Constraint.parse(text)) == text
    assert Constraint.parse("rows<=1.5").violation(hits(1, 10)) == -0.5
    with pytest.raises(UsageError, match="expected METRIC >= NUMBER"):
        Constraint.parse("accuracy > 0.99")
    with pytest.raises(UsageError, match="between 0 and 1"):
        z_of(95)
    assert z_of(0.95) == pytest.approx(1.959964, abs=1e-6)
