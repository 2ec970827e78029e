"""Which columns of a data set hold images, labels and captions, and what the latter two say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.data.names import composed

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
ONE_CLASS = "image"
"""Name of the only class of a captioned set without labels."""


def image_column(features: Mapping[str, Any], what: str) -> str:
    """The column of images.

    Raises:
        UsageError: if there is none, or several and none of a known name.
    """
    import datasets

    def fits(feature: Any) -> bool:
        # parquet written without `datasets` keeps its images as a plain struct of the same fields
        return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    return _column(features, fits, IMAGE_COLUMNS, "image", what)


def caption_column(features: Mapping[str, Any], name: str | None, what: str) -> str | None:
    """The column of captions, text or lists of text: the one that is ``name``d, else the first of a known name; None if
    there is none.

    Raises:
        UsageError: if the named one is absent or holds something else.
    """
    if name is None:
        return next((column for column in CAPTION_COLUMNS if _is_text(features.get(column))), None)
    if name not in features:
        raise UsageError(f"data {what!r}: {unknown('column of captions', name, features)}")
    if not _is_text(features[name]):
        raise UsageError(
            f"data {what!r}: column {name!r} holds {_described(features[name])}, expected captions: text, or lists of "
            "text"
        )
    return name


def label_column(features: Mapping[str, Any], caption: str | None, what: str) -> str | None:
    """The column of labels. A captioned set may have none, and its labels have a known name or are a ``ClassLabel``:
    numbers beside captions are mostly not classes.

    Raises:
        UsageError: if there is none and no captions, or several and none of a known name.
    """
    import datasets

    def is_class(feature: Any) -> bool:
        return isinstance(feature, datasets.ClassLabel)

    def is_value(feature: Any) -> bool:
        return isinstance(feature, datasets.Value) and bool(re.match("u?int|(large_)?string", feature.dtype))

    others = {column: feature for column, feature in features.items() if column != caption}
    fits = is_class if any(map(is_class, others.values())) else is_value
    if caption is not None and fits is is_value:
        return next((column for column in LABEL_COLUMNS if column in others and is_value(others[column])), None)
    return _column(others, fits, LABEL_COLUMNS, "label", what)


def labels_of(sets: Mapping[str, Any], column: str | None, what: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """int64 labels per split (-1 where there is none), and the class names over all splits.

    Args:
        column: None: every image is of the one class.
    """
    if column is None:
        return {split: torch.zeros(len(rows), dtype=torch.int64) for split, rows in sets.items()}, (ONE_CLASS,)
    raw = {split: rows.data.column(column).to_pylist() for split, rows in sets.items()}
    feature = next(iter(sets.values())).features[column]
    if hasattr(feature, "names"):
        labels = {split: [-1 if v is None else v for v in values] for split, values in raw.items()}
        return {split: torch.tensor(v, dtype=torch.int64) for split, v in labels.items()}, tuple(feature.names)
    known = sorted({value for values in raw.values() for value in values if value is not None})
    if not known:
        raise UsageError(f"data {what!r}: the label column {column!r} is empty")
    return _indexed(raw, known)


def labels_of_folders(paths: Mapping[str, Sequence[str]], root: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The same from the folders of images, below ``root`` and the folder of their split: their class where each lies in
    one, else the one class."""
    below = {split: [Path(path).relative_to(root.resolve()).parts for path in own] for split, own in paths.items()}
    heads = {parts[0] for own in below.values() for parts in own}
    inside = 2 if heads <= {"train", "test", "validation", "valid", "val"} else 1
    if any(len(parts) != inside + 1 for own in below.values() for parts in own):
        return {split: torch.zeros(len(own), dtype=torch.int64) for split, own in below.items()}, (ONE_CLASS,)
    raw = {split: [parts[-2] for parts in own] for split, own in below.items()}
    return _indexed(raw, sorted({name for own in raw.values() for name in own}))


def captions_of(rows: Any, column: str, numbers: Sequence[int], what: str) -> list[tuple[str, ...]]:
    """The captions of every row, one or several.

    Args:
        numbers: of the rows, for messages.

    Raises:
        UsageError: if a row has none.
    """
    found: list[tuple[str, ...]] = []
    empty: list[int] = []
    for number, value in zip(numbers, rows.select_columns(column)[:][column], strict=True):
        several = [value] if value is None or isinstance(value, str) else value
        told = tuple(text.strip() for text in several if text and text.strip())
        found.append(told)
        if not told:
            empty.append(number)
    if empty:
        raise UsageError(
            f"data {what!r}: {len(empty)} of {len(found)} rows have no caption in column {column!r}, first row "
            f"{empty[0]}; fill them in or remove them"
        )
    return found


def _indexed(raw: Mapping[str, Sequence[Any]], known: Sequence[Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    classes: dict[Any, Any] = {}
    for value in known:  # names that look alike, from disks of different systems, are one class
        classes.setdefault(_composed(value), value)
    position = {value: i for i, value in enumerate(classes)}
    return {
        split: torch.tensor([position.get(_composed(value), -1) for value in values], dtype=torch.int64)
        for split, values in raw.items()
    }, tuple(map(str, classes.values()))


def _composed(value: Any) -> Any:
    return composed(value) if isinstance(value, str) else value


def _is_text(feature: Any) -> bool:
    inner = _inner(feature)
    return str(getattr(inner, "dtype", "")) in ("string", "large_string")


def _inner(feature: Any) -> Any:
    """What a list holds, in any of the ways that `datasets` writes it; else the feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    inside = getattr(feature, "feature", None)
    return feature if inside is None else inside


def _described(feature: Any) -> str:
    inner = _inner(feature)
    kind = str(getattr(inner, "dtype", "") or type(inner).__name__)
    return kind if inner is feature else f"lists of {kind}"


def _column(
    features: Mapping[str, Any], fits: Callable[[Any], bool], preferred: Sequence[str], kind: str, what: str
) -> str:
    """The one fitting column; among several the first that has a preferred name."""
    found = [column for column, feature in features.items() if fits(feature)]
    if not found:
        raise UsageError(f"data {what!r}: no {kind} column; its columns are {', '.join(features)}")
    named = [column for column in preferred if column in found]
    if not named and len(found) > 1:
        raise UsageError(
            f"data {what!r}: {len(found)} columns could be the {kind} ({', '.join(found)}); name the right one {kind!r}"
        )
    return named[0] if named else found[0]
