"""Places that may not be written or read, tried by a user who is not root: one line, exit code 2, before any work."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.as_nobody import READERS, WRITERS

NOBODY = 65534
SOURCES = Path(__file__).parents[2]


@pytest.fixture
def folder(tiny_run: Path) -> Iterator[Path]:
    """A folder of nobody's (of the user's own, where that is not root) with a run; those of pytest are root's alone."""
    made = Path(tempfile.mkdtemp(prefix="fairlead-nobody-"))
    shutil.copytree(tiny_run, made / "work" / "run")
    (made / "home").mkdir()
    if os.getuid() == 0:
        for path in (made, *made.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


def interpreter(**user: Any) -> str:
    """One that the user may start: this, or where it lies in a home that is root's alone, that of the system."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([path, "-c", ""], check=True, capture_output=True, **user)
        except (OSError, subprocess.CalledProcessError):
            continue
        return path
    raise AssertionError(f"user {NOBODY} may start neither {sys.executable} nor a {version} of the system")


def run_as_nobody(folder: Path, every: int) -> dict[str, Any]:
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "FAIRLEAD_"))},
        **{"HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        "PYTHONPATH": os.pathsep.join([str(SOURCES / "src"), str(SOURCES), *packages]),
    }
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    done = subprocess.run(
        [interpreter(**user), "-m", "tests.cli.as_nobody", str(folder / "work"), str(every)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=900, **user,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], least: int) -> None:
    assert found["uid"] != 0
    assert len(found["outcomes"]) >= least
    for situation, arguments, code, said in found["outcomes"]:
        case = f"{situation}: fairlead {' '.join(arguments)}"
        assert code == 2, f"{case}\n{code}\n{said}"
        assert said.startswith("fairlead: "), f"{case}\n{said}"
        assert said.count("\n") == 1, f"{case}\n{said}"
        assert len(said) < 1500, f"{case}\n{said}"
    assert not {"new", "fresh"} & set(found["left"])


def test_one_line_before_any_work(folder: Path) -> None:
    check(run_as_nobody(folder, every=4), least=100)


@pytest.mark.slow
def test_one_line_before_any_work_for_every_command_in_every_place(folder: Path) -> None:
    found = run_as_nobody(folder, every=1)
    check(found, least=400)
    assert {words[0] for _, words, _, _ in found["outcomes"]} == {words[0] for words in [*WRITERS, *READERS]}


def test_all_commands_are_among_them() -> None:
    from typing import get_args

    from fairlead.cli import Command

    named = {get_args(one)[1].name for one in get_args(Command)}
    assert named == {words[0] for words in [*WRITERS, *READERS]}
