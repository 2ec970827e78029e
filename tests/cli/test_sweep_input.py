"""Wrong input to sweep and report: refused in one line before a classifier is trained or a folder is claimed."""

import json
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.cli import main
from fairlead.core.errors import Remark, UsageError
from fairlead.core.progress import bars
from fairlead.core.strict_json import sealed
from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.measure.frechet import Moments
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.references import evaluator_for
from fairlead.report.sweeps import DEFAULT_SCALES

SWEEP = [
    (["--sampler", "dddim"], "unknown sampler 'dddim'; did you mean 'ddim'?"),
    (["--grid", "x"], "unknown grid 'x'"),
    (["--steps", "0"], "steps"),
    (["--cond", "sevn"], "unknown class 'sevn'"),
    (["--precision", "fp8"], "unknown precision 'fp8'"),
    (["--batch-size", "0"], "batch_size"),
    (["--seed", "-1"], "seed"),
    (["--n", "0"], "at least 1 sample"),
    (["--n", "29"], "n = 29 images over 10 conditions are too few to score; expected at least 30"),
    (["--n", "3", "--cond", "7"], "expected at least 4"),
    (["--guidance", "cfg(2, negative='sevn')"], "unknown class 'sevn'"),
    (["--guidance", "cfg(1)", "cfg([1, 2, 3])"], "has scales for 3 samples, the run has 60"),
    (["--guidance", "cfg(3)", "--scales", "1", "2"], "write {scale} in the guidance"),
    (["--guidance", "cfg({scale})", "--scales"], "nothing to measure"),
    (["--sampler", "ddim", "ddim(eta=0)"], "ddim would be measured twice"),
    (["--sampler", "ddim", "dddim"], "unknown sampler 'dddim'"),
    (["--steps", "5", "0"], "steps"),
    (["--budget", "20 hours"], "expected a positive number and images, rows or minutes"),
]


@pytest.mark.parametrize(("extra", "message"), SWEEP, ids=[" ".join(extra) for extra, _ in SWEEP])
def test_sweep(
    extra: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_late(*_: Any) -> None:
        raise AssertionError("classifiers would be trained")

    monkeypatch.setattr(import_module("fairlead.report.sweeps"), "evaluator_for", too_late)
    capsys.readouterr()
    assert main(["sweep", str(tiny_run), "--n", "60", "--out", str(tmp_path / "o"), *extra]) == 2
    line = capsys.readouterr().err
    assert line.startswith("fairlead: ")
    assert line.count("\n") == 1
    assert message in line
    assert not (tmp_path / "o").exists()


def test_the_same_checkpoint_under_two_names_is_refused(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(tiny_run), f"{tiny_run}@step24", "--out", str(tmp_path / "o")]) == 2
    assert "are the same weights and would be measured twice" in capsys.readouterr().err
    assert main(["sweep", "--out", str(tmp_path / "o")]) == 2
    assert "at least one checkpoint" in capsys.readouterr().err


def test_a_guidance_without_a_scale_needs_no_scales(tiny_run: Path, tmp_path: Path) -> None:
    for guidance in ("cfg(3)", "cfg({scale})"):
        with pytest.MonkeyPatch.context() as patch:
            seen: list[str] = []

            def note(settings: Any, *_: Any, seen: list[str] = seen) -> None:
                seen += [setting.guidance for setting in settings]
                raise UsageError("noted")

            patch.setattr(
                import_module("fairlead.tune.sweep_run").Sweep, "__init__", lambda self, *args, note=note: note(*args)
            )
            assert main(["sweep", str(tiny_run), "--guidance", guidance, "--out", str(tmp_path / "o")]) == 2
        scales = DEFAULT_SCALES if "{scale}" in guidance else (3.0,)
        assert seen == [f"cfg({scale:g})" for scale in scales]


@pytest.mark.parametrize("about", ["{}", "[]", '{"model": {}, "classes": [], "settings": {}, "command": ""}', "{"])
def test_report_of_a_foreign_folder(about: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.json").write_text(about)
    (tmp_path / "sweep.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err


def _given(monkeypatch: pytest.MonkeyPatch, cache: Path, **changes: Any) -> None:
    """Data is the digits but for ``changes``; classifiers are quick."""

    def load(split: str, **_: Any) -> ImageData:
        return replace(load_digits(split), **changes)

    monkeypatch.setattr(import_module("fairlead.measure.references"), "load_data", load)
    monkeypatch.setattr(import_module("fairlead.measure.judge"), "recipe_for", _quick)
    monkeypatch.setenv("FAIRLEAD_CACHE", str(cache))


def _quick(data: ImageData, role: str) -> ClassifierRecipe:
    return ClassifierRecipe(seed=len(role), steps=2, width=4)


def test_other_classes_or_another_shape_than_the_models(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _given(monkeypatch, tmp_path, classes=tuple("abcdefghij"))
    with pytest.raises(UsageError, match=r"classes are a, b, .*; the model's are zero, one, "):
        evaluator_for(str(tiny_run), "elsewhere")
    larger = {split: load_digits(split).images.repeat(1, 1, 2, 2) for split in ("train", "test")}
    monkeypatch.setattr(
        import_module("fairlead.measure.references"),
        "load_data",
        lambda split, **_: replace(load_digits(split), images=larger[split]),
    )
    with pytest.raises(UsageError, match=r"images are \[1, 16, 16\], the model's are \[1, 8, 8\]"):
        evaluator_for(str(tiny_run), None)


def test_other_images_than_those_of_the_training_are_named_unless_it_was_limited(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _given(monkeypatch, tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator_for(str(tiny_run), None)

    def inverted(split: str, **_: Any) -> ImageData:
        return replace(load_digits(split), images=255 - load_digits(split).images)

    monkeypatch.setattr(import_module("fairlead.measure.references"), "load_data", inverted)
    with pytest.warns(Remark, match="not the images the model was trained on") as said:
        evaluator_for(str(tiny_run), None)
    assert [load_digits("train").fingerprint in str(each.message) for each in said] == [True]

    about = json.loads((tiny_run / "step-000024" / "model.json").read_text())
    about["train"]["data"]["limit"] = 100
    limited = tmp_path / "limited"
    limited.mkdir()
    (limited / "model.json").write_text(json.dumps(sealed(about)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator_for(str(limited), None)


def test_classifiers_and_features_of_real_images_are_made_once_behind_a_bar(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _given(monkeypatch, tmp_path)
    made = evaluator_for(str(tiny_run), None, progress=bars)
    printed = capsys.readouterr().err
    for bar in ("training the judge", "training the feature network", "features of real images"):
        assert bar in printed
    read = evaluator_for(str(tiny_run), None, progress=bars)
    assert capsys.readouterr().err == ""
    expected = Moments.of(made.extractor.features(made.reference.images))
    for moments in (made.moments, read.moments):
        assert torch.equal(moments.mean, expected.mean)
        assert torch.equal(moments.scatter, expected.scatter)


def test_a_class_without_real_images_is_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sevens(split: str, **_: Any) -> ImageData:
        data = load_digits(split)
        return data.subset(data.labels != 7) if split == "test" else data

    _given(monkeypatch, tmp_path)
    monkeypatch.setattr(import_module("fairlead.measure.references"), "load_data", no_sevens)
    with pytest.raises(UsageError, match="split 'test' has no images of 'seven'"):
        evaluator_for(str(tiny_run), None, [7])
