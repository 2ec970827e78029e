"""The one reader of local folders: folder -> images with their splits, labels and captions, and what was left out.

Decided by folder and file names here, not by the guesses of `datasets`, which would put `cat/my_test_shot.png` into a
test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fairlead.core.errors import UsageError
from fairlead.core.printable import printable
from fairlead.data.decode import ENDINGS
from fairlead.data.own.columns import ONE_CLASS, Columns, class_names, firsts, places
from fairlead.data.own.found import Picture, Pictures, Tables
from fairlead.data.own.listing import STYLEGAN, Listing, list_folder, of_img2dataset, split_of_file, split_of_folder
from fairlead.data.own.metadata import Metadata, captions_beside, read_metadata, stylegan_rows

ANY_COLUMNS = Columns()
_WRITE_METADATA = 'write a metadata.jsonl of lines such as {"file_name": "0/1.png", "text": "a red cat"}'


def read_folder(
    folder: Path, columns: Columns = ANY_COLUMNS, what: str = "data", table: Path | None = None
) -> Pictures | Tables:
    """What a folder holds; no image is opened.

    Parquet and npz: a file whose name begins or ends with the word train, test, validation, ... or that lies in a
    folder of such a name is of that split; any other is of "train". Images: flat, or one sub-folder per class, or as a
    metadata.jsonl, metadata.csv, metadata.parquet or StyleGAN's dataset.json says, which may stand over images at any
    depth. All of it may lie under train/, test/, validation/ in any usual spelling. Links are followed, hidden files
    and folders are left out.

    Args:
        columns: of the metadata that are asked for.
        what: the folder is, for messages.
        table: a CSV or JSON lines in the folder to go by in place of metadata; images that it does not name are left
            out.

    Raises:
        UsageError: one line, if there is nothing to be read, or it is not clear how.
    """
    if table is None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return Tables("saved", {})
    found = list_folder(folder, what)
    what = f"{what} {str(folder)!r}"
    if table is not None:
        found.go_by(table)
    _check_known(found, what)
    if not (found.images and found.metadata) and found.tables:
        return _parquet(found)
    if not found.images and (arrays := found.arrays):
        found.unopened = [path for path in found.unopened if path not in arrays]
        files: dict[str, list[Path]] = {}
        for path in arrays:
            files.setdefault(split_of_file(path.relative_to(found.folder)) or "train", []).append(path)
        return Tables("npz", files, 0, found.notes())
    if not found.images:
        raise UsageError(
            f"{what}: no parquet files and no images in it; expected train.parquet, images, or one sub-folder of "
            f"images per class ({', '.join(ENDINGS)}){''.join(f'; {note}' for note in found.notes())}"
        )
    found.others.extend(found.parquet)
    roots = _roots(found, what)
    metadata = {split: [path for root in own for path in _below(found.metadata, root)] for split, own in roots.items()}
    if not found.metadata:
        if asked := [name for name in ("image", "label", "caption") if getattr(columns, name) is not None]:
            raise UsageError(
                f"{what}: --{asked[0]}-column {getattr(columns, asked[0])}: it has no metadata.csv, .jsonl or .parquet "
                "and no parquet files with columns; give the table itself, e.g. FOLDER/labels.csv"
            )
        return _by_folders(found, roots, what)
    if table is None:
        _check_metadata(found, metadata, roots, what)
    return _by_metadata(found, roots, metadata, columns, what, table is not None)


def _check_known(found: Listing, what: str) -> None:
    """Refuse layouts that would be read wrongly or not at all, by name."""
    if not found.metadata and (mark := of_img2dataset(found)):
        raise UsageError(
            f"{what}: {mark} says that img2dataset wrote it, whose layout is not read; {_WRITE_METADATA} beside its "
            "images (of tar files: unpack them first)"
        )
    tars = [path for path in found.archives if path.suffix.lower() in (".tar", ".tgz")]
    if tars and not found.images and not found.parquet:
        raise UsageError(
            f"{what}: {len(tars):,} tar files such as {tars[0].name}, as of webdataset, which are not read; unpack "
            f"them and {_WRITE_METADATA}"
        )
    for path in [path for path in found.metadata if path.name == STYLEGAN]:
        if stylegan_rows(path) is None:
            found.metadata.remove(path)
            found.others.append(path)


def _parquet(found: Listing) -> Tables:
    files: dict[str, list[Path]] = {}
    nameless = []
    found.others.extend(path for path in found.metadata if path.suffix != ".parquet")
    for path in found.tables:
        split = split_of_file(path.relative_to(found.folder))
        if split is None:
            nameless.append(path)
        files.setdefault(split or "train", []).append(path)
    counts = ", ".join(f"{split} {len(paths):,}" for split, paths in files.items())
    notes = [f"parquet files: {counts}"]
    if nameless and len(nameless) < sum(map(len, files.values())):
        notes.append(f"taken for train, as no split is named: {found.named(nameless)}")
    if found.images:
        notes.append(f"left out, images beside parquet files: {found.named(found.images)}")
    return Tables("parquet", files, len(found.images), (*notes, *found.notes()))


def _roots(found: Listing, what: str) -> dict[str, list[Path]]:
    """split -> the folders that hold it; {"": [folder]} if the folder is not divided.

    Folders called train and test are splits, also without classes below them; one alone among others, or by itself and
    without folders of its own, is a class of that name.
    """
    whole = {"": [found.folder]}
    inside: dict[str, set[int]] = {}
    for path in found.images:
        parts = path.relative_to(found.folder).parts
        inside.setdefault(parts[0] if len(parts) > 1 else "", set()).add(len(parts))
    splits = {top: split for top in inside if (split := split_of_folder(top))}
    deep = [top for top in splits if max(inside[top]) > 2 or _below(found.metadata, found.folder / top)]
    if not splits or (len(splits) == 1 and not deep):
        return whole
    if others := [top for top in inside if top not in splits]:
        raise UsageError(
            f"{what}: folders with names of splits ({_and(splits)}) are beside "
            f"{_and(top or 'images' for top in others)}; move what does not belong, or rename it"
        )
    roots: dict[str, list[Path]] = {}
    for top, split in splits.items():
        roots.setdefault(split, []).append(found.folder / top)
    return roots


def _check_metadata(
    found: Listing, metadata: Mapping[str, Sequence[Path]], roots: Mapping[str, Sequence[Path]], what: str
) -> None:
    """Every split has metadata or none has, and a folder has one file of it."""
    above = [path for path in found.metadata if path.parent == found.folder]
    if above and "" not in roots:
        raise UsageError(
            f"{what}: {above[0].name} lies beside {', '.join(sorted(roots))}; expected one in each of them"
        )
    bare = next((roots[split][0] for split, files in metadata.items() if not files), None)
    if bare is not None:
        raise UsageError(
            f"{what}: {bare} has no metadata.jsonl or metadata.csv and another split has; give both or neither"
        )
    folders = [path.parent for path in found.metadata]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        names = [path.name for path in found.metadata if path.parent == twice]
        raise UsageError(f"{what}: {twice} has {' and '.join(names)}; expected one of them, remove the other")


def _by_folders(found: Listing, roots: Mapping[str, Sequence[Path]], what: str) -> Pictures:
    """Classes by sub-folders, or no classes."""
    parts = {
        path: (split, path.relative_to(root).parts)
        for split, own in roots.items()
        for root in own
        for path in _below(found.images, root)
    }
    loose = [path for path, (_, inside) in parts.items() if len(inside) == 1]
    deep = [path for path, (_, inside) in parts.items() if len(inside) > 2]
    if deep or (loose and len(loose) < len(parts)):
        subfolders = sorted({inside[0] for _, inside in parts.values() if len(inside) > 1})
        why = (
            "lies deeper than FOLDER/CLASS/IMAGE" if deep
            else f"is one of images in it and in its sub-folders ({', '.join(subfolders[:3])})"
        )  # fmt: skip
        raise UsageError(f"{what}: {unlabelled(found.folder, (deep or loose)[0])}; it {why}")
    index = {} if loose else places(sorted({inside[0] for _, inside in parts.values()}))
    captions, texts = captions_beside(found, what)
    names = firsts(index)
    classes = class_names(names, what)
    images = [
        Picture(path, split or "train", 0 if loose else index[inside[0]], captions.get(path, ()))
        for path, (split, inside) in parts.items()
    ]
    sources = f"{len(names):,} classes by folder" if names else "no classes"
    sources += f", captions by the {texts} beside each image" if captions else ""
    taken = [f"the folder {name} is taken for a class, not for a split" for name in names if split_of_folder(name)]
    return _pictures(found, images, classes, list(roots), sources, taken)


def _by_metadata(
    found: Listing,
    roots: Mapping[str, Sequence[Path]],
    files: Mapping[str, Sequence[Path]],
    columns: Columns,
    what: str,
    some: bool = False,
) -> Pictures:
    """Labels and captions as the metadata says; classes by sub-folders where it has no labels and all images lie in
    some."""
    order = [path for own in files.values() for path in own]
    split_at = {path: split for split, own in roots.items() for root in own for path in _below(found.images, root)}
    root_at = {path: root for own in roots.values() for root in own for path in _below(found.images, root)}
    read = read_metadata(order, list(split_at), columns, what, some)
    if read.labels is not None:
        values = list(read.labels)
        sources = f"labels by column {read.label!r}"
    else:
        inside = [line.path.relative_to(root_at[line.path]).parts for line in read.lines]
        by_folder = order[0].name != STYLEGAN and all(len(parts) == 2 for parts in inside)
        values = [parts[0] for parts in inside] if by_folder else []
        sources = "classes by folder" if by_folder else "no classes"
    known = sorted({value for value in values if value is not None}, key=_in_order)
    index = places(known)
    classes = class_names(firsts(index), what)
    images = [
        Picture(
            line.path,
            split_at[line.path] or "train",
            index.get(values[i], -1) if known else 0,
            read.captions[i] if read.captions is not None else (),
            line.where,
        )
        for i, line in enumerate(read.lines)
    ]
    captioned = f"captions by column {read.caption!r}" if read.caption else "no captions"
    more = [f"column {name!r} holds {value}: not taken for labels" for name, value in read.unused.items()]
    idle = [name for name in read.columns[1:] if name not in (read.label, read.caption, *read.unused)]
    more += [f"columns not used: {', '.join(map(printable, idle))}"] if idle else []
    again = len(read.lines) - len({line.path for line in read.lines})
    unnamed = len(split_at) - len({line.path for line in read.lines})
    more += [f"left out, images that {order[0].name} does not name: {unnamed:,}"] if unnamed else []
    more += [f"{again:,} lines name an image that another line names too: it is there once for each"] if again else []
    names = ", ".join(dict.fromkeys(path.name for path in order))
    count = f"{len(classes):,} classes, " if known else ""
    return _pictures(found, images, classes, list(roots), f"{names}: {count}{sources}, {captioned}", more, read)


def _pictures(
    found: Listing,
    images: Sequence[Picture],
    classes: tuple[str, ...],
    splits: Sequence[str],
    sources: str,
    more: Sequence[str],
    read: Metadata | None = None,
) -> Pictures:
    divided = tuple(split for split in splits if split)
    said = read is None or read.labels is not None or read.captions is not None or read.columns == ("image",)
    counts = [f"{split} {sum(image.split == split for image in images):,}" for split in divided]
    parts = f" ({', '.join(counts)})" if counts else ""
    return Pictures(
        found.folder,
        tuple(images),
        classes or (ONE_CLASS,),
        divided,
        bool(classes),
        all(image.captions for image in images),
        () if read is None or said else read.columns,
        found.files,
        (f"{printable(found.folder.name)}: {len(images):,} images{parts}, {sources}", *more, *found.notes()),
    )


def unlabelled(root: Path, path: Path) -> str:
    """What is wrong with an image that has no label, and what to do."""
    return (
        f"no label for {path}; every image belongs into {root}/CLASS/, one sub-folder per class, or gets a line with a "
        "label or a caption in a metadata.jsonl"
    )


def _below(paths: Sequence[Path], root: Path) -> list[Path]:
    return [path for path in paths if path.is_relative_to(root)]


def _in_order(value: str | int) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, value)


def _and(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{', '.join(listed[:3])}{more}"
