"""A sweep in real processes: killed at any moment and started again, or shared by two, it gives the table of one run
that nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tune.made import files, table

SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of this script's own import
import torch
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
from fairlead.__main__ import main
sys.exit(main())
"""
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "fairlead.py"
    path.write_text(SCRIPT)
    return path.rename(path.with_name("run.py"))


def command(run: Path, out: Path) -> list[str]:
    axes = ["--scales", "1", "2", "--sampler", "ddim", "dpmpp_2m_sde", "--steps", "4"]
    return ["sweep", str(run), f"{run}@step16", *axes, "--n", "60", "--batch-size", "16", "--out", str(out)]


def start(words: list[str], launcher: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    environment = {**os.environ, **ENVIRONMENT}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *launcher, *words], env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(process: "subprocess.Popen[str]") -> str:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    return printed


def finished(out: Path) -> int:
    """Batches that are there, or were before their setting was scored."""
    measured = {Path(name).parent for name in files(out, "samples.*")}
    return 4 * len(measured) + sum(Path(name).parent not in measured for name in files(out, "batch-*"))


def same(one: Path, other: Path) -> None:
    assert table(one) == table(other)
    assert len(table(one)) == 8
    names = files(one, "*.safetensors")
    assert names == files(other, "*.safetensors")
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


@pytest.fixture(scope="module")
def whole(tiny_run: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "s"
    ended(start([str(script), *command(tiny_run, out)]))
    return out


@pytest.mark.slow
def test_killed_again_and_again_it_gives_the_table_of_one_run(
    tiny_run: Path, script: Path, whole: Path, tmp_path: Path
) -> None:
    out, kills = tmp_path / "s", 0
    before: dict[str, int] = {}
    for wanted in (1, 3, 2, 5):  # so many more batches before the kill
        process = start([str(script), *command(tiny_run, out)])
        goal = finished(out) + wanted
        while process.poll() is None and finished(out) < goal:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        kept = {name: (out / name).stat().st_mtime_ns for name in files(out, "batch-*")}
        assert [name for name in before if name in kept and kept[name] != before[name]] == []  # made once
        before = kept
    assert kills >= 3
    assert len(table(out)) < 8
    printed = ended(start([str(script), *command(tiny_run, out)]))
    assert "of them measured; to do:" in printed
    same(out, whole)
    assert files(out, ".*") == files(out, "batch-*") == []


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(tiny_run: Path, script: Path, whole: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--")
    printed = ended(start([str(script), *command(tiny_run, tmp_path / "s")], launcher))
    assert printed.count("8 settings; to do: 480 images") == 1
    assert printed.count("report: ") == 1
    same(tmp_path / "s", whole)
