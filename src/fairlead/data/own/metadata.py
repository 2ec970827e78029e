"""Labels and captions of the images of a folder, from its metadata.jsonl, .csv or .parquet, or StyleGAN's
dataset.json."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import read_text
from fairlead.core.strict_json import read_json
from fairlead.data.own.columns import CAPTION_COLUMNS, LABEL_COLUMNS, Columns, is_no_label, sentences
from fairlead.data.own.listing import STYLEGAN, Listing
from fairlead.data.own.tables import FILE_COLUMNS, read_rows

_CAPTIONS = (".txt", ".caption")
"""Endings of files beside images that are their captions."""


@dataclass(frozen=True)
class Line:
    """What is said of one image.

    Attributes:
        path: of the image.
        where: "metadata.csv, line 3", for messages.
        values: by column, without that of the file.
    """

    path: Path
    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Metadata:
    """What the lines of all metadata files of a folder say, in their order.

    Attributes:
        lines: one or more an image.
        labels: of each line, None where it has none; None for all if there is no column of labels.
        captions: of each line, one or several; None for all likewise.
        label, caption: the names of the columns.
        columns: all names, the image first.
        unused: columns called like labels that cannot be any, and why.
    """

    lines: tuple[Line, ...]
    labels: tuple[str | int | None, ...] | None
    captions: tuple[tuple[str, ...], ...] | None
    label: str | None
    caption: str | None
    columns: tuple[str, ...]
    unused: Mapping[str, str]


def read_metadata(
    files: Sequence[Path], images: Sequence[Path], columns: Columns, what: str, some: bool = False
) -> Metadata:
    """The lines of ``files``, each about one of ``images``; no other file is looked at, wherever a line points.

    Args:
        columns: that are asked for; without, file names, labels and captions are in the first of a known name.
        what: the folder, for messages.
        some: whether images may have no line, and are then no part of the set.

    Raises:
        UsageError: one line, for a file that cannot be read, a line without its image, an image without its line, a
            column of the wrong kind.
    """
    there = {str(path): path for path in images}
    lines = [line for file in files for line in _lines(file, there, what, columns.image)]
    listed = {line.path for line in lines}
    lacking = [path for path in images if path not in listed]
    if lacking and not some:
        first = posixpath.relpath(str(lacking[0]), str(files[0].parent))
        raise UsageError(
            f"{what}: {len(lacking)} of {len(images)} images have no line in the metadata, first {first}; add one or "
            "remove them"
        )
    if not lines:
        raise UsageError(f"{what}: {files[0].name} has no rows; expected one per image")
    known = tuple(dict.fromkeys(name for line in lines for name in line.values))
    caption = _caption_column(lines, known, columns.caption, what)
    if columns.label is not None and columns.label not in known:
        raise UsageError(f"{what}: {unknown('column of labels', columns.label, ('image', *known))}")
    label, unused = _label_column(lines, [name for name in known if name != caption], what, columns.label)
    labels = None if label is None else tuple(_label(line.values.get(label)) for line in lines)
    if labels is not None and all(file.suffix.lower() == ".csv" for file in files):
        labels = _numbers(labels)
    captions = None if caption is None else tuple(sentences(line.values.get(caption)) for line in lines)
    if captions is not None and () in captions:
        raise UsageError(
            f"{what}: {captions.count(())} of {len(lines)} images have no caption in column {caption!r}, first "
            f"{lines[captions.index(())].where}; fill them in or remove them"
        )
    return Metadata(tuple(lines), labels, captions, label, caption, ("image", *known), unused)


def captions_beside(found: Listing, what: str) -> tuple[dict[Path, tuple[str, ...]], str]:
    """(the text in the .txt or .caption of each image's name, that ending); none unless most images have one.

    Raises:
        UsageError: if some images have none, or one is empty.
    """
    there = {path: path for path in found.others}
    for ending in _CAPTIONS:
        if not any(path.suffix == ending for path in found.others):
            continue
        files = {image: there.get(image.with_suffix(ending)) for image in found.images}
        lacking = [image for image, file in files.items() if file is None]
        if 2 * len(lacking) >= len(files):
            continue
        if lacking:
            raise UsageError(
                f"{what}: {len(files) - len(lacking):,} of {len(files):,} images have a caption beside them, "
                f"{found.relative(lacking[0].with_suffix(ending))} is missing; add it, or move the texts away"
            )
        captions: dict[Path, tuple[str, ...]] = {}
        for image, file in files.items():
            assert file is not None
            text = " ".join(read_text(file, "caption").split())
            if not text:
                raise UsageError(f"{what}: {found.relative(file)} is empty, expected the caption of its image")
            captions[image] = (text,)
        used = set(files.values())
        found.others = [path for path in found.others if path not in used]
        return captions, ending
    return {}, ""


def stylegan_rows(path: Path) -> list[tuple[int, Any]] | None:
    """Rows of file names and labels of a ``dataset.json`` of StyleGAN; None if it is none, [] if it has no labels."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or "labels" not in found:
        return None
    rows = found["labels"] or []
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        return None
    return [(i, {"file_name": name, "label": label}) for i, (name, label) in enumerate(rows, 1)]


def _lines(file: Path, there: Mapping[str, Path], what: str, named: str | None) -> list[Line]:
    rows = stylegan_rows(file) if file.name == STYLEGAN else read_rows(file, "metadata")
    unit = "line" if file.suffix.lower() in (".jsonl", ".csv") else "row"
    if file.name == STYLEGAN and not rows:  # images without labels
        return [Line(path, file.name, {}) for path in there.values()]
    alike = {normalize("NFC", path): image for path, image in there.items()}
    found = []
    for number, row in rows or []:
        where = f"{file.name}, {unit} {number}"
        if not isinstance(row, dict):
            raise UsageError(f"{what}: {where} is no object with a file_name, but {type(row).__name__}")
        column = next((name for name in ((named,) if named else FILE_COLUMNS) if name in row), None)
        name = row.get(column) if column is not None else None
        if not isinstance(name, str) or "\0" in name:
            raise UsageError(
                f"{what}: {where}: expected the name of an image in a column {named or 'file_name'}; its columns are "
                f"{', '.join(map(str, row)) or 'none'}{'' if named else '; name it with --image-column'}"
            )
        place = posixpath.normpath(posixpath.join(str(file.parent), name))
        path = there.get(place) or alike.get(normalize("NFC", place))  # macOS writes accents as letters of their own
        if path is None:
            raise UsageError(
                f"{what}: the metadata names {name}, which is no image there ({where}); expected one below "
                f"{file.parent}; correct it"
            )
        values = {str(key): value for key, value in row.items() if key != column}
        broken = next((key for key, value in values.items() if _half(value) or _half(key)), None)
        if broken is not None:
            raise UsageError(
                f"{what}: {where}: column {broken!r} has half a surrogate pair, which is no text; correct it"
            )
        found.append(Line(path, where, values))
    return found


def _caption_column(lines: Sequence[Line], columns: Sequence[str], name: str | None, what: str) -> str | None:
    if name is None:
        for column in [column for column in CAPTION_COLUMNS if column in columns]:
            if (other := _no_text(lines, column)) is None:
                return column
            odd = next((line.where for line in lines if not _is_text(line.values.get(column))), "")
            if odd and any(_is_text(line.values.get(column)) and line.values.get(column) for line in lines):
                raise UsageError(
                    f"{what}: column {column!r} holds captions, but {other} in {odd}; expected text, or lists of text"
                )
        return None
    if name not in columns:
        raise UsageError(f"{what}: {unknown('column of captions', name, ('image', *columns))}")
    if other := _no_text(lines, name):
        raise UsageError(f"{what}: column {name!r} holds {other}, expected captions: text, or lists of text")
    return name


def _no_text(lines: Sequence[Line], column: str) -> str | None:
    """What a column holds that is neither text nor lists of text, or "nothing"; None if it is one of captions."""
    values = [line.values.get(column) for line in lines]
    odd = next((value for value in values if not _is_text(value)), None)
    return repr(odd)[:40] if odd is not None else None if any(values) else "nothing"


def _is_text(value: Any) -> bool:
    """Whether it may be a caption: text, a list of text, or nothing."""
    return all(isinstance(entry, str | None) for entry in (value if isinstance(value, list) else [value]))


def _label_column(
    lines: Sequence[Line], columns: Sequence[str], what: str, named: str | None
) -> tuple[str | None, dict[str, str]]:
    """(the column of labels, those that are called so and hold something else)"""
    unused: dict[str, str] = {}
    for column in LABEL_COLUMNS if named is None else (named,):
        if column not in columns:
            continue
        given = [value for line in lines if (value := _whole(line.values.get(column))) not in (None, "")]
        kinds = {type(value) for value in given}
        if not given:
            raise UsageError(f"{what}: the label column {column!r} is empty; fill it in or remove it")
        if len(kinds) > 1 and kinds != {int, float}:
            names = " and ".join(sorted(kind.__name__ for kind in kinds))
            raise UsageError(
                f"{what}: column {column!r} holds both {names}, expected one kind of label: text or numbers"
            )
        if kinds <= {int} or (kinds == {str} and not any(_FRACTION.fullmatch(value) for value in given)):
            return column, unused
        if named is not None and kinds == {bool}:
            return column, unused
        unused[column] = next(
            f"{value!r:.40}"
            for value in given
            if not isinstance(value, str | int) or isinstance(value, bool) or _FRACTION.fullmatch(str(value))
        )
        if named is not None:
            raise UsageError(f"{what}: column {named!r} holds {unused[column]}, expected labels: text or whole numbers")
    return None, unused


_FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*(?:e[+-]?\d+)?", re.IGNORECASE)


def _label(value: Any) -> str | int | None:
    value = _whole(value.strip() if isinstance(value, str) else str(value) if isinstance(value, bool) else value)
    return None if is_no_label(value) else value


def _whole(value: Any) -> Any:
    """pandas turns whole numbers into fractions, and none into nan, where one of a column is missing."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else None if value != value else value


def _numbers(labels: tuple[str | int | None, ...]) -> tuple[str | int | None, ...]:
    """Labels of a CSV, whose values are all text: numbers if every one is written as such, "7" or "7.0", not "07"."""
    number = re.compile(r"(0|[1-9]\d{0,17})(?:\.0*)?", re.ASCII)
    found = [number.fullmatch(str(label)) for label in labels if label is not None]
    if None in found:
        return labels
    return tuple(None if label is None else int(str(label).partition(".")[0]) for label in labels)


def _half(value: Any) -> bool:
    """Whether a text, or one of a list, has half a surrogate pair."""
    entries = value if isinstance(value, list) else [value]
    return any("\ud800" <= char <= "\udfff" for entry in entries if isinstance(entry, str) for char in entry)
