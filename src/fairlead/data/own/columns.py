"""Which columns of a data set hold images, labels and captions, and what the latter two say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.printable import has_control, printable
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.names import composed

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
ONE_CLASS = "image"
"""Name of the only class of a set without labels."""


@dataclass(frozen=True)
class Columns:
    """Names of columns that are asked for; None for those that are found by known names."""

    image: str | None = None
    label: str | None = None
    caption: str | None = None


def image_column(features: Mapping[str, Any], what: str, name: str | None = None) -> str:
    """The column of images: the one that is ``name``d, which may also hold the bytes of files.

    Raises:
        UsageError: if there is none, or several and none of a known name; if the named one holds something else.
    """
    import datasets

    def fits(feature: Any) -> bool:
        # parquet written without `datasets` keeps its images as a plain struct of the same fields
        return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    if name is not None:
        feature = _named(features, name, "images", what)
        if not fits(feature) and str(getattr(feature, "dtype", "")) not in ("binary", "large_binary"):
            raise UsageError(
                f"data {what!r}: column {name!r} holds {_described(feature)}, expected images: files as bytes"
            )
        return name
    return _column(features, fits, IMAGE_COLUMNS, "image", what)


def caption_column(features: Mapping[str, Any], name: str | None, what: str) -> str | None:
    """The column of captions, text or lists of text: the one that is ``name``d, else the first of a known name; None if
    there is none.

    Raises:
        UsageError: if the named one is absent or holds something else.
    """
    if name is None:
        return next((column for column in CAPTION_COLUMNS if _is_text(features.get(column))), None)
    if not _is_text(_named(features, name, "captions", what)):
        raise UsageError(
            f"data {what!r}: column {name!r} holds {_described(features[name])}, expected captions: text, or lists of "
            "text"
        )
    return name


def label_column(
    sets: Mapping[str, Any], caption: str | None, what: str, named: str | None = None, image: str = ""
) -> str | None:
    """The column of labels: the one that is ``named``, of whole numbers or text. Else, a captioned set may have none,
    and its labels have a known name or are a ``ClassLabel``: numbers beside captions are mostly not classes. A set that
    has nothing but its column ``image`` is one without labels.

    Args:
        sets: the rows of every split.

    Raises:
        UsageError: if there is none and no captions, or several and none of a known name; if the named one holds
            something else.
    """
    import datasets

    features = next(iter(sets.values())).features
    if named is not None:
        feature = _named(features, named, "labels", what)
        kind = str(getattr(feature, "dtype", ""))
        if not re.match("u?int|(large_)?string|bool", kind) and not (_is_float(feature) and _are_whole(sets, named)):
            raise UsageError(
                f"data {what!r}: column {named!r} holds {_described(feature)}, expected labels: text or whole numbers"
            )
        return named
    if set(features) == {image}:
        return None
    others = {name: feature for name, feature in features.items() if name != caption}
    # pandas turns whole numbers into fractions where one is missing
    whole = {name for name in LABEL_COLUMNS if _is_float(others.get(name)) and _are_whole(sets, name)}

    def is_class(name: str) -> bool:
        return isinstance(others[name], datasets.ClassLabel)

    def is_value(name: str) -> bool:
        feature = others[name]
        kind = isinstance(feature, datasets.Value) and re.match("u?int|(large_)?string", feature.dtype)
        return bool(kind) or name in whole

    fits = is_class if any(map(is_class, others)) else is_value
    if caption is not None and fits is is_value:
        return next((name for name in LABEL_COLUMNS if name in others and is_value(name)), None)
    return _column({name: name for name in others}, fits, LABEL_COLUMNS, "label", what)


def no_labels(features: Mapping[str, Any]) -> list[str]:
    """What there is to say of columns that are called like labels and hold something else."""
    return [
        f"column {name!r} holds {_described(features[name])}: not taken for labels"
        for name in LABEL_COLUMNS
        if name in features
    ]


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
        return {split: torch.tensor(v, dtype=torch.int64) for split, v in labels.items()}, class_names(
            feature.names, f"data {what!r}"
        )
    known = sorted({value for values in raw.values() for value in values if not is_no_label(value)})
    if not known:
        raise UsageError(f"data {what!r}: the label column {column!r} is empty")
    position = places(known)
    return {
        split: torch.tensor([position.get(value, -1) for value in values], dtype=torch.int64)
        for split, values in raw.items()
    }, class_names([int(value) if isinstance(value, float) else value for value in firsts(position)], f"data {what!r}")


def is_no_label(value: object) -> bool:
    """Whether a value of a label column stands for "no label": none, nothing, nan, or a number below 0, mostly -1."""
    return (
        value is None
        or value != value
        or (isinstance(value, str) and (not value.strip() or bool(re.fullmatch(r"-\d+", value.strip()))))
        or (isinstance(value, int | float) and value < 0)
    )


def class_names(values: Sequence[object], what: str) -> tuple[str, ...]:
    """The names of classes; the digits 0-9 are spelled out, so that every copy of MNIST has the names of `digits`.

    Raises:
        UsageError: for a name with a control character or the like, which no terminal, file name or command could show.
    """
    names = tuple(map(str, values))
    broken = next((name for name in names if has_control(name)), None)
    if broken is not None:
        raise UsageError(f"{what}: the class name '{printable(broken)[:80]}' has control characters; rename it")
    return DIGIT_NAMES if names == tuple("0123456789") else names


def sentences(value: Any) -> tuple[str, ...]:
    """The captions that a value of their column holds: none, one, or those of a list."""
    several = [value] if value is None or isinstance(value, str) else value
    return tuple(text.strip() for text in several if text and text.strip())


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
        texts = sentences(value)
        found.append(texts)
        if not texts:
            empty.append(number)
    if empty:
        raise UsageError(
            f"data {what!r}: {len(empty)} of {len(found)} rows have no caption in column {column!r}, first row "
            f"{empty[0]}; fill them in or remove them"
        )
    return found


def places(values: Iterable[Any]) -> dict[Any, int]:
    """Value of a label column, or name of a folder -> index of its class, in the order of ``values``. Names that look
    alike, from disks of different systems, are one class: the first of them."""
    index: dict[Any, int] = {}
    found: dict[Any, int] = {}
    for value in values:
        found[value] = index.setdefault(composed(value) if isinstance(value, str) else value, len(index))
    return found


def firsts(index: Mapping[Any, int]) -> list[Any]:
    """The values that name the classes of :func:`places`."""
    first: dict[int, Any] = {}
    for value, place in index.items():
        first.setdefault(place, value)
    return list(first.values())


def _named(features: Mapping[str, Any], name: str, kind: str, what: str) -> Any:
    if name not in features:
        raise UsageError(f"data {what!r}: {unknown(f'column of {kind}', name, features)}")
    return features[name]


def _is_float(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("float", "double"))


def _are_whole(sets: Mapping[str, Any], name: str) -> bool:
    values = (value for rows in sets.values() for value in rows.data.column(name).to_pylist())
    return all(value is None or value != value or float(value).is_integer() for value in values)


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
        raise UsageError(
            f"data {what!r}: no {kind} column; its columns are {', '.join(features)}; name it with --{kind}-column"
        )
    named = [column for column in preferred if column in found]
    if not named and len(found) > 1:
        raise UsageError(
            f"data {what!r}: {len(found)} columns could be the {kind} ({', '.join(found)}); say which with "
            f"--{kind}-column"
        )
    return named[0] if named else found[0]
