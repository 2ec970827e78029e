"""``fairlead interpolate``: what it writes and prints is what ``fl.interpolate`` gives; bad input leaves nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image

import fairlead as fl
from fairlead.cli import main
from fairlead.measure.references import evaluator_for
from fairlead.report.image_grid import grid_layout

OPTIONS = ["--cond", "seven", "1", "--n", "2", "--frames", "3", "--guidance", "cfg(2)", "--steps", "3", "--seed", "4"]


def test_what_it_writes(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "strip"
    assert main(["interpolate", str(tiny_run), *OPTIONS, "--out", str(out)]) == 0
    found = fl.interpolate(fl.load(tiny_run), "seven", "1", n=2, frames=3, guidance="cfg(2)", steps=3, seed=4)
    evaluator = evaluator_for(str(tiny_run), None)
    stored = json.loads((out / "interpolation.json").read_text())
    expected = found.smoothness(evaluator.extractor)
    assert stored["smoothness"]["features"] == pytest.approx([expected.value, expected.error])
    assert stored["smoothness"]["pixels"][0] == pytest.approx(found.smoothness().value)
    assert stored["weights"] == [0, 0.5, 1]
    assert stored["seeds"] == [4, 4, 4, 5, 5, 5]
    assert [sum(shares) for shares in zip(*stored["recognised"].values(), strict=True)] == pytest.approx([1, 1, 1])
    printed = capsys.readouterr().out
    assert f"3 frames, 2 seeds: {expected} in features" in printed
    assert "seen as seven" in printed
    with Image.open(out / "strip.png") as picture:
        layout = grid_layout(found.images, ["4", "5"], ["seven", "50 %", "1"], "seven to 1, cfg(2), ddim, 3 steps")
        assert picture.size == layout.size
        picture.load()
        corner = layout.columns[2] + 1, layout.rows[1] + 1
        assert picture.getpixel(corner) == (int(found.images[1, 2, 0, 0, 0]),) * 3
        assert json.loads(picture.text["fairlead"])["conds"][1] == "0.5 seven + 0.5 one"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--frames", "2"], "at least 3 frames"),
        (["--cond", "seven", "7"], "same condition"),
        (["--cond", "seven", "cat"], "unknown class 'cat'"),
    ],
)
def test_bad_input(
    extra: list[str], said: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", str(tiny_run), *OPTIONS, *extra, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_an_interpolation_is_not_overwritten(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "interpolation.json").write_text("{}")
    assert main(["interpolate", str(tiny_run), *OPTIONS, "--out", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["interpolation.json"]
