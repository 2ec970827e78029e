"""python -m benchmarks.studies NAME ... --out runs/studies [--docs docs/results/studies]"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.studies.runner import Bench, Study, write_page
from fairlead.core.errors import unknown
from fairlead.core.places import check_folder

NAMES = (
    "evaluation", "tradeoff", "dropout", "schedules", "intervals", "steps", "thresholds", "conditioning", "classifier",
    "one_row", "particles",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Measure one of the lessons' claims, or several."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Studies; "all" for every one."""
    out: Path = Path("runs/studies")
    """Trainings and measurements; what is there is not made again."""
    docs: Path | None = None
    """Where the pages go; default OUT/pages. What a page says above its tables is kept."""
    n: int = 300
    """Images of a setting and training."""
    trainings: tuple[int, ...] = (0, 1)
    """Seeds of the trainings."""


def study_of(name: str) -> Study:
    if name not in NAMES:
        raise unknown("study", name, NAMES)
    study: Study = import_module(f"benchmarks.studies.{name}").STUDY
    return study


def main(options: Options) -> None:
    studies = [study_of(name) for name in (NAMES if options.names == ("all",) else options.names)]
    pages = options.docs or options.out / "pages"
    for folder in (options.out, pages):
        check_folder(folder)
    bench = Bench(options.out, options.n, options.trainings)
    for study in studies:
        sizes = "" if bench == Bench(options.out, Options.n, Options.trainings) else (
            f" --n {options.n} --trainings {' '.join(map(str, options.trainings))}"
        )  # fmt: skip
        command = f"python -m benchmarks.studies {study.name} --out {shlex.quote(str(options.out))}{sizes}"
        path = write_page(pages, study, study.run(bench), command)
        print(f"page: {path}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options, description=__doc__))
