"""Which process of a launch this is: the whole of torchrun's variables, or none."""

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.launch import Launch, refuse_several

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
OTHERS = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *OTHERS):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_one_process_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.here() == Launch(0, 1, 0)
    assert Launch.here().main
    given(monkeypatch, MASTER_ADDR="host", MASTER_PORT="29500")  # of a batch script
    assert Launch.here() == Launch(0, 1, 0)


def test_as_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **TORCHRUN)
    assert Launch.here() == Launch(3, 4, 1)
    assert not Launch.here().main
    given(monkeypatch, SLURM_STEP_NUM_TASKS="4", OMPI_COMM_WORLD_SIZE="4")  # which started torchrun
    assert Launch.here() == Launch(3, 4, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "has WORLD_SIZE but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: .*; start with torchrun",
        ),
        ({"LOCAL_RANK": "0"}, "has LOCAL_RANK but not RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({**TORCHRUN, "MASTER_PORT": ""}, "but not MASTER_PORT: expected all that torchrun sets"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE='two', expected a number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK='-1', expected a number"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4 and LOCAL_RANK=1, expected 0 to WORLD_SIZE - 1 = 3"),
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            "srun started 2 processes .*; let it start torchrun, which starts the processes, or unset",
        ),
        ({"SLURM_PROCID": "1"}, "srun started several processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
        ({"PMI_SIZE": "8"}, "mpirun started 8 processes"),
    ],
)
def test_what_leaves_each_process_alone_with_all_of_the_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    given(monkeypatch, **variables)
    with pytest.raises(UsageError, match=message):
        Launch.here()


def test_a_batch_script_of_several_tasks_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1")
    assert Launch.here() == Launch()


def test_work_that_is_not_shared_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_several("sample")
    given(monkeypatch, WORLD_SIZE="2")  # exported for a torchrun of later
    refuse_several("sample")
    given(monkeypatch, RANK="0")
    with pytest.raises(
        UsageError, match=r"sample runs in one process, and 2 were started .*; start it without torchrun"
    ):
        refuse_several("sample")
