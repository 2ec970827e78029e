"""``sweep --by-class`` and ``tune --by-class``: a line or a table, in the terminal, the report and the files."""

import html
import json
from pathlib import Path

import pytest

from fairlead.cli import main
from fairlead.report.sweeps import report

SWEEP = ["--n", "90", "--steps", "2"]


def test_a_sweep_says_it_and_a_wider_one_brings_it_up_to_date(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(tiny_run), *SWEEP, "--out", str(tmp_path / "s")]
    assert main([*command, "--scales", "1", "3", "--by-class"]) == 0
    stored = json.loads((tmp_path / "s" / "by_class.json").read_text())
    assert stored["comparisons"] == 10 * 1
    assert [one["name"] for one in stored["classes"]][:2] == ["zero", "one"]
    assert {one["n"] for one in stored["classes"]} <= {8, 9, 10}
    assert stored["text"] in capsys.readouterr().out
    page = html.unescape((tmp_path / "s" / "report.html").read_text())
    assert "<h2>By class</h2>" in page
    assert stored["text"] in page
    assert main([*command, "--scales", "1", "2", "3"]) == 0
    found = report(tmp_path / "s").by_class
    assert found is not None
    assert (found.comparisons, found.settings) == (10 * 2, 3)
    (tmp_path / "s" / "by_class.json").write_text("{}")
    assert main(["report", str(tmp_path / "s")]) == 2
    assert "by_class.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sweep", *SWEEP, "--scales", "2"], "by class: no two settings differ in the scale alone"),
        (["sweep", *SWEEP, "--scales", "1", "2", "--cond", "seven"], "by class: only one class is given"),
        (["tune", "--guidance", "cfg({a}) + pag({b})", "--range", "a=1:3", "b=1:3"], "2 numbers are open"),
    ],
)
def test_what_has_no_classes_to_compare_is_refused_in_one_line(
    command: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(tiny_run), *command[1:], "--by-class", "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert error.startswith("fairlead: ")
    assert not list(tmp_path.glob("o/settings"))
