"""The classifiers: their stated accuracy, their repeatability, their cache."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairlead.core.errors import UsageError
from fairlead.data import tensor_cache
from fairlead.data.digits import load_digits
from fairlead.measure import judge as judge_module
from fairlead.measure.augment import shifted
from fairlead.measure.judge import cached_classifier, recipe_for, train_classifier
from fairlead.measure.sample_metrics import accuracy, hits


def test_stated_accuracy_on_held_out_digits(judge, extractor):
    test = load_digits("test")
    assert accuracy(judge.logits(test.images), test.labels).value >= 0.99
    assert accuracy(extractor.logits(test.images), test.labels).value >= 0.98


def test_judge_and_features_are_two_networks(judge, extractor):
    assert judge.recipe.seed != extractor.recipe.seed
    assert judge.recipe.width != extractor.recipe.width
    assert judge.weight_hash != extractor.weight_hash
    images = load_digits("test").images
    mistakes = [1 - hits(c.logits(images), load_digits("test").labels) for c in (judge, extractor)]
    assert not torch.equal(*mistakes)


def test_same_seed_same_weights_and_the_global_stream_is_left_alone():
    data = load_digits("train")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = train_classifier(data, seed=3, steps=5, width=8)
    assert torch.equal(torch.rand(1), expected)
    assert first.weight_hash == train_classifier(data, seed=3, steps=5, width=8).weight_hash
    assert first.weight_hash != train_classifier(data, seed=4, steps=5, width=8).weight_hash


def test_answers_do_not_depend_on_the_batch(judge):
    images = load_digits("test").images[:20]
    alone = torch.cat([judge.features(image[None]) for image in images])
    assert judge.features(images).shape == (20, 64)
    torch.testing.assert_close(judge.features(images), alone, rtol=1e-4, atol=1e-4)
    assert not judge.logits(images).requires_grad


def test_only_quantised_images_of_the_right_shape_are_read(judge):
    with pytest.raises(UsageError, match=r"expected uint8 images \[n, 1, 8, 8\], got torch.float32"):
        judge.logits(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UsageError, match=r"\[2, 3, 8, 8\]"):
        judge.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_shift_moves_whole_pixels_and_fills_with_black():
    x = torch.full((200, 1, 5, 5), -1.0)
    x[:, :, 2, 2] = 1.0
    moved = shifted(x, 1, torch.Generator().manual_seed(0))
    assert torch.equal(moved.flatten(1).sum(dim=1), x.flatten(1).sum(dim=1))  # the bright pixel never leaves
    reached = (moved[:, 0] == 1).any(dim=0)
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True
    assert torch.equal(reached, expected)


def test_second_call_reads_the_cache_and_gives_the_same_weights(tmp_path, monkeypatch):
    def _never(*_):
        raise AssertionError("trained again")

    quick = judge_module.ClassifierRecipe(seed=1, steps=2, width=4)
    monkeypatch.setattr(judge_module, "recipe_for", lambda data, role: quick)
    first = cached_classifier(load_digits("train"), "judge", tmp_path)
    monkeypatch.setattr(judge_module, "_train", _never)
    again = cached_classifier(load_digits("train"), "judge", tmp_path)
    assert again.weight_hash == first.weight_hash
    images = load_digits("test").images[:50]
    assert torch.equal(again.logits(images), first.logits(images))
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path))
    assert cached_classifier(load_digits("train"), "judge").weight_hash == first.weight_hash
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_cache_is_trained_anew(tmp_path, monkeypatch):
    quick = judge_module.ClassifierRecipe(seed=1, steps=2, width=4)
    monkeypatch.setattr(judge_module, "recipe_for", lambda data, role: quick)
    data = load_digits("train")
    fresh = cached_classifier(data, "features", tmp_path)
    [weights] = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert cached_classifier(data, "features", tmp_path).weight_hash == fresh.weight_hash
    whole = load_file(weights)
    save_file({**whole, "head.bias": whole["head.bias"] + 1}, weights, metadata={"of": "somebody else"})
    assert cached_classifier(data, "features", tmp_path).weight_hash == fresh.weight_hash
    assert torch.equal(load_file(weights)["head.bias"], whole["head.bias"])


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch):
    quick = judge_module.ClassifierRecipe(seed=1, steps=2, width=4)
    monkeypatch.setattr(judge_module, "recipe_for", lambda data, role: quick)
    data = load_digits("train")
    stored = cached_classifier(data, "judge", tmp_path)
    (tmp_path / "file").write_text("in the way of a folder")
    assert cached_classifier(data, "judge", tmp_path / "file").weight_hash == stored.weight_hash
    assert (tmp_path / "file").read_text() == "in the way of a folder"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_cache, "save_file", full)
    assert cached_classifier(data, "judge", tmp_path / "full").weight_hash == stored.weight_hash
    assert not list((tmp_path / "full").iterdir())

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FAIRLEAD_CACHE", raising=False)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert cached_classifier(data, "judge").weight_hash == stored.weight_hash


def test_progress_is_told_of_every_step_and_only_when_training(tmp_path, monkeypatch):
    monkeypatch.setattr(
        judge_module, "recipe_for", lambda data, role: judge_module.ClassifierRecipe(seed=1, steps=3, width=4)
    )
    steps: list[int] = []
    for _ in range(2):
        cached_classifier(load_digits("train"), "judge", tmp_path, lambda step, loss: steps.append(step))
    assert steps == [0, 1, 2]


def test_other_data_or_another_recipe_is_another_file(tmp_path, monkeypatch):
    data = load_digits("train")
    for steps in (1, 2):
        monkeypatch.setattr(
            judge_module, "recipe_for", lambda _, role, s=steps: judge_module.ClassifierRecipe(seed=1, steps=s, width=4)
        )
        cached_classifier(data, "judge", tmp_path)
        cached_classifier(data.subset(slice(0, 500)), "judge", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_unknown_role_lists_the_known():
    with pytest.raises(UsageError, match="judge, features"):
        recipe_for(load_digits("train"), "jugde")  # type: ignore[arg-type]
