"""Training behind a bar: Ctrl-C leaves a checkpoint to go on from, wherever it falls; the loss shown is a true one."""

import os
import signal
from types import SimpleNamespace

import pytest

from fairlead.train import session
from fairlead.train.checkpoint import find_checkpoint, steps_of
from fairlead.train.loop import Training
from fairlead.train.session import train_to_end
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, trained


def interrupt_in(training: Training, step: int) -> None:
    """A Ctrl-C while this step is taken."""
    take_step = training.take_step

    def interrupted():
        if training.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step()

    training.take_step = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [1, 2, 3], ids=["no save", "snapshot", "checkpoint"])
def test_ctrl_c_leaves_a_checkpoint_of_its_step(tmp_path, step):
    config = tiny_config(snapshot_every=2, checkpoint_every=3)
    training = Training(digits(), config, tmp_path / "run")
    interrupt_in(training, step)
    saved, save = [], training.save

    def watched():
        saved.append(training.step)
        return save()

    training.save = watched  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train_to_end(training)
    assert find_checkpoint(f"{tmp_path}/run@{step}").has("training")
    assert saved == [step]  # not twice

    trained(config, tmp_path / "run", resume=True)
    trained(config, tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))
    assert steps_of(tmp_path / "run") == [2, 4, 6]


def test_the_loss_shown_after_resuming_starts_at_the_first_loss(tmp_path, capsys):
    config = tiny_config(checkpoint_every=5)
    trained(config, tmp_path, until=5)
    training = Training(digits(), config, tmp_path, resume=True)
    losses = []
    take_step = training.take_step

    def watched():
        result = take_step()
        losses.append(float(result[0]))
        return result

    training.take_step = watched  # type: ignore[method-assign]
    train_to_end(training)
    assert len(losses) == 1
    assert f"loss {losses[0]:.4f} " in capsys.readouterr().err


@pytest.mark.parametrize(("minutes", "steps"), [(10.0, [3, 6]), (0.0, [6])])
def test_a_checkpoint_comes_every_so_many_minutes(tmp_path, monkeypatch, minutes, steps):
    """With steps of four minutes, the first of at least ten is the third. It changes no bit."""
    training, saved = Training(digits(), tiny_config(checkpoint_minutes=minutes), tmp_path / "run"), []
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: 240.0 * training.step))
    save = training.save

    def watched():
        saved.append(training.step)
        return save()

    training.save = watched  # type: ignore[method-assign]
    train_to_end(training)
    assert saved == steps
    trained(tiny_config(), tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))
