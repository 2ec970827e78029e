"""What a thread prepares is what the step itself would have made; it leaves with the training, in every way."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.train.checkpoint import steps_of
from fairlead.train.loop import Training
from fairlead.train.steps.feed import AHEAD, StepData, StepFeed, StepSource
from fairlead.train.steps.outcomes import Outcomes
from tests.train.tiny import PARTS, digits, same_bits, tensors_of, tiny_config, tiny_net, trained

CPU = torch.device("cpu")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fairlead-feed")]


def tensors(data: StepData) -> list[Tensor]:
    found = [data.x0, data.labels, data.draw.t, data.draw.eps, *data.draw.dropped.values()]
    for value in data.inputs:
        found += [*value.values.values(), *value.keep.values()] if isinstance(value, Condition) else [value]
    return found


def equal(a: StepData, b: StepData) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("steps", [range(6), (0, 1, 4, 2, 3, 9)], ids=["in order", "in any order"])
def test_the_thread_makes_the_data_of_the_step(steps):
    source = Training(digits(20), tiny_config(drop=0.5, steps=6), None).feed.source
    feed = StepFeed(source, 6, CPU)
    assert all(equal(feed.of(step), source.of(step)) for step in steps)
    feed.close()


def test_parts_of_a_step_are_what_as_many_processes_would_read():
    whole = Training(digits(20), tiny_config(drop=0.5), None).feed.source
    feed = StepFeed(replace(whole, parts=4), 2, CPU)
    for step in range(2):
        data = [feed.of(step, part) for part in range(4)]
        for part, own in enumerate(data):
            assert equal(own, replace(whole, rank=part, world=4).of(step))
        assert torch.equal(torch.cat([own.x0 for own in data]), whole.of(step).x0)
        assert torch.equal(torch.cat([own.inputs[0] for own in data]), whole.of(step).inputs[0])
    assert not feed._coming
    feed.close()


def test_a_network_reads_the_noised_images_and_who_lost_the_condition():
    training = Training(digits(20), tiny_config(drop=0.5, objective="eps"), None)
    data = training.feed.of(3)
    x_t, time, condition = data.inputs
    alpha, sigma = (v.float().reshape(-1, 1, 1, 1) for v in training.schedule.alpha_sigma(data.draw.t))
    torch.testing.assert_close(x_t, alpha * data.x0 + sigma * data.draw.eps, rtol=0, atol=1e-6)
    assert torch.equal(time, (data.draw.t * 1000).float())
    assert torch.equal(condition.keep["label"], ~data.draw.dropped["label"])
    assert torch.equal(condition.values["label"], data.labels)


@dataclass(frozen=True, eq=False)
class Broken(StepSource):
    def of(self, step: int, part: int = 0) -> StepData:
        if step == 3:
            raise OSError("the disk is gone")
        return super().of(step, part)


def test_what_goes_wrong_in_the_thread_is_raised_at_its_step():
    source = Training(digits(20), tiny_config(), None).feed.source
    feed = StepFeed(Broken(**vars(source)), 6, CPU)
    for step in range(3):  # made ahead, step 3 has failed by the end
        feed.of(step)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.of(3)
    feed.close()
    assert not threads()


def test_it_computes_by_itself_and_changes_no_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        feed = StepFeed(Training(digits(20), tiny_config(), None).feed.source, 6, CPU)
        feed.of(0)
        assert feed._thread is not None
        assert feed._thread.submit(torch.get_num_threads).result() == 1
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *later] == [2, 2]
        feed.close()
    finally:
        torch.set_num_threads(before)


def test_no_more_is_made_than_the_training_reads():
    source = Training(digits(20), tiny_config(), None).feed.source
    feed = StepFeed(source, 3, CPU)
    coming = []
    for step in range(3):
        feed.of(step)
        coming.append(sorted(feed._coming))
    assert AHEAD == 2
    assert coming == [[(1, 0), (2, 0)], [(2, 0)], []]
    feed.close()


def stopped(training: Training) -> None:
    for _ in training.run():
        break


def failed(training: Training) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        for _ in training.run():
            raise KeyboardInterrupt


@pytest.mark.parametrize("end", [lambda training: list(training.run()), stopped, failed])
def test_no_thread_is_left(end: Callable[[Training], object]):
    training = Training(digits(20), tiny_config(steps=3), None)
    end(training)
    assert not threads()


def test_a_training_that_is_dropped_takes_its_thread_along():
    training = Training(digits(20), tiny_config(), None)
    training.take_step()
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("fairlead-feed")]
    del training
    thread.join(timeout=60)
    assert not thread.is_alive()


ENDED = """
import sys
sys.path.insert(0, sys.argv[1])
from fairlead.train.loop import Training
from tests.train.tiny import digits, tiny_config
training = Training(digits(20), tiny_config(steps=1000), None)
steps = training.run()
next(steps)
next(steps)
raise KeyboardInterrupt
"""


def test_a_process_ends_in_the_middle_of_a_training():
    """Neither hanging on its thread nor killed by it."""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", ENDED, str(root)], capture_output=True, text=True, timeout=300)
    assert ended.returncode in (1, -2, 130)
    assert ended.stderr.strip().endswith("KeyboardInterrupt"), ended.stderr


@pytest.mark.parametrize("every", [4, 100])
def test_when_the_outcomes_are_read_changes_no_bit(tmp_path: Path, every: int):
    config = tiny_config(checkpoint_every=3, snapshot_every=2, net=tiny_net(dropout=0.1))
    _, straight = trained(config, tmp_path / "each")
    training = Training(digits(), config, tmp_path / "some")
    training.outcomes.every = every
    records = list(training.run())
    assert [(r.step, r.loss, r.grad_norm) for r in records] == [(r.step, r.loss, r.grad_norm) for r in straight]
    assert same_bits(tensors_of(tmp_path / "each"), tensors_of(tmp_path / "some"))
    assert len(PARTS) == 3


def outcomes(every: int) -> tuple[Outcomes, list[int]]:
    logged: list[int] = []
    return Outcomes(every, 0.1, lambda values, step: logged.append(step)), logged


def test_outcomes_are_read_together_and_logged_in_order():
    found, logged = outcomes(3)
    losses = [found.add(step, 0.1, torch.tensor(float(step)), torch.tensor(2.0 * step)) for step in range(1, 6)]
    assert logged == [1, 2, 3]
    assert losses[3].read() == (4.0, 8.0)  # and with it the fifth
    assert logged == [1, 2, 3, 4, 5]
    assert [loss.read()[0] for loss in losses] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("loss", "norm", "what"), [(float("nan"), 1.0, "loss"), (1.0, float("inf"), "gradient norm")])
def test_a_step_that_is_not_finite_is_named_whenever_it_is_read(loss: float, norm: float, what: str):
    """And again: a later attempt to save raises it too."""
    found, logged = outcomes(4)
    for step in (1, 2, 3):
        value = (loss, norm) if step == 2 else (1.0, 1.0)
        found.add(step, 0.1, *map(torch.tensor, value))
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"the {what} of step 2 is (nan|inf); lower --lr \(0.1\)"):
            found.read()
    assert logged == [1]


def test_nothing_is_saved_after_a_step_that_was_not_finite(tmp_path: Path):
    """Read long after it: the step is named, the snapshots and checkpoints before it stay, the caller cannot save."""
    config = tiny_config(steps=12, checkpoint_every=6, snapshot_every=2, lr=1e-3)
    training = Training(digits(), config, tmp_path)
    training.outcomes.every = 100
    steps = training.run()
    for record in steps:
        if record.step == 4:
            torch.nn.init.constant_(training.network.out.bias, float("nan"))
            training.config = replace(config, snapshot_every=0, checkpoint_every=0)
        if record.step == 8:
            break
    with pytest.raises(UsageError, match="the loss of step 5 is nan"):
        training.save()
    assert steps_of(tmp_path) == [2, 4]
