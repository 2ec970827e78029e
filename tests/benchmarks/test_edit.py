"""The measurement of edits: what is asked for, what should stay, and a page from end to end on an untrained model."""

from pathlib import Path

import pytest
import torch
from benchmarks.edit import CHANGED, KEPT, Bench, Options, main
from torch import Tensor

import fairlead as fl
from fairlead.data.scenes.captions import read_caption
from fairlead.report.edits import Edited


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edit") / "text"
    fl.train(out, data="scenes(n=200)", recipe="scenes", steps=2, channels=8, batch_size=8, text_read=2, text_sketch=2)
    return out


@pytest.fixture(autouse=True)
def _judge(monkeypatch: pytest.MonkeyPatch) -> None:
    class Judging:
        """Trained judges take minutes: this one sees zeros."""

        def judge(self, images: Tensor) -> dict[str, Tensor]:
            return {name: torch.zeros(len(images), dtype=torch.int64) for name in KEPT}

    monkeypatch.setattr("benchmarks.edit.cached_attribute_judge", lambda data: Judging())


def options(run: Path, tmp_path: Path) -> Options:
    return Options(
        str(run), tmp_path / "page", tmp_path / "rows.jsonl", n=3, tune_n=2, rows=6, methods=("sdedit", "negative"),
        strengths=(0.5, 1.0), scales=(2.0,), guidances=("cfg({scale})", "cfg({scale}) | clip()"),
    )  # fmt: skip


def test_one_attribute_is_asked_to_change_and_the_pixels_beside_it_stay(run: Path, tmp_path: Path) -> None:
    bench = Bench(options(run, tmp_path))
    for changed in CHANGED:
        task = bench.task(changed, tuning=False)
        for i, (source, target) in enumerate(zip(task.source, task.target, strict=True)):
            before, after = read_caption(source), read_caption(target)
            assert {name for name in before if before[name] != after[name]} == {changed}
            assert after["ink"] != after["background"]
            assert bench.test.attributes[changed].values[int(task.truth[changed][i])] == after[changed]
        assert bool(task.same[:, 0, 0].all())  # the background
        assert bool((~task.same).flatten(1).any(1).all())
    first, others = (bench.task("ink", tuning=tuning).images for tuning in (False, True))
    assert not any(torch.equal(a, b) for a in first for b in others)


def test_the_change_of_what_stays_is_that_of_its_pixels(run: Path, tmp_path: Path) -> None:
    bench = Bench(options(run, tmp_path))
    task = bench.task("ink", tuning=False)
    plain = fl.sample(bench.model, task.target, steps=1)

    def edited(images: Tensor) -> Edited:
        from dataclasses import replace

        return Edited(task.images, replace(plain, images=images))

    assert bench.scored(edited(task.images), task)["unchanged"]["value"] == 0
    other = task.images.int().add(51 * (~task.same[:, None]).int()).clamp(0, 255).to(torch.uint8)
    assert bench.scored(edited(other), task)["unchanged"]["value"] == 0
    lower = (task.images.int() + torch.where(task.images > 127, -51, 51)).to(torch.uint8)
    assert bench.scored(edited(lower), task)["unchanged"]["value"] == pytest.approx(0.2)


def test_the_page_is_written_and_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(run, tmp_path)
    main(given)
    text = (given.out / "edit.md").read_text()
    assert text.count("| sdedit |") == text.count("| negative |") == 2
    assert (given.out / "edit.png").is_file()
    rows = given.store.read_text()
    assert rows.count("\n") == len(CHANGED) * len(given.methods) * (2 * 2 + 1)
    for line in [line for line in text.split("\n") if line.startswith(("| sdedit", "| negative"))]:
        assert float(line.split("|")[6]) == 6  # rows of an edit
    capsys.readouterr()
    main(given)
    assert given.store.read_text() == rows
    assert (given.out / "edit.md").read_text() == text
