"""``fairlead push``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fairlead.core.progress import bars


@dataclass(frozen=True)
class Push:
    """Upload a training run to the hub, with its tuned guidance and a card: data, null, schedule, best scale, limits.

    fl.load("owner/name") and every command that takes a run can then load it. The account is that of `hf auth login`
    or HF_TOKEN; with HF_HUB_OFFLINE nothing is uploaded.

    Example: fairlead push runs/digits me/digits
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    name: Annotated[str, tyro.conf.Positional]
    """Repository, owner/name; an existing one gets a new version."""
    private: bool = False
    """Make a new repository private."""

    def run(self) -> None:
        from fairlead.report.sharing import push

        address = push(self.model, self.name, private=self.private, progress=bars)
        print(f"{address}; load it with fl.load({self.name!r})")
