"""The tables beside a run: those of a run that was killed and goes on are those of one nobody disturbed."""

from pathlib import Path

import pytest

from fairlead.core.errors import UsageError
from fairlead.train.loop import Training
from fairlead.train.session import LOSSES, train_to_end
from fairlead.train.step_table import StepTable, read_table
from tests.train.tiny import digits, tiny_config

COLUMNS = ("step", "loss")


def test_lines_are_there_as_soon_as_they_are_added_and_those_after_the_checkpoint_go(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    table = StepTable(path, COLUMNS, 0)
    for step in range(1, 5):
        table.add(step, step / 3)
    assert path.read_text() == "step,loss\n1,0.333333\n2,0.666667\n3,1\n4,1.33333\n"
    with path.open("a") as file:
        file.write("5,1.6")  # a kill tears a line: it reads as a number, and is after the checkpoint
    StepTable(path, COLUMNS, 3).close()
    assert read_table(path, COLUMNS) == [["1", "0.333333"], ["2", "0.666667"], ["3", "1"]]
    with path.open("a") as file:
        file.write("4")
    assert len(read_table(path, COLUMNS)) == 3
    assert read_table(path, ("step", "other")) == []
    assert read_table(tmp_path / "none.csv", COLUMNS) == []


def test_a_table_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loss.csv").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*loss.csv: .*; the last checkpoint is whole"):
        StepTable(tmp_path / "loss.csv", COLUMNS, 0)


def test_the_losses_of_a_resumed_run_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    config = tiny_config(checkpoint_every=2)
    train_to_end(Training(digits(), config, tmp_path / "plain"))

    def killed(training: Training, record: object) -> None:
        if training.step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        train_to_end(Training(digits(), config, tmp_path / "run"), killed)
    assert [row[0] for row in read_table(tmp_path / "run" / "loss.csv", LOSSES)] == list("12345")
    resumed = Training(digits(), config, tmp_path / "run", resume=True)
    assert resumed.step == 4
    train_to_end(resumed)
    assert (tmp_path / "run" / "loss.csv").read_bytes() == (tmp_path / "plain" / "loss.csv").read_bytes()
    train_to_end(Training(digits(), config, tmp_path / "run", resume=True))  # trained already: the table stays
    assert len(read_table(tmp_path / "run" / "loss.csv", LOSSES)) == 6
