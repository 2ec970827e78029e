"""What the user may not read, or what leads nowhere, is said in one line; as a real user, for root may read all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.core.errors import UsageError
from fairlead.train.checkpoint import find_checkpoint, save_checkpoint, steps_of
from tests.train.test_checkpoint import ABOUT, weights

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A run that anybody may read; the test is nobody in particular."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    save_checkpoint(folder / "run", 3, ABOUT, {"ema": weights()})
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        os.umask(before)
        for path in (folder / "run", folder / "run" / "step-000003"):
            path.chmod(0o755)
        shutil.rmtree(folder)


def without(path: Path) -> None:
    """Take all permissions from ``path``, and those of root from this process."""
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)


@pytest.mark.parametrize("name", ["run", "run/step-000003", "run/step-000003/model.json"])
def test_a_run_that_may_not_be_read(place: Path, name: str) -> None:
    assert find_checkpoint(place / "run").step == 3
    without(place / name)
    for spec in (place / "run", place / "run" / "step-000003", f"{place}/run@step3"):
        with pytest.raises(UsageError) as caught:
            find_checkpoint(spec)
        assert "\n" not in str(caught.value)
    if name == "run":
        with pytest.raises(UsageError, match=r"cannot be read .*Permission denied"):
            steps_of(place / "run")


def test_weights_that_may_not_be_read(place: Path) -> None:
    without(place / "run" / "step-000003" / "ema.safetensors")
    with pytest.raises(UsageError, match=r"ema.safetensors cannot be read .*Permission denied"):
        find_checkpoint(place / "run").tensors("ema")


def test_links_in_a_circle_and_names_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for spec in (tmp_path / "a", tmp_path / ("x" * 300), f"{tmp_path}/{'x' * 300}@step3", "a\0b"):
        with pytest.raises(UsageError, match=r"no checkpoint .* the path does not exist") as caught:
            find_checkpoint(spec)
        assert len(str(caught.value)) < 1000
    for digits in ("4", "9" * 100, "²"):
        with pytest.raises(UsageError, match=r"holds no checkpoint|has no checkpoint") as caught:
            find_checkpoint(f"{tmp_path}@step{digits}")
        assert len(str(caught.value)) < 1000
