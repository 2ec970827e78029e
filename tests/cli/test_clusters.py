"""The scripts of docs/clusters.md, with a queue that only writes down what it is asked for."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairlead.core.hold import NAME
from fairlead.train.checkpoint import find_checkpoint, steps_of
from tests.cli.test_kills import OF_TWO, TRAINING
from tests.cli.test_sweep_processes import ENVIRONMENT, ended, script, start

__all__ = ["script"]  # a fixture
PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
LAUNCHER = shlex.join([sys.executable, "-m", "torch.distributed.run"])


@pytest.mark.slow
def test_the_slurm_script_saves_requeues_and_resumes(script: Path, tmp_path: Path) -> None:
    (text,) = [block for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL) if "trap" in block]
    out = tmp_path / "run"
    training = shlex.join([*TRAINING, "--steps", "4000", "--out", str(out)])
    for written, here in (
        ("torchrun --nproc_per_node 4", f"{LAUNCHER} --standalone --nproc_per_node 2"),
        ('"$(which fairlead)"', str(script)),
        ("train --recipe cifar10 --out runs/cifar10", training),
    ):
        assert text.count(written) == 1
        text = text.replace(written, here)
    (tmp_path / "job.sh").write_text(text)
    queue = tmp_path / "scontrol"
    queue.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n')
    queue.chmod(0o755)
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", str(tmp_path / "job.sh")], env=environment)
    while not steps_of(out) and job.poll() is None:
        time.sleep(0.05)
    seen = steps_of(out)[-1]
    job.send_signal(signal.SIGUSR1)
    job.wait(timeout=300)
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    last = steps_of(out)[-1]
    assert last >= seen
    checkpoint = find_checkpoint(out)
    assert (checkpoint.step, checkpoint.about["processes"]) == (last, 2)
    assert not (out / NAME).exists()
    ended(start([str(script), *TRAINING, "--steps", str(last + 2), "--out", str(out), "--resume"], OF_TWO))
    assert steps_of(out)[-1] == last + 2


@pytest.mark.slow
def test_two_nodes_train_the_network_of_two_processes(script: Path, tmp_path: Path) -> None:
    text = PAGE.read_text()
    (command,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "--nnodes" in block]
    words = shlex.split(command.replace("\\\n", " ").replace("$(which fairlead)", str(script)))
    at = words.index("--")
    options = [word.replace("node0:29500", "localhost:29513") for word in words[1:at]]
    options[options.index("--nproc_per_node") + 1] = "1"
    training = [str(script), *TRAINING, "--out", str(tmp_path / "nodes"), "--resume"]
    launcher = ("-m", "torch.distributed.run", *options, "--")
    nodes = [start(training, launcher) for _ in range(2)]
    for node in nodes:
        ended(node)
    ended(start([str(script), *TRAINING, "--out", str(tmp_path / "two")], OF_TWO))
    one, other = find_checkpoint(tmp_path / "nodes"), find_checkpoint(tmp_path / "two")
    assert one.about["processes"] == other.about["processes"] == 2
    assert one.about["files"] == other.about["files"]  # the same bits
