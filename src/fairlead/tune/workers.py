"""The processes that share a sweep, as ``accelerate launch`` or ``torchrun`` start them; one where nobody did."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Workers:
    """This process among ``count``: number ``index``, computing on ``device`` (a name, or "auto")."""

    index: int = 0
    count: int = 1
    device: str = "auto"

    @classmethod
    def launched(cls, device: str = "auto") -> Workers:
        """As the environment says. With several processes a GPU each, if there are any and ``device`` allows it."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        from accelerate import PartialState

        cpu = device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=cpu)
        own = str(state.device) if device == "auto" else device
        return cls(state.process_index, state.num_processes, own)

    @property
    def main(self) -> bool:
        """Whether this process scores, prints and writes the table."""
        return self.index == 0

    def share(self, value: Any) -> Any:
        """The main process's ``value``, in every process; the others wait for it."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
