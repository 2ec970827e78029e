"""``fairlead report``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Write report.html from the results of a sweep, one file that contains its pictures. The trade-off over the scale
    is also written as tradeoff.png.

    Example: fairlead report runs/digits/sweep
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    """Folder of a sweep."""

    def run(self) -> None:
        from fairlead.cli.sweep import said_by_class
        from fairlead.report.sweeps import report

        found = report(self.sweep)
        print("\n".join([found.choice.text, *said_by_class(found.by_class), f"report: {found.path}"]))
