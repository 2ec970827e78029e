"""Two processes train what one would: the global batch does not depend on how many share it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairlead.train.checkpoint import find_checkpoint
from tests.train.tiny import tiny_config, trained

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.train.tiny import tiny_config, trained
training, records = trained(tiny_config(steps=4, drop=0.3, lr=4e-4), Path(sys.argv[2]))
assert training.accelerator.num_processes == 2
Path(sys.argv[2], f"loss-{training.accelerator.process_index}").write_text(json.dumps([r.loss for r in records]))
"""


STOPPED = """
import os
import signal
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from fairlead.train.session import train_to_end
from fairlead.train.loop import Training
from tests.train.tiny import digits, tiny_config
out = Path(sys.argv[2])
training = Training(digits(), tiny_config(steps=50, snapshot_every=3), out)
rank, take_step = training.accelerator.process_index, training.take_step
def interrupted():
    if rank == 1 and training.step == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return take_step()
training.take_step = interrupted
try:
    train_to_end(training)
except KeyboardInterrupt:
    Path(out, f"stopped-{rank}").write_text(str(training.step))
"""


def in_two_processes(script: str, folder: Path, out: Path) -> None:
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += [str(folder / "script.py"), str(ROOT), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_at_the_same_step(tmp_path):
    in_two_processes(STOPPED, tmp_path, tmp_path / "two")
    assert [(tmp_path / "two" / f"stopped-{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert find_checkpoint(f"{tmp_path}/two@3").has("training")


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    in_two_processes(SCRIPT, tmp_path, tmp_path / "two")
    training, records = trained(tiny_config(steps=4, drop=0.3, lr=4e-4), tmp_path / "one")
    one, two = find_checkpoint(tmp_path / "one"), find_checkpoint(tmp_path / "two")
    assert (one.about["processes"], two.about["processes"]) == (1, 2)
    average, averages, moments = one.tensors("ema"), two.tensors("ema"), one.tensors("training")
    count = felt = 0
    for i, (key, _) in enumerate(training.network.named_parameters()):
        # a bias before a norm has no effect: its gradient is rounding, which Adam blows up to the learning rate
        real = moments[f"{i}.exp_avg_sq"].sqrt() > 1e-8
        torch.testing.assert_close(averages[key][real], average[key][real], rtol=0, atol=1e-5)
        count, felt = count + real.numel(), felt + int(real.sum())
    assert len(average) == len(averages) == i + 1
    assert felt > 0.8 * count
    losses = [json.loads((tmp_path / "two" / f"loss-{rank}").read_text()) for rank in range(2)]
    assert losses[0] == losses[1] == pytest.approx([record.loss for record in records], rel=1e-5)
