"""Which process this is among those of one launch, as torchrun and ``accelerate launch`` say in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fairlead.core.errors import UsageError

_OF_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_OTHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
"""Variable with the number of processes -> who sets it without those of torch."""


@dataclass(frozen=True)
class Launch:
    """This process among ``count`` that share one task: number ``rank``, number ``local`` on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def here(cls) -> Launch:
        """As the environment says; one process where nobody launched several.

        Raises:
            UsageError: if several were started in a way that leaves each of them alone with the whole task (srun or
                mpirun by themselves), or the variables of torch.distributed are not whole.
        """
        given = {name: os.environ[name] for name in _OF_TORCH if os.environ.get(name)}
        if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(given):
            _refuse_others()
            return cls()
        rank, count, local = (_number(name, given.get(name)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        missing = [name for name in _OF_TORCH if name not in given]
        if missing:
            raise UsageError(
                f"the environment has {', '.join(given)} but not {', '.join(missing)}: expected all that torchrun "
                "sets, or none; start with torchrun, or unset them"
            )
        assert rank is not None
        assert count is not None
        assert local is not None
        if not 0 <= rank < count or not 0 <= local < count:
            raise UsageError(
                f"the environment has RANK={rank} and LOCAL_RANK={local}, expected 0 to WORLD_SIZE - 1 = {count - 1}; "
                "start with torchrun, or unset them"
            )
        return cls(rank, count, local)

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


def refuse_several(what: str) -> None:
    """Raise UsageError if this is one of several processes that torchrun or ``accelerate launch`` started."""
    if os.environ.get("RANK") and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"{what} runs in one process, and {os.environ['WORLD_SIZE']} were started (WORLD_SIZE), which would all "
            "do the same; start it without torchrun or accelerate launch"
        )


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise UsageError(f"the environment has {name}={text!r}, expected a number; start with torchrun, or unset it")
    return int(text)


def _refuse_others() -> None:
    for name, launcher in _OF_OTHERS.items():
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 1:
            raise UsageError(
                f"{launcher} started {text} processes ({name}), and each would do all the work by itself; let it "
                f"start torchrun, which starts the processes, or unset {name} in each to run them separately"
            )
    rank = os.environ.get("SLURM_PROCID", "")
    if rank.isdecimal() and int(rank) > 0:
        raise UsageError(
            f"srun started several processes (SLURM_PROCID={rank}), and each would do all the work by itself; let "
            "it start torchrun, which starts the processes, or unset SLURM_PROCID in each to run them separately"
        )
