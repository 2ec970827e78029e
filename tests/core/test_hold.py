"""One run a folder: of many that start at once, after kills, across hosts, in threads."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fairlead.core import hold
from fairlead.core.errors import UsageError
from fairlead.core.hold import NAME, STALE, TORN, Hold, shared_hold

HOLDER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell sets to be ignored in the background
from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
try:
    with Hold(sys.argv[1]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except UsageError as error:
    print(error)
"""


def holder(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def left(tmp_path: Path) -> dict[str, Any]:
    """What a process that was killed left in ``tmp_path``."""
    process = holder(tmp_path, 100)
    assert said(process) == "held"
    process.kill()
    process.wait()
    found: dict[str, Any] = json.loads((tmp_path / NAME).read_text())
    return found


def put(folder: Path, holder: dict[str, Any] | None, age: float = 0.0) -> None:
    path = folder / NAME
    path.write_text("" if holder is None else json.dumps(holder))
    os.utime(path, (time.time() - age,) * 2)


def test_a_hold_is_a_file_while_it_lasts_and_names_who_has_it(tmp_path: Path) -> None:
    with Hold(tmp_path):
        holder = json.loads((tmp_path / NAME).read_text())
        assert (holder["process"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_stays_empty_is_removed_again_with_those_above(tmp_path: Path) -> None:
    with Hold(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / NAME).exists()
    assert list(tmp_path.iterdir()) == []
    with Hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


def test_of_eight_that_start_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    processes = [holder(tmp_path / "run", 100) for _ in range(8)]
    lines = [said(process) for process in processes]
    winner = processes[lines.index("held")]
    refused = f"{tmp_path / 'run'} is held by process {winner.pid} on host {socket.gethostname()} since "
    assert sorted(line.startswith(refused) for line in lines) == [False, *[True] * 7]
    winner.kill()
    for process in processes:
        process.wait()


def test_of_eight_that_find_a_dead_holder_at_once_one_gets_the_folder(tmp_path: Path, left: dict[str, Any]) -> None:
    processes = [holder(tmp_path, 100) for _ in range(8)]
    lines = [said(process) for process in processes]
    assert lines.count("held") == 1
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_holder_that_was_killed_is_known_to_be_dead_at_once(tmp_path: Path, ended_by: signal.Signals) -> None:
    process = holder(tmp_path, 100)
    assert said(process) == "held"
    with pytest.raises(UsageError, match=f"held by process {process.pid} on host .*; wait until it ends, or choose"):
        Hold(tmp_path)
    process.send_signal(ended_by)
    while hold._started(process.pid) is not None:
        time.sleep(0.01)  # not waited for: what is left of it, a zombie, holds nothing
    with Hold(tmp_path):
        pass
    process.wait()


def test_the_number_of_a_dead_process_may_be_another_ones_by_now(tmp_path: Path, left: dict[str, Any]) -> None:
    put(tmp_path, {**left, "process": os.getppid()})
    with Hold(tmp_path):
        pass
    put(tmp_path, {**left, "process": os.getppid(), "started": hold._started(os.getppid())})
    with pytest.raises(UsageError, match=f"held by process {os.getppid()} on host"):
        Hold(tmp_path)


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"boot": "before"}, {"space": "pid:[1]"}])
def test_a_holder_elsewhere_lives_as_long_as_it_gives_signs(
    tmp_path: Path, left: dict[str, Any], other: dict[str, str]
) -> None:
    """Its process number means nothing here."""
    holder = {**left, **other}
    put(tmp_path, holder, age=STALE - 20)
    with pytest.raises(
        UsageError, match=rf"held by process {left['process']} on host {holder['host']} since .*"
    ) as error:
        Hold(tmp_path)
    assert f"whose last sign of life is {STALE - 20:.0f} s old (dead after {STALE:.0f} s)" in str(error.value)
    put(tmp_path, holder, age=STALE + 1)
    with Hold(tmp_path):
        pass


def test_a_sign_of_life_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "BEAT", 0.02)
    with Hold(tmp_path):
        os.utime(tmp_path / NAME, (0, 0))
        until = time.monotonic() + 10
        while (tmp_path / NAME).stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - (tmp_path / NAME).stat().st_mtime < 10


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "a"}'])
def test_a_file_that_says_nothing_is_of_a_process_that_starts_or_that_died_then(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(UsageError, match="held by a process that is starting; wait"):
        Hold(tmp_path)
    os.utime(tmp_path / NAME, (time.time() - TORN - 1,) * 2)
    with Hold(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_thread_may_hold_a_folder_twice_and_the_last_release_ends_it(tmp_path: Path) -> None:
    first, second = Hold(tmp_path), Hold(str(tmp_path) + "/.")
    first.release()
    first.release()
    assert (tmp_path / NAME).exists()
    second.release()
    assert not (tmp_path / NAME).exists()


def test_another_thread_of_the_process_is_another_run(tmp_path: Path) -> None:
    refused: list[str] = []

    def take() -> None:
        try:
            Hold(tmp_path)
        except UsageError as error:
            refused.append(str(error))

    with Hold(tmp_path):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert refused == [
        f"{tmp_path} is held by another thread of this process; wait until it ends, or choose another folder"
    ]


def test_a_run_that_counted_as_dead_writes_nothing_more(tmp_path: Path, left: dict[str, Any]) -> None:
    with Hold(tmp_path) as mine:
        mine.check()
        put(tmp_path, {**left, "host": "elsewhere", "process": 7})
        with pytest.raises(
            UsageError, match=r"was taken over by process 7 on host elsewhere since .*; this run writes nothing more"
        ):
            mine.check()
    assert json.loads((tmp_path / NAME).read_text())["process"] == 7  # not ours to remove


def test_a_hold_of_an_interrupted_call_of_this_process_is_no_hold(tmp_path: Path) -> None:
    put(tmp_path, {**hold._me(), "token": "lost"})
    with Hold(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["token"] != "lost"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", r"file is a file; choose another --out"),
        ("file/run", r"cannot write to .*file.*; choose another --out"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=message):
        Hold(tmp_path / out)


def test_a_read_only_folder_is_refused() -> None:
    """As nobody: the tests may run as root, who may write everywhere."""
    code = HOLDER.replace("try:", "import os\nos.getuid() or os.setuid(65534)\ntry:")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", code, folder, "0"], capture_output=True, text=True)
        Path(folder).chmod(0o755)
    assert done.stdout.startswith(f"cannot write to {folder}: permission denied; choose another --out"), done.stderr


def test_beside_a_folder_that_is_moved_into_place(tmp_path: Path) -> None:
    with Hold(tmp_path / "made", beside=True):
        assert [path.name for path in tmp_path.iterdir()] == [".made.held"]
        with pytest.raises(UsageError, match="held by process"):
            raise UsageError(said(holder_beside(tmp_path / "made")))
    assert list(tmp_path.iterdir()) == []


def holder_beside(folder: Path) -> "subprocess.Popen[str]":
    code = HOLDER.replace("Hold(sys.argv[1])", "Hold(sys.argv[1], beside=True)")
    return subprocess.Popen([sys.executable, "-c", code, str(folder), "0"], stdout=subprocess.PIPE, text=True)


def test_the_main_process_of_a_launch_holds_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in rest.items():
        monkeypatch.setenv(name, value)
    for rank, there in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with shared_hold(tmp_path):
            assert (tmp_path / NAME).exists() == there


def test_nothing_is_left_of_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write to"):
        Hold(tmp_path / "new" / ("n" * 300))
    assert not list(tmp_path.iterdir())
