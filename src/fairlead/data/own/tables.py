"""Rows of a file of JSON lines, CSV or parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.places import read_bytes
from fairlead.core.strict_json import parse_json

FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
"""Names of the column that says which image a row is about; the first of them counts."""


def read_rows(path: Path, what: str) -> list[tuple[int, Any]]:
    """(number, what it says) of every row: of its line, or in parquet of the row, from 1.

    Lines end with a line feed, before which there may be a carriage return; no other separator of Unicode ends one, and
    in CSV a quoted field may hold line feeds. Values of CSV are text, absent ones None.

    Args:
        what: it is, for messages.

    Raises:
        UsageError: one line, if it cannot be read; if a row of a CSV has more fields than the header, or that has a
            name twice.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet(read_bytes(path, what))
        text = read_bytes(path, what).decode("utf-8-sig")
        return _csv(text) if kind == ".csv" else _json_lines(text)
    except UsageError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{what} {path}: cannot be read ({reason}); expected JSON lines or a .csv in UTF-8") from error


def _json_lines(text: str) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, parse_json(line)))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def _csv(text: str) -> list[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next((fields for fields in reader if fields), [])
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"its header has {twice!r} twice")
    rows = []
    for fields in reader:
        if not fields:
            continue
        if len(fields) > len(header):
            raise ValueError(
                f"line {reader.line_num} has {len(fields)} fields and the header {len(header)}; text with a comma goes "
                "in quotes"
            )
        values = dict.fromkeys(header) | dict(zip(header, fields, strict=False))
        rows.append((reader.line_num, values))
    return rows


def _parquet(content: bytes) -> list[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return list(enumerate(parquet.read_table(io.BytesIO(content)).to_pylist(), 1))
    except (pyarrow.ArrowException, OSError, NotImplementedError, OverflowError, UnicodeError) as error:
        raise ValueError(error) from error
