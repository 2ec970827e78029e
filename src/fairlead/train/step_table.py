"""What is noted of a run as it goes: CSV files beside its checkpoints, with the step in their first column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing


class StepTable:
    """A CSV file to which lines are added while a run goes on; each can be read as soon as it is added.

    Args:
        path: of the file.
        columns: their names; the first is the step.
        step: at which the run goes on. Lines up to it stay and later ones go, so that the table of a run that was
            interrupted is that of one nobody disturbed. A file of other columns begins anew.

    Raises:
        UsageError: if the file cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self._path, self._columns = path, list(columns)
        kept = [row for row in read_table(path, columns) if float(row[0]) <= step]
        try:
            with replacing(path, durable=False) as partial:
                partial.write_text(_lines([self._columns, *kept]))
            self._file = open(path, "a", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise self._cannot(error) from error

    def add(self, *values: float) -> None:
        """A line, its numbers with six digits."""
        assert len(values) == len(self._columns)
        try:
            self._file.write(_lines([[str(v) if isinstance(v, int) else f"{v:.6g}" for v in values]]))
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write {self._path}: {error}; the last checkpoint is whole")


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The lines of a table of these columns, but for what is no line of numbers, such as one that a kill has torn; none
    where there is no such file."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text())))
    except (OSError, ValueError, csv.Error):
        return []
    if not rows or rows[0] != list(columns):
        return []
    return [row for row in rows[1:] if len(row) == len(columns) and all(map(_is_number, row))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
