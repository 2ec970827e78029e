"""The processes that share a sweep, as ``accelerate launch`` or ``torchrun`` start them; one where nobody did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from fairlead.core.launch import Launch

PATIENCE = timedelta(days=7)
"""How long a process waits for another: the main one may train its judges first."""


@dataclass(frozen=True, eq=False)
class Workers:
    """This process among ``count``: number ``index``, computing on ``device`` (a name, or "auto")."""

    index: int = 0
    count: int = 1
    device: str = "auto"

    @classmethod
    def launched(cls, device: str = "auto") -> Workers:
        """As the environment says. With several processes a GPU each, if there are any and ``device`` allows it.

        Raises:
            UsageError: as ``Launch.here``.
        """
        launch = Launch.here()
        if launch.count == 1:
            return cls(device=device)
        if not distributed.is_initialized():  # they share files and a few words, tensors never
            distributed.init_process_group("gloo", timeout=PATIENCE)
        if device == "auto":
            gpus = torch.cuda.device_count()
            device = f"cuda:{launch.local % gpus}" if gpus else "cpu"
        return cls(launch.rank, launch.count, device)

    @property
    def main(self) -> bool:
        """Whether this process scores, prints and writes the table."""
        return self.index == 0

    def share(self, value: Any) -> Any:
        """The main process's ``value``, in every process; the others wait for it."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()
