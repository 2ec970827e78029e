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
        path, text = write_report(self.sweep)
        print(f"{text}\nreport: {path}")


def write_report(folder: Path, extra: tuple[Section, ...] = ()) -> tuple[Path, str]:
    """FOLDER/report.html and the recommendation in it; ``extra`` sections stand between the sweep's pictures and its
    table. FOLDER/tradeoff.png beside it, where there is a trade-off over a scale to draw. Where FOLDER/tuned.json says
    what a search found, its latest answer is what is recommended, and the sections of the search come too."""
    from fairlead.core.errors import UsageError
    from fairlead.core.files import replacing
    from fairlead.core.places import check_folder
    from fairlead.measure.score import Floor
    from fairlead.report.sweep import sweep_page, sweep_plot
    from fairlead.report.tune import choice_of, search_sections
    from fairlead.tune.constraint import Constraint
    from fairlead.tune.front import sweep_front
    from fairlead.tune.recommend import recommend_swept
    from fairlead.tune.store import SweepFolder
    from fairlead.tune.tuning import read_answers

    stored = SweepFolder(folder)
    about, points = stored.read()
    check_folder(folder, "copy the sweep to a folder that can be written", files=["report.html", "tradeoff.png"])
    answers = read_answers(folder / "tuned.json") if (folder / "tuned.json").is_file() else []
    choice = choice_of(answers[0], points) if answers else None
    rules = [Constraint.parse(text) for text in answers[0]["constraints"]] if choice else []
    sections = (*search_sections(answers), *extra)
    path = folder / "report.html"
    try:
        sweep_page(
            path, about, points, sections, sweep_front(stored, points), choice, rules, features=stored.reference.d
        )
        figure = sweep_plot(points, Floor.from_dict(about["floor"]), choice.point if choice else None)
        if figure is not None:
            with replacing(folder / "tradeoff.png", durable=False) as partial:
                figure.savefig(partial, format="png", dpi=110)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the sweep itself is whole") from error
    return path, (choice or recommend_swept(points)).text
