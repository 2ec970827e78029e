"""``fairlead explain``: what it prints and writes is what the run did; bad input is one line and leaves nothing."""

import json
from pathlib import Path

import pytest

import fairlead as fl
from fairlead.cli import main


def test_it_prints_a_table_and_writes_the_same_numbers(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why"
    options = ["--cond", "seven", "--guidance", "cfg(4) | clip()", "--seeds", "3", "8", "--steps", "4"]
    capsys.readouterr()
    assert main(["explain", str(tiny_run), *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    expected = fl.explain(fl.load(tiny_run), "seven", guidance="cfg(4) | clip()", seeds=(3, 8), steps=4)
    assert printed.startswith(expected.table())
    assert max(map(len, expected.table().splitlines())) <= 120
    stored = json.loads((out / "explain.json").read_text())
    assert stored == expected.to_json()
    assert (stored["conds"], stored["seeds"], stored["rows"]) == (["seven", "seven"], [3, 8], [4] * 4)
    assert {path.name for path in out.iterdir()} == {"explain.json", "explain.png", "film.png", "explain.html"}
    assert "fairlead" in (out / "explain.html").read_text()


def test_comparing_is_counted_apart(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cond", "seven", "--guidance", "cfg(1)", "--seeds", "0", "--steps", "3", "--compare"]
    assert main(["explain", str(tiny_run), *options, "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "explain.json").read_text())
    assert (stored["rows"], stored["compared_rows"]) == ([1, 1, 1], 3)
    assert "1 further rows per sample" not in capsys.readouterr().out
    assert stored["mean"]["effective"] == [1.0, 1.0, 1.0]


BAD = [
    (["--cond", "sevn", "--guidance", "cfg(4)"], "unknown class 'sevn'"),
    (["--cond", "7", "--guidance", "cgf(4)"], "did you mean 'cfg'?"),
    (["--guidance", "cfg(4)"], "steers towards the run's condition, but none was given"),
    (["--cond", "7", "--guidance", "cfg([1, 2])"], "has scales for 2 samples, the run has 4"),
    (["--cond", "7", "--guidance", "cfg(4)", "--seeds", "-1"], "seed -1"),
    (["--cond", "7", "--guidance", "cfg(4)", "--steps", "0"], "steps 0"),
    (["--cond", "7", "--guidance", "cfg(4)", "--weights", "best"], "unknown weights 'best'"),
]


@pytest.mark.parametrize(("extra", "message"), BAD, ids=[" ".join(extra) for extra, _ in BAD])
def test_bad_input(
    extra: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["explain", str(tiny_run), "--out", str(tmp_path / "o"), *extra]) == 2
    line = capsys.readouterr().err
    assert line.startswith("fairlead: ")
    assert line.count("\n") == 1
    assert message in line
    assert not (tmp_path / "o").exists()


def test_an_earlier_explanation_is_not_replaced(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.png").write_bytes(b"mine")
    assert main(["explain", str(tiny_run), "--guidance", "none | clip()", "--out", str(tmp_path)]) == 2
    assert "already holds film.png" in capsys.readouterr().err
    assert (tmp_path / "film.png").read_bytes() == b"mine"
