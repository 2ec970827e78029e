"""The command line. Bad input is one line on standard error and exit code 2; Ctrl-C is 130, SIGTERM 143."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TextIO

import tyro

from fairlead.cli.demo import Demo
from fairlead.cli.doctor import Doctor
from fairlead.cli.explain import Explain
from fairlead.cli.export import Export
from fairlead.cli.info import Info
from fairlead.cli.interpolate import Interpolate
from fairlead.cli.measure import Measure
from fairlead.cli.report import Report
from fairlead.cli.sample import Sample
from fairlead.cli.sweep import Sweep
from fairlead.cli.train import Train
from fairlead.cli.train_autoencoder import TrainAutoencoder
from fairlead.cli.train_classifier import TrainClassifier
from fairlead.cli.tune import Tune
from fairlead.core.errors import Note, UsageError
from fairlead.core.launch import refuse_several
from fairlead.core.printable import printable, printable_output
from fairlead.core.signals import Ended, ending

ABOUT = """Train, guide, measure and tune conditional diffusion models.

Start with `fairlead demo`: it trains a small class-conditional model on handwritten digits with condition dropout,
sweeps the guidance scale, measures every setting and writes a report, in a few minutes on two cores.
"""

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[TrainClassifier, tyro.conf.subcommand("train-classifier")]
    | Annotated[TrainAutoencoder, tyro.conf.subcommand("train-autoencoder")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Explain, tyro.conf.subcommand("explain")]
    | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
    | Annotated[Measure, tyro.conf.subcommand("measure")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)

_SHARED = (Train, TrainClassifier, TrainAutoencoder, Sweep)
"""Commands whose work several processes share, as torchrun starts them."""


@contextmanager
def _notes_in_one_line() -> Iterator[None]:
    """Notes on standard error as errors are, without the place in the code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, Note):
                print(f"fairlead: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or what the command itself says (``doctor``: 1 if something fails).
    Argument errors exit with 2 from the parser itself."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    command = tyro.cli(
        Command,
        prog="fairlead",
        description=ABOUT,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        with printable_output(), _notes_in_one_line(), ending():
            if not isinstance(command, _SHARED):
                refuse_several(type(command).__name__.lower())
            code = command.run()
    except UsageError as error:
        print(f"fairlead: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print("fairlead: interrupted", file=sys.stderr)
        return interruption.code if isinstance(interruption, Ended) else 130
    return code or 0
