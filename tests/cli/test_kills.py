"""Killed at any moment, in any way, and started again with the same command, trainings and sweeps give the bits of one
that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairlead.core.hold import NAME
from fairlead.train.checkpoint import steps_of
from tests.cli.test_sweep_processes import command, ended, same, script, start, whole
from tests.train.tiny import same_bits, tensors_of
from tests.tune.made import table

__all__ = ["script", "whole"]  # fixtures
KINDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
TRAINING = [
    *("train", "--steps", "30", "--channels", "8", "--batch-size", "16", "--warmup", "4", "--precision", "fp32"),
    *("--checkpoint-every", "4", "--snapshot-every", "10"),
]


def killed(words: list[str], out: Path, kind: signal.Signals, after: float) -> int | None:
    """Start, and send a signal so many seconds after the folder is held; the exit code, None if it had ended before."""
    process = start(words)
    try:
        while not (out / NAME).exists() and process.poll() is None:
            time.sleep(0.005)
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
    else:
        return None
    printed, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors[-2000:]
    code = process.returncode
    # ended in order, killed, or just before it ended by itself or could handle signals
    assert code in (128 + kind, -kind, 0), (code, printed, errors[-2000:])
    return code


def trained_under(script: Path, out: Path, kills: int, seed: int, longest: float) -> int:
    """Kill a training so many times, then let it end; how many kills came before its end."""
    chance, came = random.Random(seed), 0
    for i in range(kills):
        words = [str(script), *TRAINING, "--out", str(out), "--resume"]
        came += killed(words, out, KINDS[i % 3], chance.uniform(0, longest)) is not None
        if steps_of(out)[-1:] == [30]:
            break
    ended(start([str(script), *TRAINING, "--out", str(out), "--resume"]))
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
    assert [path.name for path in out.iterdir()] == [f"step-{last:06d}"]


@pytest.mark.slow
def test_a_training_killed_thirty_times_has_the_bits_of_one_run(script: Path, tmp_path: Path) -> None:
    ended(start([str(script), *TRAINING, "--out", str(tmp_path / "whole")]))
    came = 0
    for seed in range(100):
        out = tmp_path / f"run-{seed}"
        came += trained_under(script, out, min(4, 30 - came), seed, 6.0)
        assert same_bits(tensors_of(out), tensors_of(tmp_path / "whole"))
        assert steps_of(out) == [10, 20, 30]
        if came >= 30:
            return
    raise AssertionError(f"{came} kills came in time")


@pytest.mark.slow
def test_a_sweep_killed_thirty_times_has_the_bits_of_one_run(
    tiny_run: Path, script: Path, whole: Path, tmp_path: Path
) -> None:
    chance, came = random.Random(0), 0
    for number in range(100):
        out = tmp_path / f"s-{number}"
        for i in range(min(5, 30 - came)):
            words = [str(script), *command(tiny_run, out)]
            came += killed(words, out, KINDS[i % 3], chance.uniform(0, 8)) is not None
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
    while not (out / NAME).exists() and first.poll() is None:
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
