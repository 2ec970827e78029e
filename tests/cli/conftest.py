"""A tiny run on the digits, trained once through the command line, for every test of the commands."""

from pathlib import Path

import pytest

from fairlead.cli import main


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    arguments = ["--steps", "24", "--channels", "8", "--batch-size", "32", "--warmup", "4", "--preview-every", "24"]
    assert main(["train", "--out", str(out), "--snapshot-every", "8", *arguments]) == 0
    return out
