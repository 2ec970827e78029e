"""Processes, and parts of a batch, train what one process would: the batch does not depend on how many share it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.loop import StepRecord, Training
from tests.train.tiny import digits, tiny_config, tiny_net, trained

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.train.test_distributed import parted
out, accumulate, precision, optimizer = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
training, records = parted(out, accumulate, precision, optimizer)
Path(out, f"loss-{training.accelerator.process_index}").write_text(json.dumps([r.loss for r in records]))
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


def in_processes(count: int, script: str, folder: Path, out: Path, *more: str) -> None:
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--standalone"]
    command += [str(folder / "script.py"), str(ROOT), str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-2000:]


def parted(
    out: Path,
    accumulate: int = 1,
    precision: str = "fp32",
    optimizer: str = "adamw",
    resume: bool = False,
    until: int | None = None,
) -> tuple[Training, list[StepRecord]]:
    """24 steps of 32 samples, the share of each process in so many parts. Norms take several channels: a bias before
    one of a single channel has no effect, and moves as rounding has it."""
    config = tiny_config(
        net=tiny_net(channels=16), steps=24, batch_size=32, drop=0.3, accumulate=accumulate, precision=precision,
        optimizer=optimizer, checkpoint_every=12,
    )  # fmt: skip
    return trained(config, out, until, resume)


def apart(one: Path, other: Path) -> float:
    """The largest difference of an averaged weight."""
    weights, others = (find_checkpoint(out).tensors("ema") for out in (one, other))
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_at_the_same_step(tmp_path):
    in_processes(2, STOPPED, tmp_path, tmp_path / "two")
    assert [(tmp_path / "two" / f"stopped-{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert find_checkpoint(f"{tmp_path}/two@3").has("training")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A run of one process, which takes each batch whole, and its losses."""
    out = tmp_path_factory.mktemp("parts") / "one"
    return out, [record.loss for record in parted(out)[1]]


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_trains_the_network_of_the_whole(one, tmp_path, parts):
    out, losses = one
    _, records = parted(tmp_path / "parts", parts)
    assert apart(out, tmp_path / "parts") < 2e-5
    assert [record.loss for record in records] == pytest.approx(losses, rel=1e-5)


def gradient(accumulate: int, precision: str) -> torch.Tensor:
    """Of a batch, in float64; the weights are moved from where they start, at which most gradients are 0."""
    config = tiny_config(net=tiny_net(channels=16), batch_size=32, clip=1e9, accumulate=accumulate, precision=precision)
    training = Training(digits(), config, None)
    seen: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in training.network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    training.optimizer.step = lambda: seen.extend(p.grad.double().flatten() for p in training.network.parameters())
    training.take_step()
    return torch.cat(seen)


@pytest.mark.parametrize(("precision", "rounding"), [("fp32", 2.0**-20), ("bf16", 2.0**-7)])
def test_the_gradient_of_the_parts_is_that_of_the_whole_to_the_rounding_of_its_precision(precision, rounding):
    """bf16 keeps 8 bits of each part's gradients, which is why weights trained in it part by about 1e-3 in 24 steps."""
    whole, parts = gradient(1, precision), gradient(4, precision)
    assert float((parts - whole).norm() / whole.norm()) < rounding
    if precision == "bf16":
        assert float((parts - whole).norm() / whole.norm()) > 2.0**-16


def test_dropout_is_that_of_the_parts_whoever_takes_them(tmp_path):
    """Two parts of one process have the masks of two processes: the seed of a part is its place in the batch."""
    drawn = []

    def seeded(seed):
        drawn.append(seed)
        return torch.default_generator

    training = Training(digits(), tiny_config(net=tiny_net(dropout=0.3), accumulate=2), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", seeded)
        training.take_step()
        training.take_step()
    assert drawn == [0, 1, 2, 3]


def test_a_batch_that_cannot_be_parted_is_refused():
    with pytest.raises(UsageError, match="batch size 8 cannot be shared evenly by 1 processes in 3 parts each"):
        Training(digits(), tiny_config(accumulate=3), None)
    with pytest.raises(UsageError, match="accumulate: expected at least 1, got 0"):
        tiny_config(accumulate=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "accumulate", "optimizer"), [(2, 1, "adamw"), (4, 1, "adamw"), (2, 2, "adamw"), (4, 1, "muon")]
)
def test_processes_train_the_network_of_one(one, tmp_path, count, accumulate, optimizer):
    """In float32 all weights of 24 steps agree to 2e-5, at a learning rate of 2e-3."""
    out, losses = one
    if optimizer != "adamw":
        out = tmp_path / "one"
        losses = [record.loss for record in parted(out, optimizer=optimizer)[1]]
    shared = tmp_path / "shared"
    in_processes(count, SCRIPT, tmp_path, shared, str(accumulate), "fp32", optimizer)
    assert find_checkpoint(shared).about["processes"] == count
    assert apart(out, shared) < 2e-5
    found = [json.loads((shared / f"loss-{rank}").read_text()) for rank in range(count)]
    assert all(each == found[0] for each in found)
    assert found[0] == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_in_other_processes(one, tmp_path):
    """12 steps in one process, 12 in four, in two parts each."""
    shared, (out, _) = tmp_path / "shared", one
    parted(shared, until=12)
    script = SCRIPT.replace("optimizer)\n", "optimizer, resume=True)\n", 1)
    in_processes(4, script, tmp_path, shared, "2", "fp32", "adamw")
    assert find_checkpoint(shared).about["processes"] == 4
    assert apart(out, shared) < 2e-5
