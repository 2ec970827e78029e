"""`load_data`, the one entry to labelled images: a short name, a local folder, or a data set of the Hugging Face hub.

Read through the `datasets` library, which takes seconds to import and is therefore imported on first use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import expanded, is_folder, is_there
from fairlead.core.registry import lookup, names
from fairlead.data.columns import (
    caption_column,
    captions_of,
    image_column,
    label_column,
    labels_of,
    labels_of_folders,
)
from fairlead.data.connection import cache_at_once_if_offline
from fairlead.data.decode import decode_images, resize_images
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.folders import find_files, images_below
from fairlead.data.images import ImageData, stratified_order
from fairlead.data.spec import arguments_of, read_call

HOLD_OUT = 0.1
SPLIT_SEED = 0


def load_mnist(split: str = "train") -> ImageData:
    """MNIST from the hub (`ylecun/mnist`): uint8 [60000, 1, 28, 28] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("ylecun/mnist", split, None, None), name="mnist")


def load_cifar10(split: str = "train") -> ImageData:
    """CIFAR-10 from the hub (`uoft-cs/cifar10`): uint8 [50000, 3, 32, 32] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("uoft-cs/cifar10", split, None, None), name="cifar10")


def load_data(
    spec: str,
    split: str = "train",
    size: int | None = None,
    limit: int | None = None,
    flip: bool | None = None,
    captions: str | None = None,
) -> ImageData:
    """Labelled or captioned images by name or path, decoded into memory.

    Args:
        spec: tried in this order: a registered short name (`digits`, `mnist`, `cifar10`, `scenes`), with arguments
            where it takes some (`scenes(source="mnist", two=0.5)`); a local folder of parquet files (columns like the
            hub's; split by files or folders named train*, test*); a local folder with one sub-folder of images per
            class, optionally under train/ and test/, or one with captions in its metadata.jsonl or metadata.csv; a hub
            name `owner/name`.
        split: "train", "test" or another one the set has. If it has no "test", that is a fixed, stratified 10 % of its
            train images, and "train" is the other 90 %.
        size: shorter side and centre crop, in pixels; required if the images differ in size. Scenes are drawn at that
            size unless ``spec`` says another.
        limit: at most so many images, a fixed choice spread over the classes; a smaller limit chooses among them.
        flip: overrides whether horizontal flips suit the set (:class:`ImageData`).
        captions: column of captions (text, or lists of text); by default one named caption, captions, text or prompt,
            if there is one. A captioned set needs no labels: it then has one class.

    Raises:
        UsageError: one line, for anything wrong with the arguments, the folder, the connection, a column or an image.
    """
    for name, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"data {spec!r}: expected {name} of at least 1, got {value}")
    local = spec not in names("data") and is_folder(spec)
    if not local and (called := read_call(spec)) is not None:
        name, arguments = called
        if captions is not None:
            raise UsageError(
                f"data {spec!r}: captions={captions!r} names a column of a hub set or a folder, and {name} is none; "
                "leave it out"
            )
        loader = lookup("data", name)
        if size is not None and "size" in arguments_of(loader):
            arguments.setdefault("size", size)
        data: ImageData = loader(split, **arguments)
        if limit is not None:
            data = data.subset(_limited(data.labels, limit))
        if size is not None and data.shape[1:] != (size, size):
            data = replace(data, images=resize_images(data.images, size))
    elif local:
        data = _from_folder(expanded(spec), split, size, limit, captions)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", spec) and not is_there(spec):
        data = _from_hub(spec, split, size, limit, captions)
    else:
        raise UsageError(
            f"{unknown('data', spec, names('data'))!s}; or give an existing local folder, or a hub name owner/name"
        )
    return data if flip is None else replace(data, flip=flip)


def _from_hub(spec: str, split: str, size: int | None, limit: int | None, captions: str | None = None) -> ImageData:
    return _read(_load(spec, spec), spec, spec, split, size, limit, captions)


def _from_folder(folder: Path, split: str, size: int | None, limit: int | None, captions: str | None) -> ImageData:
    found = find_files(folder)
    options = {"drop_labels": found.captioned, "drop_metadata": not found.captioned} if found.images else {}
    sets = _load(str(folder), "imagefolder" if found.images else "parquet", data_files=found.files, **options)
    if found.captioned:
        _check_listed(folder, sets)
    return _read(
        sets, str(folder), folder.resolve().name, split, size, limit, captions, folder if found.captioned else None
    )


def _check_listed(folder: Path, sets: dict[str, Any]) -> None:
    """Raise UsageError for a line of the metadata without its image, and for an image without its line, which would be
    left out without a word."""
    listed = {Path(path) for paths in _paths(sets, "image").values() for path in paths}
    there = images_below(folder)
    absent = sorted(listed - set(there))
    if absent:
        raise UsageError(f"data {str(folder)!r}: the metadata names {absent[0]}, which is no image there; correct it")
    lacking = sorted(path for path in there if path not in listed)
    if lacking:
        raise UsageError(
            f"data {str(folder)!r}: {len(lacking)} of {len(there)} images have no line in the metadata, first "
            f"{lacking[0].relative_to(folder.resolve())}; add one or remove them"
        )


def _paths(sets: dict[str, Any], column: str) -> dict[str, list[str]]:
    """Of the image files of each split."""
    return {
        split: [str(image["path"]) for image in rows.data.column(column).to_pylist()] for split, rows in sets.items()
    }


def _load(what: str, path: str, **options: Any) -> dict[str, Any]:
    """Every split, by name, as `datasets.Dataset`; nothing is decoded yet."""
    import datasets

    try:
        with _quiet(), cache_at_once_if_offline(path):
            return dict(datasets.load_dataset(path, **options))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(
            f"data {what!r}: no local folder and no data set the hub lets you read; "
            f"check the spelling (short names: {', '.join(names('data'))})"
        ) from error
    except ConnectionError as error:
        raise UsageError(
            f"data {what!r}: no local folder of that name, and the hub cannot be reached; "
            "check the connection, give a local folder, or use 'digits', which needs no download"
        ) from error
    except Exception as error:  # the builders pass on whatever pyarrow, fsspec, pandas or the hub client raise
        reason = " ".join(str(error.__cause__ or error).split())
        raise UsageError(f"data {what!r}: the datasets library cannot read it ({reason})") from error


def _read(
    sets: dict[str, Any],
    what: str,
    name: str,
    split: str,
    size: int | None,
    limit: int | None,
    captions: str | None,
    folder: Path | None = None,
) -> ImageData:
    """``folder``: of image files, which says the classes where no column does."""
    features = next(iter(sets.values())).features
    pictures = image_column(features, what)
    told = caption_column(features, captions, what)
    if told is None and folder is not None:
        raise UsageError(
            f"data {what!r}: the metadata has no captions (its columns are {', '.join(features)}); name their column "
            "with captions=..., or take the file away to go by class folders"
        )
    column = label_column(features, told, what)
    labels, classes = (
        labels_of_folders(_paths(sets, pictures), folder)
        if column is None and folder is not None
        else labels_of(sets, column, what)
    )
    source, index = _rows(labels, split, what)
    chosen = labels[source][index]
    unlabelled = int((chosen < 0).sum())
    if unlabelled:
        raise UsageError(
            f"data {what!r}: {unlabelled} of {len(index)} rows of split {split!r} have no label; use another split"
        )
    if limit is not None:
        index = index[_limited(chosen, limit)]
    rows = sets[source].select(index.tolist())
    texts = [] if told is None else captions_of(rows, told, index.tolist(), what)
    images = decode_images(_files(rows, pictures, index, f"{source} row"), size, what)
    # Colour images are taken for photographs, which may be mirrored; grey ones for digits or letters, which may not,
    # and captions may say left and right. `load_data(flip=...)` overrides.
    flip = images.shape[1] == 3 and not texts
    first, more = tuple(own[0] for own in texts), tuple(own[1:] for own in texts)
    return ImageData(
        images, labels[source][index], _words(classes), name, split, flip, first, more=more if any(more) else ()
    )


def _rows(labels: dict[str, Tensor], split: str, what: str) -> tuple[str, Tensor]:
    """(the split as stored, the row numbers) that make up ``split``."""
    if "test" in labels or "train" not in labels or split not in ("train", "test"):
        if split not in labels:
            raise UsageError(f"data {what!r}: {unknown('split', split, _offered(labels))}")
        source, index = split, torch.arange(len(labels[split]))
    else:
        order = stratified_order(labels["train"], SPLIT_SEED)
        count = round(HOLD_OUT * len(order))
        source, index = "train", (order[:count] if split == "test" else order[count:]).sort().values
    if len(index) == 0:
        raise UsageError(f"data {what!r}: split {split!r} is empty; add images (train has {len(labels[source])})")
    return source, index


def _offered(labels: dict[str, Tensor]) -> list[str]:
    return [*labels, *(["test"] if "train" in labels and "test" not in labels else [])]


def _limited(labels: Tensor, limit: int) -> Tensor:
    return stratified_order(labels, SPLIT_SEED)[:limit].sort().values


def _words(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names; the digits 0-9 are spelled out, so that every copy of MNIST has the names of `digits`."""
    return DIGIT_NAMES if classes == tuple("0123456789") else classes


def _files(rows: Any, column: str, index: Tensor, row_name: str) -> Iterator[tuple[str, bytes | None]]:
    """(file name, content) of each row, from the arrow table: twice as fast as decoding through `datasets`."""
    numbers = iter(index.tolist())
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for image in table.column(column).to_pylist():
            number = next(numbers)
            path, content = (image["path"], image["bytes"]) if image is not None else (None, None)
            inside = f"{row_name} {number}" + (f" ({path})" if path else "")
            # no content and no path: an empty file, which is reported as broken under the name of its row
            yield (path, None) if content is None and path else (inside, content or b"")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` and the hub client: what matters is in the error."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars, hub_bars = not datasets.are_progress_bars_disabled(), not are_progress_bars_disabled()
    level, hub_level = datasets.logging.get_verbosity(), hub_logging.get_verbosity()
    datasets.disable_progress_bars()
    disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    hub_logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            enable_progress_bars()
        datasets.logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
