"""A folder as `make demo` leaves one: a small run on the digits, and a sweep of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import fairlead as fl
from fairlead.app.library import Library


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("playground")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fl.train("demo/model", recipe="digits", steps=40, channels=8, batch_size=32, warmup=4)
        fl.sweep("demo/model", "demo/sweep", scales=[0, 1, 2, 4], n=60, steps=4)
    return folder


@pytest.fixture(scope="module")
def demo(playground: Path) -> Iterator[Path]:
    """model/ and sweep/; whatever names them is relative to the folder above, which is the current one meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(playground)
        yield Path("demo")


@pytest.fixture(scope="module")
def library(demo: Path) -> Library:
    return Library.of([str(demo)])
