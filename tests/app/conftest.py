"""A folder as `make demo` leaves one: a small run on the digits, and a sweep of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import fairlead as fl
from fairlead.app.library import Library


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """model/ and sweep/; whatever names them is relative to the folder above, which is the current one meanwhile."""
    folder = tmp_path_factory.mktemp("playground")
    before, cache = Path.cwd(), os.environ.get("FAIRLEAD_CACHE")
    os.environ["FAIRLEAD_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    fl.train("demo/model", recipe="digits", steps=40, channels=8, batch_size=32, warmup=4)
    fl.sweep("demo/model", "demo/sweep", scales=[0, 1, 2, 4], n=60, steps=4)
    yield Path("demo")
    os.chdir(before)
    if cache is None:
        del os.environ["FAIRLEAD_CACHE"]
    else:
        os.environ["FAIRLEAD_CACHE"] = cache


@pytest.fixture(scope="session")
def library(demo: Path) -> Library:
    return Library.of([str(demo)])
