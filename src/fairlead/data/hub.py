"""`load_data`, the one entry to labelled images: a short name, a local folder or file, or a data set of the hub.

Read through the `datasets` library, which takes seconds to import and is therefore imported on first use.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from fairlead.core.arguments import as_path, chosen, is_count, plain, shown
from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import home_expanded, is_file, is_folder, is_there
from fairlead.core.printable import printable
from fairlead.core.progress import Progress, silent
from fairlead.core.registry import lookup, names
from fairlead.data.connection import cache_at_once_if_offline
from fairlead.data.decode import resize_images
from fairlead.data.images import ImageData
from fairlead.data.own.columns import Columns
from fairlead.data.own.fitting import FITS, Fit, as_size
from fairlead.data.own.folders import read_folder
from fairlead.data.own.found import Pictures, Tables
from fairlead.data.own.listing import SPLITS
from fairlead.data.own.npz import read_arrays
from fairlead.data.own.sets import Wanted, limited, of_arrays, of_pictures, of_tables
from fairlead.data.spec import arguments_of, read_call


def load_mnist(split: str = "train") -> ImageData:
    """MNIST from the hub (`ylecun/mnist`): uint8 [60000, 1, 28, 28] as "train", [10000, ...] as "test"."""
    return replace(load_data("ylecun/mnist", split), name="mnist", notes=())


def load_cifar10(split: str = "train") -> ImageData:
    """CIFAR-10 from the hub (`uoft-cs/cifar10`): uint8 [50000, 3, 32, 32] as "train", [10000, ...] as "test"."""
    return replace(load_data("uoft-cs/cifar10", split), name="cifar10", notes=())


def load_data(
    spec: str | Path,
    split: str = "train",
    size: int | str | Sequence[int] | None = None,
    limit: int | None = None,
    flip: bool | None = None,
    caption_column: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    fit: str = "centre",
    skip_broken: bool = False,
    progress: Progress = silent,
) -> ImageData:
    """Load labelled or captioned images by name or path; they are decoded once and then read from a mapped file.

    Args:
        spec: tried in this order: a registered short name (`digits`, `mnist`, `cifar10`, `scenes`), with arguments
            where it takes some (`scenes(source="mnist", two=0.5)`); a local folder of images, parquet, npz or
            `save_to_disk`, see :func:`fairlead.data.own.folders.read_folder`; a CSV, JSON lines, parquet or npz file;
            a hub name `owner/name`.
        split: "train", "test" or another one the set has. "test" is what is held out: if there is none, its validation
            split; if there is neither, a fixed, stratified 10 % of its train images, and "train" is the other 90 %.
        size: a side in pixels, or "64x96" or [64, 96], height x width; required if the images differ in size. Scenes
            are drawn at that size unless ``spec`` says another.
        limit: at most so many images, a fixed choice spread over the classes; a smaller limit chooses among them.
        flip: overrides whether horizontal flips suit the set (:class:`ImageData`); by default they do where more than
            half of the images are in colour and there are no captions, which may say left and right.
        caption_column: column of captions (text, or lists of text); by default one named caption, captions, text or
            prompt, if there is one. A captioned set needs no labels: it then has one class.
        image_column, label_column: by default those of known names, see docs/data.md.
        fit: how images come to ``size``: centre, random, resize or pad, see :data:`fairlead.data.own.fitting.Fit`.
        skip_broken: leave out images that cannot be decoded, in place of refusing them.
        progress: of the decoding.

    Raises:
        UsageError: one line, for anything wrong with the arguments, the folder, the connection, a column or an image.
    """
    spec = str(as_path("data", spec)) if not isinstance(spec, str) else spec
    limit = plain(limit)
    if limit is not None and not is_count(limit):
        raise UsageError(f"data {spec!r}: expected limit of at least 1, got {shown(limit)}")
    columns = {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
    for name, text in {"split": split, **columns}.items():
        if not isinstance(text, str | None):
            raise UsageError(f"data {spec!r}: expected {name} to be a name, got {shown(text)}")
    for name, text in columns.items():
        if (other := next((key for key, value in columns.items() if value == text and key != name), "")) and text:
            raise UsageError(f"data {spec!r}: {name} and {other} are both {text!r}; a column is one of them")
    if not isinstance(flip, bool | None):
        raise UsageError(f"data {spec!r}: expected flip to be True, False or None, got {shown(flip)}")
    chosen("fit", fit, FITS)
    sides, way = as_size(size, f"data {spec!r}"), cast(Fit, fit)
    if sides is None and fit != "centre":
        raise UsageError(f"data {spec!r}: --fit {fit} says how to resize images; give --size, e.g. 64 or 64x96")
    local = spec not in names("data") and is_there(home_expanded(spec))
    if not local and (called := read_call(spec)) is not None:
        if asked := [f"{name}={value!r}" for name, value in columns.items() if value is not None]:
            raise UsageError(
                f"data {spec!r}: {asked[0]} names a column of a hub set or a folder, and {called[0]} is none; leave it "
                "out"
            )
        return _registered(*called, Wanted(spec, split, sides, limit, flip, way))
    wanted = Wanted(
        spec, split, sides, limit, flip, way, Columns(image_column, label_column, caption_column), skip_broken, progress
    )
    if local:
        return _local(home_expanded(spec), wanted)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", spec):
        return of_tables(_load(spec, spec), spec, wanted, (), _cache_folders())
    raise UsageError(
        f"{unknown('data', spec, names('data'))!s}; or give an existing local folder, or a hub name owner/name"
    )


def _registered(name: str, arguments: dict[str, Any], wanted: Wanted) -> ImageData:
    loader, size = lookup("data", name), wanted.size
    if size is not None and "size" in arguments_of(loader):
        if size[0] != size[1] and "size" not in arguments:
            raise UsageError(f"data {wanted.spec!r}: is drawn in squares; give one side, e.g. --size {min(size)}")
        arguments.setdefault("size", size[0])
    data: ImageData = loader(wanted.split, **arguments)
    if wanted.limit is not None:
        data = data.subset(limited(data.labels, wanted.limit))
    if size is not None and data.shape[1:] != size:
        if wanted.fit == "random":
            raise UsageError(f"data {wanted.spec!r}: --fit random is for folders and hub sets; take centre")
        data = replace(data, images=resize_images(data.images, size, wanted.spec, wanted.fit))
    return data if wanted.flip is None else replace(data, flip=wanted.flip)


def _local(place: Path, wanted: Wanted) -> ImageData:
    what, name = wanted.spec, printable(place.resolve().name)
    ending = place.suffix.lower()
    found: Pictures | Tables
    if is_folder(place):
        found = read_folder(place, wanted.columns)
    elif not is_file(place):
        raise UsageError(f"data {what!r}: is neither a folder nor a file")
    elif ending in (".csv", ".jsonl"):
        found = read_folder(place.parent, wanted.columns, table=place)
    elif ending in (".parquet", ".npz"):
        found = Tables("parquet" if ending == ".parquet" else "npz", {"train": [place]})
    else:
        raise UsageError(
            f"data {what!r}: is a file; expected a folder, or a file of .csv, .jsonl, .parquet or .npz; unpack archives"
        )
    if isinstance(found, Pictures):
        return of_pictures(found, wanted)
    if found.kind == "npz":
        if wanted.columns.caption is not None:
            raise UsageError(f"data {what!r}: --caption-column: arrays have no captions; leave it out")
        return of_arrays(read_arrays(found.files, wanted.columns, what), name, wanted, found.notes)
    if found.kind == "saved":
        return of_tables(_saved(place, what), name, wanted, found.notes, ())
    patterns = {split: [glob.escape(str(path)) for path in paths] for split, paths in found.files.items()}
    sets = _load(what, "parquet", data_files=patterns)
    try:
        return of_tables(sets, name, wanted, found.notes, ())
    except UsageError as error:
        if found.images and "no image column" in str(error):
            raise UsageError(
                f"{error}; {found.images:,} image files are in the same folder; to read these, remove the parquet "
                "files, or rename one with a column file_name to metadata.parquet"
            ) from error
        raise


def _saved(folder: Path, what: str) -> dict[str, Any]:
    """The splits of what ``save_to_disk`` wrote."""
    import datasets

    try:
        with _quiet():
            saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever pyarrow and datasets raise
        raise UsageError(
            f"data {what!r}: the datasets library cannot read what save_to_disk wrote ({' '.join(str(error).split())})"
        ) from error
    sets = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {SPLITS.get(str(split).lower(), str(split)): rows for split, rows in sets.items()}


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
