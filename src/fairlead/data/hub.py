"""`load_data`, the one entry to labelled images: a short name, a local folder, or a data set of the Hugging Face hub.

Read through the `datasets` library, which takes seconds to import and is therefore imported on first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import as_path, is_count, plain, shown
from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import expanded, is_folder, is_there
from fairlead.core.printable import printable
from fairlead.core.registry import lookup, names
from fairlead.data.columns import caption_column, captions_of, image_column, label_column, labels_of, no_labels
from fairlead.data.connection import cache_at_once_if_offline
from fairlead.data.decode import check_side, decode_images, in_colour, resize_images, saved_in_colour
from fairlead.data.folders import ParquetFiles, Pictures, read_folder, unlabelled
from fairlead.data.images import ImageData, stratified_order
from fairlead.data.listing import SPLITS
from fairlead.data.spec import arguments_of, read_call

HOLD_OUT = 0.1
SPLIT_SEED = 0


@dataclass(frozen=True)
class Wanted:
    """What is asked of a set, see :func:`load_data`."""

    split: str = "train"
    size: int | None = None
    limit: int | None = None
    flip: bool | None = None
    captions: str | None = None


def load_mnist(split: str = "train") -> ImageData:
    """MNIST from the hub (`ylecun/mnist`): uint8 [60000, 1, 28, 28] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("ylecun/mnist", Wanted(split)), name="mnist", notes=())


def load_cifar10(split: str = "train") -> ImageData:
    """CIFAR-10 from the hub (`uoft-cs/cifar10`): uint8 [50000, 3, 32, 32] as "train", [10000, ...] as "test"."""
    return replace(_from_hub("uoft-cs/cifar10", Wanted(split)), name="cifar10", notes=())


def load_data(
    spec: str | Path,
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
            hub's) or of images, see :func:`fairlead.data.folders.read_folder`; a hub name `owner/name`.
        split: "train", "test" or another one the set has. If it has no "test", that is a fixed, stratified 10 % of its
            train images, and "train" is the other 90 %.
        size: shorter side and centre crop, in pixels; required if the images differ in size. Scenes are drawn at that
            size unless ``spec`` says another.
        limit: at most so many images, a fixed choice spread over the classes; a smaller limit chooses among them.
        flip: overrides whether horizontal flips suit the set (:class:`ImageData`); by default they do where more than
            half of the images are in colour and there are no captions, which may say left and right.
        captions: column of captions (text, or lists of text); by default one named caption, captions, text or prompt,
            if there is one. A captioned set needs no labels: it then has one class.

    Raises:
        UsageError: one line, for anything wrong with the arguments, the folder, the connection, a column or an image.
    """
    spec = str(as_path("data", spec)) if not isinstance(spec, str) else spec
    size, limit = plain(size), plain(limit)
    for name, value in (("size", size), ("limit", limit)):
        if value is not None and not is_count(value):
            raise UsageError(f"data {spec!r}: expected {name} of at least 1, got {shown(value)}")
    for name, text in (("split", split), ("captions", captions)):
        if not isinstance(text, str | None):
            raise UsageError(f"data {spec!r}: expected {name} to be a name, got {shown(text)}")
    if not isinstance(flip, bool | None):
        raise UsageError(f"data {spec!r}: expected flip to be True, False or None, got {shown(flip)}")
    check_side(size, f"data {spec!r}")
    wanted = Wanted(split, size, limit, flip, captions)
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
            data = replace(data, images=resize_images(data.images, size, spec))
        return data if flip is None else replace(data, flip=flip)
    if local:
        return _from_folder(expanded(spec), wanted)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", spec) and not is_there(spec):
        return _from_hub(spec, wanted)
    raise UsageError(
        f"{unknown('data', spec, names('data'))!s}; or give an existing local folder, or a hub name owner/name"
    )


def _from_hub(spec: str, wanted: Wanted) -> ImageData:
    return _of_rows(_load(spec, spec), spec, spec, wanted, (), _cache_folders())


def _from_folder(folder: Path, wanted: Wanted) -> ImageData:
    found = read_folder(folder, wanted.captions)
    if isinstance(found, Pictures):
        return _of_pictures(found, str(folder), wanted)
    sets = _load(str(folder), "parquet", data_files=dict(found.patterns))
    try:
        return _of_rows(sets, str(folder), printable(folder.resolve().name), wanted, found.notes, ())
    except UsageError as error:
        if found.images and "no image column" in str(error):
            raise UsageError(f"{error}; {_beside(found)}") from error
        raise


def _beside(found: ParquetFiles) -> str:
    return (
        f"{found.images:,} image files lie beside; to read these take the parquet files away, or call one with a "
        "column file_name metadata.parquet"
    )


def _of_pictures(found: Pictures, what: str, wanted: Wanted) -> ImageData:
    if found.columns:
        otherwise = "take the file away to go by class folders" if found.labelled else "add a column label or text"
        raise UsageError(
            f"data {what!r}: the metadata has no captions (its columns are {', '.join(found.columns)}); name their "
            f"column with captions=..., call that of labels 'label', or {otherwise}"
        )
    if not found.labelled and not found.captioned and not found.splits:
        raise UsageError(f"data {what!r}: {unlabelled(found.folder, found.images[0].path)}")
    own = {split: [i for i in found.images if i.split == split] for split in found.splits or ("train",)}
    labels = {split: torch.tensor([image.label for image in images]) for split, images in own.items()}
    source, index = _rows(labels, wanted, what, lambda split, row: own[split][row].where)
    rows = [own[source][i] for i in index.tolist()]
    files = ((str(image.path), None) for image in rows)
    texts = [image.captions for image in rows] if found.captioned else []
    said = [*found.notes, *_share(labels, source, index, wanted.split)]
    data = _image_data(
        files, labels[source][index], found.classes, texts, what, printable(found.folder.name), wanted, said
    )
    used = set(index.tolist())
    others = (image.path for i, image in enumerate(own[source]) if i not in used)
    if data.shape[0] == 1 and not found.splits and (path := next(filter(saved_in_colour, others), None)):
        # both parts of a set that is divided here have the same channels
        note = f"read with three channels, as {printable(path.name)}, which is not in this split, is in colour"
        return replace(data, images=data.images.expand(-1, 3, -1, -1).contiguous(), notes=(*data.notes, note))
    return data


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


def _of_rows(
    sets: dict[str, Any], what: str, name: str, wanted: Wanted, notes: Sequence[str], readable: Sequence[Path]
) -> ImageData:
    """Of the rows of every split.

    Args:
        readable: folders whose files a row may name in place of holding an image itself.
    """
    features = next(iter(sets.values())).features
    pictures = image_column(features, what)
    told = caption_column(features, wanted.captions, what)
    column = label_column(sets, told, what)
    labels, classes = labels_of(sets, column, what)
    source, index = _rows(labels, wanted, what, lambda split, row: f"{split} row {row}")
    rows = sets[source].select(index.tolist())
    texts = [] if told is None else captions_of(rows, told, index.tolist(), what)
    columns = [f"{kind} by column {of!r}" for kind, of in (("labels", column), ("captions", told)) if of is not None]
    said = [*notes, f"{printable(name)}: {', '.join(columns)}", *_share(labels, source, index, wanted.split)]
    said += no_labels(features) if column is None else []
    files = _files(rows, pictures, index, f"{source} row", what, readable)
    return _image_data(files, labels[source][index], classes, texts, what, name, wanted, said)


def _image_data(
    files: Iterator[tuple[str, bytes | None]],
    labels: Tensor,
    classes: tuple[str, ...],
    texts: Sequence[tuple[str, ...]],
    what: str,
    name: str,
    wanted: Wanted,
    notes: Sequence[str],
) -> ImageData:
    images = decode_images(files, wanted.size, what, len(labels))
    # Colour images are taken for photographs, which may be mirrored; grey ones for digits or letters, which may not,
    # and captions may say left and right.
    coloured = int(in_colour(images).sum())
    flip = 2 * coloured > len(images) and not texts
    if images.shape[1] == 3 and wanted.flip is None:
        share = f"{coloured:,} of {len(images):,} images are in colour" + (" and have captions" if texts else "")
        how = "--flip False if they must not be" if flip else "--flip True if they may be"
        notes = [*notes, f"{'mirrored at random' if flip else 'never mirrored'}: {share}; {how}"]
    flip = flip if wanted.flip is None else wanted.flip
    first, more = tuple(own[0] for own in texts), tuple(own[1:] for own in texts)
    return ImageData(
        images, labels, classes, name, wanted.split, flip, first, more=more if any(more) else (), notes=tuple(notes)
    )


def _rows(labels: dict[str, Tensor], wanted: Wanted, what: str, where: Callable[[str, int], str]) -> tuple[str, Tensor]:
    """(the split as stored, the row numbers) that make up what is wanted.

    Args:
        where: names a row of a split, for messages.
    """
    split = wanted.split
    meant = split if split in labels else SPLITS.get(split.lower(), split)
    if "test" in labels or "train" not in labels or meant not in ("train", "test"):
        if meant not in labels:
            raise UsageError(f"data {what!r}: {unknown('split', split, _offered(labels))}")
        source, index = meant, torch.arange(len(labels[meant]))
    else:
        order = stratified_order(labels["train"], SPLIT_SEED)
        count = round(HOLD_OUT * len(order))
        source, index = "train", (order[:count] if meant == "test" else order[count:]).sort().values
    if len(index) == 0:
        raise UsageError(f"data {what!r}: split {split!r} is empty; add images (train has {len(labels[source])})")
    without = (labels[source] < 0).nonzero()[:, 0]
    if len(without):
        raise UsageError(
            f"data {what!r}: {len(without)} of {len(labels[source])} rows of split {split!r} have no label, first "
            f"{where(source, int(without[0]))}; fill them in or remove them, or use another split"
        )
    if wanted.limit is not None:
        index = index[_limited(labels[source][index], wanted.limit)]
    return source, index


def _share(labels: dict[str, Tensor], source: str, index: Tensor, split: str) -> list[str]:
    """What part of the set is used, and what of it is not."""
    others = [f"{name} {len(own):,}" for name, own in labels.items() if name != source]
    rest = len(labels[source]) - len(index)
    others += [f"{rest:,} of {source}"] if rest else []
    return [f"split {split}: {len(index):,} images; not in it: {', '.join(others)}"] if others else []


def _offered(labels: dict[str, Tensor]) -> list[str]:
    return [*labels, *(["test"] if "train" in labels and "test" not in labels else [])]


def _limited(labels: Tensor, limit: int) -> Tensor:
    return stratified_order(labels, SPLIT_SEED)[:limit].sort().values


def _files(
    rows: Any, column: str, index: Tensor, row_name: str, what: str, readable: Sequence[Path]
) -> Iterator[tuple[str, bytes | None]]:
    """(file name, content) of each row, from the arrow table: twice as fast as decoding through `datasets`.

    Raises:
        UsageError: for a row that names a file outside ``readable`` in place of its content.
    """
    numbers = iter(index.tolist())
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for image in table.column(column).to_pylist():
            number = next(numbers)
            path, content = (image["path"], image["bytes"]) if image is not None else (None, None)
            if content is None and path:
                if not any(Path(path).resolve().is_relative_to(folder) for folder in readable):
                    raise UsageError(
                        f"data {what!r}: {row_name} {number} has no image but the path of a file, {path!r:.100}, and "
                        "such files are never read; store their bytes, or name them in a metadata.jsonl beside them"
                    )
                yield path, None
            else:
                # no content and no path: an empty file, which is reported as broken under the name of its row
                yield f"{row_name} {number}" + (f" ({path})" if path else ""), content or b""


def _cache_folders() -> list[Path]:
    """Where `datasets` and the hub client keep what they downloaded, and nothing else is."""
    import datasets
    from huggingface_hub import constants

    folders = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    return [Path(folder).expanduser().resolve() for folder in folders]


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
