"""The best scale of each class: closed forms, and how often classes that are alike are distinguished, or are not."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats

from fairlead.core.errors import UsageError
from fairlead.report.search_page import class_lines, summary
from fairlead.tune.by_class import Classes, _of_class, errors_for, scales_by_class
from fairlead.tune.class_scales import ByClass
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import Batch, Goal, Measurement
from fairlead.tune.recommend import Tuned
from fairlead.tune.search import find_guidance
from fairlead.tune.template import Template

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
NAMES = ("ant", "bee", "cat")


@dataclass
class Spreads:
    """Images of class c lie about 4 on axis c: in the data with the standard deviation 1 on every axis, under guidance
    with scale / best[c]. A share miss (scale - best[c])^2 of them is not recognised."""

    best: tuple[float, ...]
    seed: int = 0
    miss: float = 0.0

    def measured(self, n: int, scales: tuple[float, ...] = SCALES) -> list[Measurement]:
        k = len(self.best)
        generator = torch.Generator().manual_seed(self.seed)
        noise, luck = torch.randn(n, k, generator=generator).double(), torch.rand(n, generator=generator)
        labels = torch.arange(n) % k
        best = torch.tensor(self.best, dtype=torch.float64)[labels]
        found = []
        for scale in scales:
            features = 4 * torch.eye(k, dtype=torch.float64)[labels] + noise * (scale / best)[:, None]
            hits = (luck < 1 - self.miss * (scale - best) ** 2).double()
            batch = Batch(features, {"accuracy": hits}, 2.0 * n, labels)
            found.append(Measurement((scale,), range(n), batch, None))
        return found

    @property
    def classes(self) -> Classes:
        """1,000 of each class, whose mean and unbiased covariance are exactly those of the data."""
        k = len(self.best)
        noise = torch.randn(1000, k, generator=torch.Generator().manual_seed(99)).double()
        noise = noise - noise.mean(0)
        white = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / 999)).T
        features = torch.cat([white + 4 * row for row in torch.eye(k, dtype=torch.float64)])
        return Classes(NAMES[:k], features, torch.arange(k).repeat_interleave(1000))


def found(toy: Spreads, n: int) -> ByClass:
    points = toy.measured(n)
    return scales_by_class(points, points[2], toy.classes, Goal())


def test_each_class_finds_its_own_scale() -> None:
    """cat is too narrow at 1.5 and right at 3; ant and bee are right at 1.5."""
    by_class = found(Spreads((1.5, 1.5, 3.0)), 3000)
    assert [one.scale for one in by_class.classes] == [1.5, 1.5, 3.0]
    assert [one.common for one in by_class.classes] == [True, True, False]
    assert by_class.apart
    bee, cat = by_class.classes[1:]
    assert (bee.low, bee.high) == (1.5, 1.5)
    assert (cat.low, cat.high) == (3.0, 3.0)
    assert bee.gain.value == 0
    assert by_class.comparisons == 3 * 4
    assert by_class.text.startswith("By class: no scale can be the best of every class (95% for all at once: 3 classes")
    assert by_class.text.endswith("Better elsewhere than at 1.5: cat at 3 (3 to 3).")


def test_the_gain_is_that_of_the_closed_form() -> None:
    """cat at 1.5 has half of the standard deviation on each of 3 axes: a distance of 3 (1 - 1/2)^2, which 3 takes."""
    cat = found(Spreads((1.5, 1.5, 3.0)), 3000).classes[2]
    assert abs(cat.gain.value + 0.75) < 4 * cat.gain.error
    assert cat.gain.error < 0.05


def test_a_class_of_few_images_is_measured_where_its_real_images_vary_most() -> None:
    """9 images: 2 of 3 directions. Those of the data with the standard deviations 3, 2 and 1 are the first two axes."""
    toy = Spreads((1.5, 1.5, 1.5))
    features = toy.classes.features
    assert features is not None
    wide = features[2000:] * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    own = _of_class(toy.measured(27), 2, wide)
    assert own[0].batch.features.shape == (9, 2)
    reference = own[0].reference
    assert reference is not None
    covariance = reference.scatter / (reference.n - 1)
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64)))
    assert own[0].estimate("accuracy").n == 9


def test_few_images_tell_nothing_apart_and_say_so_in_one_line() -> None:
    by_class = found(Spreads((1.5, 1.5, 1.6)), 60)
    assert not by_class.apart
    assert 1.5 in by_class.alike
    assert by_class.text.startswith("By class: the classes are not distinguished, 1")
    assert "3 classes of 20 images, 5 scales, 12 paired comparisons, Bonferroni" in by_class.text
    assert "\n" not in by_class.text


def test_classes_that_are_alike_are_told_apart_in_at_most_five_of_a_hundred() -> None:
    """All have their best at 1.5: an image's value is -(scale - 1.5 + noise)^2, of mean -(scale - 1.5)^2 - 1."""
    draws = []
    for seed in range(100):
        points = Spreads((1.5, 1.5, 1.5), seed).measured(120)
        generator = torch.Generator().manual_seed(1000 + seed)
        noise = torch.randn(120, generator=generator).double()
        valued = [
            Measurement(
                one.setting,
                one.seeds,
                Batch(one.batch.features, {"height": -((one.setting[0] - 1.5 + noise) ** 2)}, 0.0, one.batch.labels),
                None,
            )
            for one in points
        ]
        draws.append(scales_by_class(valued, valued[2], Classes(NAMES), Goal("height", maximise=True)))
    assert sum(one.apart for one in draws) <= 5
    assert sum(all(one.low <= 1.5 <= one.high for one in draw.classes) for draw in draws) >= 90  # 95 and two errors


def test_the_number_of_errors_is_students() -> None:
    for comparisons, degrees in ((1, 30), (20, 30), (60, 100), (60, 10_000)):
        exact = float(stats.t.ppf(1 - 0.05 / comparisons, degrees))
        assert errors_for(0.95, comparisons, degrees) == pytest.approx(exact, rel=1e-3)
    assert errors_for(0.95, 20, 7) == pytest.approx(float(stats.t.ppf(1 - 0.05 / 20, 7)), rel=0.02)


def test_with_a_share_of_hits_only_its_own_images_count() -> None:
    """Accuracy 1 - (scale - best)^2 / 10."""
    toy = Spreads((1.0, 2.0, 3.0), miss=0.1)
    points = toy.measured(6000)
    by_class = scales_by_class(points, points[3], Classes(NAMES), Goal("accuracy", maximise=True))
    assert [one.scale for one in by_class.classes] == [1.0, 2.0, 3.0]
    for one, best in zip(by_class.classes, toy.best, strict=True):
        assert abs(one.gain.value - 0.1 * (2 - best) ** 2) <= 4 * one.gain.error + 1e-12
    assert by_class.metric == "accuracy"


def test_a_constraint_takes_the_scales_at_which_a_class_surely_breaks_it() -> None:
    """At 3, where cat is right, half of it is not recognised. Of few images nothing is claimed."""
    toy = Spreads((1.5, 1.5, 3.0))
    rule = [Constraint.parse("accuracy >= 0.9")]

    def bound(n: int) -> ByClass:
        points = toy.measured(n)
        for one in points:
            values, labels = one.batch.values["accuracy"], one.batch.labels
            assert labels is not None
            values[(labels == 2) & (torch.arange(n) % 2 == 0) & (one.setting[0] > 2)] = 0.0
        return scales_by_class(points, points[2], toy.classes, Goal(), rule)

    many, few = bound(3000).classes[2], bound(60)
    assert (many.scale, many.low, many.high) == (2.0, 2.0, 2.0)
    assert not few.apart
    assert found(toy, 3000).classes[2].scale == 3.0


def test_it_survives_json_and_what_cannot_be_said_is_refused() -> None:
    by_class = found(Spreads((1.5, 1.5, 3.0)), 900)
    stored = json.loads(json.dumps(by_class.as_dict()))
    assert ByClass.from_dict(stored) == by_class
    assert stored["told_apart"] == by_class.apart
    assert stored["text"] == by_class.text
    points = Spreads((1.0, 2.0, 3.0)).measured(15)
    with pytest.raises(UsageError, match="0 of 3 classes have 8 images or more a setting"):
        scales_by_class(points, points[0], Classes(NAMES), Goal())
    with pytest.raises(UsageError, match="expected at least two scales"):
        scales_by_class(points[:1], points[0], Classes(NAMES), Goal())
    toy = Spreads((1.0, 2.0, 3.0))
    rare = toy.measured(90)
    for one in rare:
        assert one.batch.labels is not None
        one.batch.labels[torch.arange(90) % 3 == 2] = torch.where(torch.arange(30) < 5, 2, 0)
    left = scales_by_class(rare, rare[0], toy.classes, Goal())
    assert left.left_out == ("cat",)
    assert "Left out, with fewer than 8 images: cat." in left.text


def test_settings_of_different_numbers_of_images_compare_on_the_seeds_of_both() -> None:
    """As a search leaves them: fewer images where nothing is to be found."""
    toy = Spreads((1.5, 1.5, 3.0))
    many = toy.measured(3000)
    points = [one.first(600) if one.setting[0] in (1.0, 2.0) else one for one in many]
    uneven, even = (scales_by_class(own, own[2], toy.classes, Goal()) for own in (points, many))
    assert uneven.classes[2].scale == even.classes[2].scale == 3.0
    assert uneven.classes[2].gain == even.classes[2].gain


def test_a_search_says_it_of_what_it_has_measured_and_the_answer_keeps_it() -> None:
    """The loss of an image is log(scale / best)^2 beside noise that all scales share."""

    def measure(setting: tuple[float, ...], seeds: range) -> Batch:
        labels = torch.arange(seeds.start, seeds.stop) % 2
        best = torch.tensor([1.5, 3.0], dtype=torch.float64)[labels]
        noise = torch.randn(1 << 12, generator=torch.Generator().manual_seed(3)).double()[seeds.start : seeds.stop]
        loss = (setting[0] / best).log() ** 2 + noise * (1 + 0.1 * math.log(setting[0]))
        return Batch(noise[:, None], {"loss": loss, "accuracy": torch.ones_like(loss)}, len(seeds), labels)

    template, loss = Template.of("cfg({scale})", []), Goal("loss")
    tuned = find_guidance(measure, None, template, budget=3000, objective=loss, classes=Classes(("ant", "bee")))
    assert tuned.by_class is not None
    assert tuned.by_class.apart
    ant, bee = tuned.by_class.classes
    assert ant.low <= 1.5 * 1.2
    assert 1.5 / 1.2 <= ant.high < bee.low <= 3.0 * 1.2
    assert Tuned.from_dict(json.loads(json.dumps(tuned.as_dict()))).by_class == tuned.by_class
    said = summary(tuned, template, "loss")
    assert tuned.by_class.text in said
    assert class_lines(tuned.by_class)[1].split()[0] == "ant"
    plain = find_guidance(measure, None, template, budget=3000, objective=loss)
    assert plain.by_class is None
    assert "by_class" not in plain.as_dict()
    assert plain.guidance == tuned.guidance
