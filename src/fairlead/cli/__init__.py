"""The command line. Bad input is one line on standard error and exit code 2; Ctrl-C is 130, SIGTERM 143."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Annotated, Any, TextIO, get_args

import tyro

from fairlead.cli.app import App
from fairlead.cli.demo import Demo
from fairlead.cli.distill import Distill
from fairlead.cli.doctor import Doctor
from fairlead.cli.edit import Edit
from fairlead.cli.explain import Explain
from fairlead.cli.export import Export
from fairlead.cli.helping import asked_for_help, check_names, first_paragraph, print_help
from fairlead.cli.info import Info
from fairlead.cli.interpolate import Interpolate
from fairlead.cli.measure import Measure
from fairlead.cli.push import Push
from fairlead.cli.report import Report
from fairlead.cli.sample import Sample
from fairlead.cli.streams import WRITER_STOPPED, open_streams, parser_errors_in_one_line, silenced
from fairlead.cli.sweep import Sweep
from fairlead.cli.train import Train
from fairlead.cli.train_autoencoder import TrainAutoencoder
from fairlead.cli.train_classifier import TrainClassifier
from fairlead.cli.tune import Tune
from fairlead.cli.typed_options import joined
from fairlead.core.errors import Note, Remark, UsageError
from fairlead.core.launch import refuse_several
from fairlead.core.places import unreadable
from fairlead.core.printable import printable, printable_output
from fairlead.core.signals import EndSignal, ending

ABOUT = """Train, guide, measure and tune conditional diffusion models.

Start with `fairlead demo`: it trains a small class-conditional model on handwritten digits with condition dropout,
sweeps the guidance scale, measures every setting and writes a report, in a few minutes on two cores.
`fairlead --version` says which version this is.
"""

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo", description=first_paragraph(Demo))]
    | Annotated[Train, tyro.conf.subcommand("train", description=first_paragraph(Train))]
    | Annotated[TrainClassifier, tyro.conf.subcommand("train-classifier", description=first_paragraph(TrainClassifier))]
    | Annotated[
        TrainAutoencoder, tyro.conf.subcommand("train-autoencoder", description=first_paragraph(TrainAutoencoder))
    ]
    | Annotated[Distill, tyro.conf.subcommand("distill", description=first_paragraph(Distill))]
    | Annotated[Sample, tyro.conf.subcommand("sample", description=first_paragraph(Sample))]
    | Annotated[Sweep, tyro.conf.subcommand("sweep", description=first_paragraph(Sweep))]
    | Annotated[Tune, tyro.conf.subcommand("tune", description=first_paragraph(Tune))]
    | Annotated[Report, tyro.conf.subcommand("report", description=first_paragraph(Report))]
    | Annotated[Explain, tyro.conf.subcommand("explain", description=first_paragraph(Explain))]
    | Annotated[Interpolate, tyro.conf.subcommand("interpolate", description=first_paragraph(Interpolate))]
    | Annotated[Edit, tyro.conf.subcommand("edit", description=first_paragraph(Edit))]
    | Annotated[App, tyro.conf.subcommand("app", description=first_paragraph(App))]
    | Annotated[Measure, tyro.conf.subcommand("measure", description=first_paragraph(Measure))]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", description=first_paragraph(Doctor))]
    | Annotated[Export, tyro.conf.subcommand("export", description=first_paragraph(Export))]
    | Annotated[Push, tyro.conf.subcommand("push", description=first_paragraph(Push))]
    | Annotated[Info, tyro.conf.subcommand("info", description=first_paragraph(Info))]
)

COMMANDS: dict[str, Any] = {get_args(entry)[1].name: get_args(entry)[0] for entry in get_args(Command)}

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
                print(message if issubclass(category, Remark) else f"fairlead: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or what the command itself says (``doctor``: 1 if something fails).

    2 is wrong input, arguments or places; 130 Ctrl-C; 141 a reader that left, as in ``fairlead info | head -1``, which
    is no error and prints nothing.
    """
    open_streams()
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        silenced(sys.stdout)
        return WRITER_STOPPED
    except OSError as error:  # standard output itself, on a full disk
        silenced(sys.stdout)
        return _refused(f"{unreadable(error, 'standard output')}")


def _run(arguments: Sequence[str] | None) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(_version())
        return 0
    try:
        if given and (known := COMMANDS.get(given[0])) is not None:
            if asked_for_help(given[1:]):
                print_help(given[0], known, given[1:])
            check_names(given[0], known, given[1:])
        with parser_errors_in_one_line(given):
            command: Any = tyro.cli(
                Command,
                prog="fairlead",
                description=ABOUT,
                args=[*given[:1], *joined(given[1:], COMMANDS.get(given[0]))] if given else given,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        _check_texts(command)
        with printable_output(), _notes_in_one_line(), ending():
            if not isinstance(command, _SHARED):
                refuse_several(type(command).__name__.lower())
            code: int | None = command.run()
    except UsageError as error:
        return _refused(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refused(f"{unreadable(error)}; check the path, its permissions and the space on its disk")
    except KeyboardInterrupt as interruption:
        print("fairlead: interrupted", file=sys.stderr)
        return interruption.code if isinstance(interruption, EndSignal) else 130
    except SystemExit as end:  # --help
        return int(end.code or 0)
    return code or 0


def _refused(message: str) -> int:
    print(f"fairlead: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return 2


def _version() -> str:
    from importlib.metadata import version
    from platform import python_version

    import fairlead

    return f"fairlead {fairlead.__version__} (torch {version('torch')}, Python {python_version()})"


def _check_texts(command: Any) -> None:
    """Raise UsageError for an option with a null character, which no file, class or expression has."""
    for field in fields(command):
        value = getattr(command, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if "\0" in str(text):
                raise UsageError(f"--{field.name.replace('_', '-')} holds a null character; leave it out")
