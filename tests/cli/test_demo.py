"""The demo, shortened: it finds a setting, writes the report, and replaces only an earlier demo."""

from pathlib import Path

import pytest

from fairlead.cli import main


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seconds", "1", "--n", "100"]) == 0
    printed = capsys.readouterr().out
    assert "Recommended: cfg(" in printed
    assert f"report: {out / 'report.html'}" in printed
    assert f"or in a browser: fairlead app {out}" in printed
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 2
    assert "Recommended: cfg(" in page
    assert main(["demo", "--out", str(out), "--seconds", "1", "--n", "100"]) == 0


def test_demo_refuses_a_folder_that_is_not_a_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "project" / "model" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    assert main(["demo", "--out", str(tmp_path / "project")]) == 2
    assert "holds 'model', which is not an earlier demo's; choose another --out" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds 'file'" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; choose another --out" in capsys.readouterr().err
    assert precious.read_text() == "keep me"
    (tmp_path / "own" / "settings").mkdir(parents=True)
    assert main(["demo", "--out", str(tmp_path / "own")]) == 2
    assert "holds 'settings', which is not an earlier demo's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--n", "20", "at least 60 images"), ("--seconds", "nan", "a positive number"), ("--seed", "-1", "from 0 to")],
)
def test_demo_checks_its_numbers_first(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "d"), option, value]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
