"""Data with few images of some classes, through the commands: said or refused before anything is trained."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core.errors import Remark, UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.references import evaluator_for
from fairlead.models.load import load
from fairlead.tune.sweep_folder import SweepFolder


class Trained(Exception):
    pass


def few(split: str, sevens: int, others: int = 10_000) -> ImageData:
    """The digits with so few images of some classes."""
    data = load_digits(split)
    kept = [(data.labels == label).nonzero()[: sevens if label == 7 else others, 0] for label in range(10)]
    return data.subset(torch.cat(kept))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets what data is loaded; classifiers are quick."""

    def set_data(train: ImageData, test: ImageData, trains: bool = True) -> None:
        for module in ("fairlead.data.hub", "fairlead.measure.references"):
            monkeypatch.setattr(
                import_module(module), "load_data", lambda split="train", **_: train if split == "train" else test
            )
        quick = ClassifierRecipe(seed=4, steps=2, width=4, features=6)
        monkeypatch.setattr(
            import_module("fairlead.measure.judge"), "recipe_for", lambda data, role: replace(quick, seed=len(role))
        )
        monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
        if not trains:

            def never(*_: Any, **__: Any) -> None:
                raise Trained

            monkeypatch.setattr(import_module("fairlead.measure.judge"), "cached_classifier", never)

    return set_data


def test_a_rare_class_is_named_and_the_sweep_goes_on(
    given: Any, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(few("train", sevens=8), few("test", sevens=1))
    command = ["sweep", str(tiny_run), "--scales", "1", "2", "--n", "30", "--steps", "1", "--out", str(tmp_path / "s")]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "diversity leaves out seven (1): fewer than 3 held-out images of a class" in printed.err
    about, points = SweepFolder(tmp_path / "s").read()
    assert points[0].score.protocol.left_out.split(", ")[-1] != ""
    assert any("seven" in note for note in about["notes"])
    assert "Diversity leaves out seven (1)" in (tmp_path / "s" / "report.html").read_text()
    assert "Recommended: " in printed.out


def remarked(run: Path, n: int) -> str:
    """All that is remarked before anything is trained."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(Trained):
            evaluator_for(str(run), None, (), load(run), (n,))
    return "\n".join(str(each.message) for each in found if issubclass(each.category, Remark))


@pytest.mark.parametrize("n", [30, 40, 100])
def test_all_is_said_before_anything_is_trained(n: int, given: Any, tiny_run: Path) -> None:
    given(few("train", sevens=8), few("test", sevens=3), trains=False)
    said = remarked(tiny_run, n)
    assert "diversity leaves out" in said
    advised = int(said.split("n = ")[-1].split(" would do")[0].replace(",", ""))
    assert "diversity" not in remarked(tiny_run, advised)


def test_what_cannot_be_measured_at_all_is_refused_before_anything_is_trained(given: Any, tiny_run: Path) -> None:
    given(few("train", sevens=8), few("test", sevens=0), trains=False)
    with pytest.raises(UsageError, match="split 'test' has no images of 'seven'"):
        evaluator_for(str(tiny_run), None, [7], load(tiny_run), (30,))
    given(load_digits("train"), load_digits("test").subset(slice(0, 3)), trains=False)
    with pytest.raises(UsageError, match="has 3 held-out images to measure with, expected at least 4"):
        evaluator_for(str(tiny_run), None)
    given(load_digits("train"), load_digits("test").subset(slice(0, 4)), trains=False)
    with pytest.raises(Trained):
        evaluator_for(str(tiny_run), None)


def test_a_sweep_warns_of_few_images_for_the_features(given: Any, tiny_run: Path) -> None:
    given(load_digits("train"), load_digits("test"), trains=False)
    for n, said in ((23, True), (24, False)):  # of six features
        few_images = "few images for features of 6 dimensions: 23 where 24 are wanted"
        assert (few_images in remarked(tiny_run, n)) == said


def test_a_class_without_images_is_not_asked_for(
    given: Any, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(few("train", sevens=0), load_digits("test"))
    command = ["sweep", str(tiny_run), "--scales", "1", "2", "--n", "60", "--steps", "1", "--out", str(tmp_path / "s")]
    assert main(command) == 0
    assert "not asked for: seven; split 'train' has no images of it" in capsys.readouterr().err
    assert "seven" not in SweepFolder(tmp_path / "s").read()[0]["classes"]


def written(root: Path, split: str, counts: Sequence[int]) -> Path:
    data = load_digits(split)
    for label, count in enumerate(counts):
        for i in (data.labels == label).nonzero()[:count, 0].tolist():
            path = root / data.classes[label] / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[i, 0].numpy()).save(path)
    return root


def test_measure_leaves_rare_classes_out_of_the_judge_and_names_them(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(load_digits("train"), load_digits("test"))
    real, fake = written(tmp_path / "real", "train", (40, 30, 9)), written(tmp_path / "fake", "test", (12, 9, 1))
    numbers = tmp_path / "numbers.json"
    command = ["measure", str(real), str(fake), "--features", "random", "--metrics", "accuracy", "kid"]
    assert main([*command, "--json", str(numbers)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mind: the judge leaves out two (9): fewer than 10 real images" in printed
    assert "mind: one fake image of two: distance, kid and cmmd are taken as if" in printed
    found = json.loads(numbers.read_text())
    assert found["metrics"]["whole"]["accuracy"]["n"] == 21
    assert [(row["name"], row["fake"] is None) for row in found["classes"]] == [
        ("one", False), ("two", True), ("zero", False),
    ]  # fmt: skip


def test_measure_refuses_a_judge_of_one_class_before_features_are_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise Trained

    monkeypatch.setattr(import_module("fairlead.measure.compare"), "cached_features", never)
    real, fake = written(tmp_path / "real", "train", (40, 9, 9)), written(tmp_path / "fake", "test", (12, 9, 9))
    assert main(["measure", str(real), str(fake), "--features", "random", "--metrics", "accuracy"]) == 2
    line = capsys.readouterr().err
    assert "needs 2 classes with 10 real images of each, and 2 fakes of them; got 1 such classes of 3" in line
    assert "one (9), two (9), zero (40)" in line or "two (9), one (9), zero (40)" in line


def test_a_classifier_of_one_class_is_refused_before_it_is_trained(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_digits("train")
    zeros = data.subset(data.labels == 0)
    given(zeros, zeros)
    command = ["train-classifier", "--out", str(tmp_path / "c"), "--steps", "2", "--channels", "8"]
    assert main(command) == 2
    assert "a classifier needs images of 2 classes, got 1 with images of 10; add a class" in capsys.readouterr().err
