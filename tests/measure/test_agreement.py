"""The judge of scenes and its score. What a trained judge reaches on held-out images is in the slow test."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import Attribute, ImageData
from fairlead.data.scenes.captions import VALUES
from fairlead.data.scenes.scene_set import held_out_prompts, load_scenes
from fairlead.measure import judge as judge_module
from fairlead.measure.agreement import ALL, AttributeEvaluator, agreement, hits_of
from fairlead.measure.attributes import (
    CROP,
    RECIPE,
    JudgeRecipe,
    cached_attribute_judge,
    digit_crops,
    train_attribute_judge,
)
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.metrics import proportion_estimate

QUICK = JudgeRecipe(
    whole=ClassifierRecipe(seed=1, steps=20, width=8, features=32, batch=32, shift=0),
    digits=ClassifierRecipe(seed=2, steps=10, width=8, features=32, batch=32, shift=1),
)


@pytest.fixture(scope="module")
def train() -> ImageData:
    return load_scenes(n=400)


@pytest.fixture(scope="module")
def test() -> ImageData:
    return load_scenes("test", n=1000)


@pytest.fixture(scope="module")
def quick(train):
    return train_attribute_judge(train, QUICK)


def labels_of(data: ImageData) -> dict[str, torch.Tensor]:
    return {name: attribute.labels for name, attribute in data.attributes.items()}


def test_the_truth_agrees_with_itself_wherever_it_applies(test):
    shares = agreement(labels_of(test), test.attributes)
    assert list(shares) == [*VALUES, ALL]
    assert {share.value for share in shares.values()} == {1.0}
    two = int((test.attributes["count"].labels == 1).sum())
    assert (shares["second ink"].n, shares["digit"].n, shares[ALL].n) == (two, 200, 200)


def test_agreement_counts_by_hand():
    def of(*labels: int) -> torch.Tensor:
        return torch.tensor(labels)

    asked = {
        "size": Attribute(("small", "large"), of(0, 1, -1, 0, -1)),
        "count": Attribute(("one", "two"), of(0, 0, 1, -1, -1)),
        "slant": Attribute(VALUES["slant"], of(-1, -1, -1, -1, -1)),
    }
    seen = {"size": of(0, 0, 1, 0, 1), "count": of(0, 0, 1, 1, 0), "slant": of(0, 0, 0, 0, 0)}
    shares = agreement(seen, asked)
    assert shares == {
        "size": proportion_estimate(of(1, 0, 1)),
        "count": proportion_estimate(of(1, 1, 1)),
        ALL: proportion_estimate(of(1, 0, 1, 1)),
    }


def test_hits_are_nan_where_nothing_is_asked():
    asked = {
        "size": Attribute(("small", "large"), torch.tensor([0, 1, -1, -1])),
        "count": Attribute(("one", "two"), torch.tensor([0, -1, 1, -1])),
    }
    hits = hits_of({"size": torch.tensor([0, 0, 0, 0]), "count": torch.tensor([1, 1, 1, 1])}, asked)
    nan = torch.nan
    expected = {"size": [1.0, 0, nan, nan], "count": [0.0, nan, 1, nan], ALL: [0.0, 0, 1, nan]}
    for name, values in expected.items():
        torch.testing.assert_close(hits[name], torch.tensor(values, dtype=torch.float64), equal_nan=True)
    assert hits_of({}, {}) == {}


def test_permuting_the_images_permutes_what_is_seen(quick, test):
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    seen, permuted = quick.logits(test.images), quick.logits(test.images[order])
    assert list(seen) == list(VALUES)
    for name, logits in seen.items():
        assert logits.shape == (len(test), len(VALUES[name]))
        torch.testing.assert_close(permuted[name], logits[order], rtol=1e-4, atol=1e-4)
    assert torch.equal(quick.judge(test.images)["ink"], seen["ink"].argmax(dim=1))


def test_cut_out_digits_do_not_know_colour_place_and_size(test):
    images = test.images[test.attributes["count"].labels == 0]
    no = torch.zeros(len(images), dtype=torch.bool)
    crop = digit_crops(images, no)[0]
    assert crop.shape == (len(images), 1, CROP, CROP)
    assert torch.equal(digit_crops(255 - images, no)[0], crop)
    assert torch.equal(digit_crops(images[:, [2, 0, 1]], no)[0], crop)
    moved = torch.cat([images[:, :, :, :1], images[:, :, :, :1], images[:, :, :, :-2]], dim=3)
    free = (images[:, :, :, -3:] == images[:, :, :1, -1:]).all(dim=3).all(dim=2).all(dim=1)
    assert int(free.sum()) > 50
    close = digit_crops(moved, no)[0][free].int() - crop[free].int()
    assert int(close.abs().max()) <= 2
    large = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert float((digit_crops(large, no)[0].float() - crop.float()).abs().mean()) < 12


def test_of_two_digits_the_left_or_upper_is_the_first():
    images = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    images[0, 0, 8:20, 4:8] = 255  # a red bar on the left, a green square on the right
    images[0, 1, 10:18, 17:25] = 90
    images[1] = images[0].transpose(1, 2)
    first, second = digit_crops(images, torch.tensor([True, True]))
    assert bool((second[:, 0, 2:12, 2:12] > 250).all())
    assert int((first[0, 0] > 250).any(dim=0).sum()) <= 5  # narrow
    assert int((first[1, 0] > 250).any(dim=1).sum()) <= 5  # flat
    assert torch.equal(first[1, 0], first[0, 0].T)


def test_same_seed_same_judge_and_the_global_stream_is_left_alone(train, quick):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    few = replace(QUICK, whole=replace(QUICK.whole, steps=2), digits=replace(QUICK.digits, steps=2))
    first = train_attribute_judge(train, few)
    assert torch.equal(torch.rand(1), expected)
    assert first.name == train_attribute_judge(train, few).name
    assert first.name != quick.name


def test_a_stored_judge_is_read_and_sees_the_same(train, test, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("fairlead.measure.attributes"), "RECIPE", QUICK)
    first = cached_attribute_judge(train, tmp_path)
    monkeypatch.setattr(judge_module, "fit", lambda *_: pytest.fail("trained again"))
    again = cached_attribute_judge(train, tmp_path)
    assert again.name == first.name
    seen, expected = (judge.judge(test.images) for judge in (again, first))
    assert seen.keys() == expected.keys()
    for name, labels in expected.items():
        assert torch.equal(seen[name], labels)


def test_a_score_has_real_images_beside_it_and_a_protocol(quick, train, test):
    evaluator = AttributeEvaluator(quick, test)
    score = evaluator.score(test.images, test.attributes)
    assert score.agreement == score.real
    assert score.protocol.real == f"scenes(n=1000)/test#{test.fingerprint}"
    assert score.protocol.judge == quick.name
    fewer = held_out_prompts(200, full=False).attributes
    other = evaluator.score(test.images, fewer)
    assert set(score.protocol.differences(other.protocol)) == {"asked"}
    assert other.agreement["ink"].n == int((fewer["ink"].labels >= 0).sum())
    assert score.as_dict()["protocol"]["hash"] == score.protocol.hash != other.protocol.hash
    assert len(str(score).splitlines()) == 1 + len(VALUES) + 1


def test_what_does_not_fit_is_refused(quick, train, test):
    with pytest.raises(UsageError, match="was trained on these images"):
        AttributeEvaluator(quick, train)
    with pytest.raises(UsageError, match="data 'digits' has none, expected those of scenes"):
        train_attribute_judge(load_digits())
    with pytest.raises(UsageError, match="expected shift 0 for whole images, got 1"):
        JudgeRecipe(RECIPE.digits, RECIPE.digits)
    evaluator = AttributeEvaluator(quick, test)
    labels = torch.zeros(200, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"expected uint8 images \[n, 3, 28, 28\], got torch.uint8 \[200, 3, 32, 32\]"):
        evaluator.score(torch.zeros(200, 3, 32, 32, dtype=torch.uint8), test.attributes)
    with pytest.raises(UsageError, match="unknown attribute 'inc'; did you mean 'ink'"):
        evaluator.score(test.images, {"inc": Attribute(VALUES["ink"], labels)})
    with pytest.raises(UsageError, match="attribute 'size': values are big, small; the judge's are small, large"):
        evaluator.score(test.images, {"size": Attribute(("big", "small"), labels)})
    with pytest.raises(UsageError, match=r"attribute 'size': expected labels int64 \[200\], one per image, got \[3\]"):
        evaluator.score(test.images, {"size": Attribute(VALUES["size"], labels[:3])})
    with pytest.raises(UsageError, match="no attribute was asked for"):
        evaluator.score(test.images, {"size": Attribute(VALUES["size"], labels - 1)})


@pytest.mark.slow
def test_stated_agreement_of_held_out_scenes(tmp_path):
    judge = cached_attribute_judge(load_scenes(), tmp_path)
    real = AttributeEvaluator(judge, load_scenes("test")).real
    assert real["digit"].value >= 0.98
    assert real["second digit"].value >= 0.97
    for name in ("ink", "background", "size", "position", "slant", "count", "second ink", "second position"):
        assert real[name].value >= 0.99, name
