"""`load_data`, the one entry to labelled images: a short name, a local folder, or a data set of the Hugging Face hub.

Read through the `datasets` library, which takes seconds to import and is therefore imported on first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import lookup, names
from fairlead.data.decode import decode_images, resize_images
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.folders import find_files
from fairlead.data.images import ImageData, stratified_order
from fairlead.data.spec import arguments_of, read_call

HOLD_OUT = 0.1
SPLIT_SEED = 0
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")


def load_mnist(split: str = "train") -> ImageData:
    """MNIST from the hub (`ylecun/mnist`): uint8 [60000, 1, 28, 28] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("ylecun/mnist", split, None, None), name="mnist")


def load_cifar10(split: str = "train") -> ImageData:
    """CIFAR-10 from the hub (`uoft-cs/cifar10`): uint8 [50000, 3, 32, 32] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("uoft-cs/cifar10", split, None, None), name="cifar10")


def load_data(
    spec: str, split: str = "train", size: int | None = None, limit: int | None = None, flip: bool | None = None
) -> ImageData:
    """Labelled images by name or path, decoded into memory.

    Args:
        spec: tried in this order: a registered short name (`digits`, `mnist`, `cifar10`, `scenes`), with arguments
            where it takes some (`scenes(source="mnist", two=0.5)`); a local folder of parquet files (columns like the
            hub's; split by files or folders named train*, test*); a local folder with one sub-folder of images per
            class, optionally under train/ and test/; a hub name `owner/name`.
        split: "train", "test" or another one the set has. If it has no "test", that is a fixed, stratified 10 % of its
            train images, and "train" is the other 90 %.
        size: shorter side and centre crop, in pixels; required if the images differ in size. Scenes are drawn at that
            size unless ``spec`` says another.
        limit: at most so many images, a fixed choice spread over the classes; a smaller limit chooses among them.
        flip: overrides whether horizontal flips suit the set (:class:`ImageData`).

    Raises:
        UsageError: one line, for anything wrong with the arguments, the folder, the connection, a column or an image.
    """
    for name, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"data {spec!r}: expected {name} of at least 1, got {value}")
    is_folder = spec not in names("data") and Path(spec).expanduser().is_dir()
    if not is_folder and (called := read_call(spec)) is not None:
        name, arguments = called
        loader = lookup("data", name)
        if size is not None and "size" in arguments_of(loader):
            arguments.setdefault("size", size)
        data: ImageData = loader(split, **arguments)
        if limit is not None:
            data = data.subset(_limited(data.labels, limit))
        if size is not None and data.shape[1:] != (size, size):
            data = replace(data, images=resize_images(data.images, size))
    elif is_folder:
        data = _from_folder(Path(spec).expanduser(), split, size, limit)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", spec) and not Path(spec).exists():
        data = _from_hub(spec, split, size, limit)
    else:
        raise UsageError(
            f"{unknown('data', spec, names('data'))!s}; or give an existing local folder, or a hub name owner/name"
        )
    return data if flip is None else replace(data, flip=flip)


def _from_hub(spec: str, split: str, size: int | None, limit: int | None) -> ImageData:
    return _read(_load(spec, spec), spec, spec, split, size, limit)


def _from_folder(folder: Path, split: str, size: int | None, limit: int | None) -> ImageData:
    builder, files = find_files(folder)
    options = {"drop_labels": False, "drop_metadata": True} if builder == "imagefolder" else {}
    sets = _load(str(folder), builder, data_files=files, **options)
    return _read(sets, str(folder), folder.resolve().name, split, size, limit)


def _load(what: str, path: str, **options: Any) -> dict[str, Any]:
    """Every split, by name, as `datasets.Dataset`; nothing is decoded yet."""
    import datasets

    try:
        with _quiet():
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


def _read(sets: dict[str, Any], what: str, name: str, split: str, size: int | None, limit: int | None) -> ImageData:
    features = next(iter(sets.values())).features
    image_column = _image_column(features, what)
    labels, classes = _labels(sets, _label_column(features, what), what)
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
    images = decode_images(_files(rows, image_column, index, f"{source} row"), size, what)
    # Colour images are taken for photographs, which may be mirrored; grey ones for digits or letters, which may not.
    # `load_data(flip=...)` overrides.
    flip = images.shape[1] == 3
    return ImageData(images, labels[source][index], _words(classes), name, split, flip)


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


def _image_column(features: dict[str, Any], what: str) -> str:
    import datasets

    def fits(feature: Any) -> bool:
        # parquet written without `datasets` keeps its images as a plain struct of the same fields
        return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    return _column(features, fits, IMAGE_COLUMNS, "image", what)


def _label_column(features: dict[str, Any], what: str) -> str:
    import datasets

    def is_class(feature: Any) -> bool:
        return isinstance(feature, datasets.ClassLabel)

    def is_value(feature: Any) -> bool:
        return isinstance(feature, datasets.Value) and bool(re.match("u?int|(large_)?string", feature.dtype))

    fits = is_class if any(map(is_class, features.values())) else is_value
    return _column(features, fits, LABEL_COLUMNS, "label", what)


def _column(
    features: dict[str, Any], fits: Callable[[Any], bool], preferred: Sequence[str], kind: str, what: str
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


def _labels(sets: dict[str, Any], column: str, what: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """int64 labels per split (-1 where there is none), and the class names over all splits."""
    raw = {split: rows.data.column(column).to_pylist() for split, rows in sets.items()}
    feature = next(iter(sets.values())).features[column]
    if hasattr(feature, "names"):
        labels = {split: [-1 if v is None else v for v in values] for split, values in raw.items()}
        return {split: torch.tensor(v, dtype=torch.int64) for split, v in labels.items()}, tuple(feature.names)
    known = sorted({value for values in raw.values() for value in values if value is not None})
    if not known:
        raise UsageError(f"data {what!r}: the label column {column!r} is empty")
    position = {value: i for i, value in enumerate(known)}
    return {
        split: torch.tensor([position.get(value, -1) for value in values], dtype=torch.int64)
        for split, values in raw.items()
    }, tuple(map(str, known))


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
