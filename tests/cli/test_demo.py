"""The demo, shortened: it finds a setting, writes the report, and replaces only an earlier demo."""

from pathlib import Path

import pytest

from fairlead.cli import main


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seconds", "1", "--n", "100"]) == 0
    printed = capsys.readouterr().out
    assert "Best: cfg(" in printed
    assert f"report: {out / 'report.html'}" in printed
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 1
    assert "fairlead demo" in page
    assert main(["demo", "--out", str(out), "--seconds", "1", "--n", "100"]) == 0


def test_demo_refuses_a_folder_that_is_not_a_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not an earlier demo; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "keep me"
