"""Killed at any moment, in any way, and started again with the same command, trainings and sweeps give the bits of one
that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairlead.core.hold import NAME
from fairlead.train.checkpoint import steps_of
from tests.cli.test_sweep_processes import SCRIPT, command, ended, same, script, start, whole
from tests.train.tiny import same_bits, tensors_of
from tests.tune.made import table

__all__ = ["script", "whole"]  # fixtures
KINDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
TRAINING = [
    *("train", "--steps", "30", "--channels", "8", "--batch-size", "16", "--warmup", "4", "--precision", "fp32"),
    *("--checkpoint-every", "4", "--snapshot-every", "10"),
]


KILLS, PREPARED = 60, 8
"""Kills of trainings, and those that have to come while images are decoded, and while a checkpoint is written."""
OF_TWO = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--")
Moment = Callable[[], bool]


def held(out: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until it holds its folder, or has ended."""
    while not (out / NAME).exists() and process.poll() is None:
        time.sleep(0.005)


def later(seconds: float) -> Moment:
    """So many seconds from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def killed(
    words: list[str], out: Path, kind: signal.Signals, moment: Callable[[], Moment], rank: int | None = None
) -> int | None:
    """Start, and send a signal at a moment after the folder is held, to one of two processes if ``rank`` says which.

    Returns:
        the exit code, None if it had ended before.
    """
    process = start(words, () if rank is None else OF_TWO)
    held(out, process)
    now = moment()
    while process.poll() is None and not now():
        time.sleep(0.001)
    if process.poll() is not None:
        process.communicate()
        return None
    hit = process.pid if rank is None else workers(process.pid)[rank:][:1]
    for each in [hit] if isinstance(hit, int) else hit:
        with suppress(ProcessLookupError):
            os.kill(each, kind)
    printed, errors = process.communicate(timeout=300)
    code = process.returncode
    if rank is None:
        assert "Traceback" not in errors, errors[-2000:]
        # ended in order, killed, or just before it ended by itself or could handle signals
        assert code in (128 + kind, -kind, 0), (code, printed, errors[-2000:])
    return code


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    return list(map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()))


def trained_under(
    words: list[str], out: Path, cache: Path, kills: int, chance: random.Random, length: float, two: bool = False
) -> Counter[str]:
    """Kill a training so many times, then let it end; which kills came before its end, by what it was doing.

    Every third kill waits for the journal of the decoded images, every third for a checkpoint that is being written,
    the others come at random within ``length`` seconds.
    """
    came: Counter[str] = Counter()
    for i in range(kills):
        latest, stage = chance.uniform(0, length), ("anything", "preparing", "saving")[i % 3]
        marks = {"preparing": (cache, "**/*.journal"), "saving": (out, ".step-*.partial")}

        def moment(latest: float = latest, stage: str = stage, marks: dict[str, tuple[Path, str]] = marks) -> Moment:
            late = later(latest if stage == "anything" else 2 * length)
            folder, pattern = marks.get(stage, (out, ""))
            return lambda: late() or (bool(pattern) and any(folder.glob(pattern)))

        rank = chance.randrange(2) if two else None
        if killed([*words, "--out", str(out), "--resume"], out, KINDS[chance.randrange(3)], moment, rank) is not None:
            came[stage] += 1
        if steps_of(out)[-1:] == [30]:
            break
    ended(start([*words, "--out", str(out), "--resume"], OF_TWO if two else ()))
    assert not (out / NAME).exists()
    return came


def test_sigterm_saves_and_nobody_else_trains_there_before(script: Path, tmp_path: Path) -> None:
    """28 of 400 steps had been lost. SIGUSR1 saves and goes on."""
    out, said = tmp_path / "run", tmp_path / "said"
    settings = ["--checkpoint-every", "0", "--snapshot-every", "0", "--steps", "4000"]
    words = [sys.executable, str(script), *TRAINING, *settings, "--out", str(out)]
    with said.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
    while not (out / NAME).exists() and process.poll() is None:
        time.sleep(0.005)
    while not steps_of(out) and process.poll() is None:  # ignored while the data are loaded
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    asked = steps_of(out)[-1]
    refused = subprocess.run([*words, "--resume"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"fairlead: {out} is held by process {process.pid} on host {os.uname().nodename}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    (last,) = steps_of(out)
    assert last > asked
    assert f"stopped after step {last}; saved {out}/step-{last:06d}; go on with --resume" in said.read_text()
    assert sorted(path.name for path in out.iterdir()) == ["loss.csv", f"step-{last:06d}", "validation.csv"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of very unequal size."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, count in (("a", 300), ("b", 90), ("c", 10)):
        (folder / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command line with images decoded in pieces of a few, so that there is time to be killed between two."""
    path = tmp_path_factory.mktemp("pieces") / "run.py"
    small = "from fairlead.data.own import preparation\npreparation._CHUNK = 640\nfrom fairlead.__main__"
    path.write_text(SCRIPT.replace("from fairlead.__main__", small))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("two", [False, True], ids=["alone", "one-of-two"])
def test_a_training_killed_at_any_moment_has_the_bits_of_one_run(
    pieces: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: bool
) -> None:
    """While its images are decoded, while it trains and while it writes a checkpoint; by KILL, TERM and INT; the only
    process, or one of two: 60 kills in all."""
    words, kills = [str(pieces), *TRAINING, "--data", str(pictures)], KILLS // 4 if two else KILLS - KILLS // 4
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache-whole"))
    undisturbed = start([*words, "--out", str(tmp_path / "whole")], OF_TWO if two else ())
    held(tmp_path / "whole", undisturbed)
    began = time.monotonic()
    ended(undisturbed)
    length, came = time.monotonic() - began, Counter[str]()
    whole = tensors_of(tmp_path / "whole")
    for seed in range(100):
        out, cache = tmp_path / f"run-{seed}", tmp_path / f"cache-{seed}"
        monkeypatch.setenv("FAIRLEAD_CACHE", str(cache))
        missing = min(6, kills - came.total())
        came += trained_under(words, out, cache, missing, random.Random(seed), length, two)
        assert same_bits(tensors_of(out), whole)
        assert steps_of(out) == [10, 20, 30]
        if came.total() >= kills:
            break
    assert came.total() >= kills
    assert min(came["preparing"], came["saving"]) >= PREPARED // (4 if two else 1)


@pytest.mark.slow
def test_a_sweep_killed_thirty_times_has_the_bits_of_one_run(
    tiny_run: Path, script: Path, whole: Path, tmp_path: Path
) -> None:
    chance, came = random.Random(0), 0
    for number in range(100):
        out = tmp_path / f"s-{number}"
        for i in range(min(5, 30 - came)):
            words = [str(script), *command(tiny_run, out)]
            came += killed(words, out, KINDS[i % 3], partial(later, chance.uniform(0, 8))) is not None
        ended(start([str(script), *command(tiny_run, out)]))
        same(out, whole)
        assert not (out / NAME).exists()
        if came >= 30:
            return
    raise AssertionError(f"{came} kills came in time")


def test_two_equal_commands_into_one_folder_one_is_refused(tiny_run: Path, script: Path, tmp_path: Path) -> None:
    """One had deleted the result of the other."""
    words = ["sample", str(tiny_run), "--cond", "all", "--n", "30", "--steps", "20", "--out", str(tmp_path / "out")]
    assert one_of_two(script, words) == 301


@pytest.mark.slow
def test_of_two_equal_sweeps_into_one_folder_one_is_refused(tiny_run: Path, script: Path, tmp_path: Path) -> None:
    """They had reported damage."""
    assert one_of_two(script, command(tiny_run, tmp_path / "out")) == 1
    assert len(table(tmp_path / "out")) == 8


def one_of_two(script: Path, words: list[str]) -> int:
    """Run a command twice at once; how many pictures the one that got the folder made."""
    out = Path(words[-1])
    first = start([str(script), *words])
    while not ((out / NAME).exists() and (out / NAME).stat().st_size) and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # it lives, however slow the other one is
    second = start([str(script), *words])
    _, errors = second.communicate(timeout=300)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert errors.startswith(f"fairlead: {out} is held by process {first.pid} on host"), errors
    ended(first)
    return len(list(out.glob("*.png")))


def test_what_is_not_shared_is_refused_under_torchrun(tiny_run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from fairlead.cli import main

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    commands = {
        "sample": [str(tiny_run), "--out", str(tmp_path / "out")],
        "tune": [str(tiny_run), "--out", str(tmp_path / "out")],
        "measure": ["a", "b", "--out", str(tmp_path / "out")],
        "demo": ["--out", str(tmp_path / "out")],
        "interpolate": [str(tiny_run), "--cond", "1", "2", "--out", str(tmp_path / "out")],
        "edit": [str(tiny_run), "--images", "digits", "--out", str(tmp_path / "out")],
        "export": [str(tiny_run), str(tmp_path / "out")],
        "report": [str(tmp_path)],
    }
    for name, words in commands.items():
        assert main([name, *words]) == 2
        assert capsys.readouterr().err.startswith(f"fairlead: {name} runs in one process, and 2 were started")
    assert list(tmp_path.iterdir()) == []
