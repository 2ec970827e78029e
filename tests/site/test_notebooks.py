"""The notebooks of docs/tutorials run from top to bottom, and what is kept in them is what they give."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent.parent / "docs" / "tutorials"
EXACT = ("guidance-by-hand",)
"""Closed forms in float64: their numbers are the same everywhere."""


def given(cell: Any) -> tuple[bool, int]:
    """Whether a cell prints or shows anything, warnings left out, and how many pictures."""
    data = [output.get("data", {}) for output in cell.outputs]
    shown = any("text/plain" in one and "image/png" not in one for one in data)
    return bool(text(cell)) or shown, sum("image/png" in one for one in data)


def text(cell: Any) -> str:
    return "".join(one.text for one in cell.outputs if one.output_type == "stream" and one.name == "stdout")


def each(path: Path) -> Any:
    """The other trains a model, which takes longer."""
    return pytest.param(path, id=path.stem, marks=[] if path.stem in EXACT else [pytest.mark.slow])


@pytest.mark.parametrize("path", map(each, sorted(FOLDER.glob("*.ipynb"))))
def test_a_notebook_gives_what_is_kept_in_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which keeps pictures
    kept = nbformat.read(path, 4)
    fresh = nbformat.read(path, 4)
    NotebookClient(fresh, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, after in zip(kept.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            assert given(after) == given(before), before.source
            assert path.stem not in EXACT or text(after) == text(before), before.source


def test_there_are_pictures_in_every_notebook_and_no_errors_or_warnings() -> None:
    paths = sorted(FOLDER.glob("*.ipynb"))
    assert len(paths) >= 2
    for path in paths:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert any(given(cell)[1] for cell in cells), path.name
        assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}, path.name
        assert all(output.get("name") != "stderr" for output in outputs), path.name
