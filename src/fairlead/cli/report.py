"""``fairlead report``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from fairlead.report.page import Section


@dataclass(frozen=True)
class Report:
    """Write report.html from the results of a sweep: one file, pictures inside, nothing to load. The trade-off over
    the scale is also written as tradeoff.png.

    Example: fairlead report runs/digits/sweep
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    """Folder of a sweep."""

    def run(self) -> None:
        print(f"report: {write_report(self.sweep)}")


def write_report(folder: Path, extra: tuple[Section, ...] = ()) -> Path:
    """FOLDER/report.html; ``extra`` sections stand between the sweep's pictures and its table. FOLDER/tradeoff.png
    beside it, where there is a trade-off over a scale to draw."""
    from fairlead.core.errors import UsageError
    from fairlead.core.places import check_folder
    from fairlead.measure.score import Floor
    from fairlead.report.sweep import sweep_page, sweep_plot
    from fairlead.tune.front import sweep_front
    from fairlead.tune.store import SweepFolder

    about, points = SweepFolder(folder).read()
    check_folder(folder, "copy the sweep to a folder that can be written", files=["report.html", "tradeoff.png"])
    path = folder / "report.html"
    try:
        sweep_page(path, about, points, extra, sweep_front(SweepFolder(folder), points))
        figure = sweep_plot(points, Floor.from_dict(about["floor"]))
        if figure is not None:
            figure.savefig(folder / "tradeoff.png", dpi=110)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the sweep itself is whole") from error
    return path
