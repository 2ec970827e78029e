"""Which files of a local folder belong to which split. Decided by folder and file names here, not by the guesses of
`datasets`, which would put `cat/my_test_shot.png` into a test split."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from fairlead.core.errors import UsageError

SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class Found:
    """Files of a folder.

    Attributes:
        images: image files, else parquet.
        captioned: whether they come with metadata.jsonl or metadata.csv.
        files: split -> glob patterns.
    """

    images: bool
    captioned: bool
    files: dict[str, list[str]]


def find_files(folder: Path) -> Found:
    """The files of a folder of parquet files or of images.

    Parquet: a file or one of its folders named train*, test*, val* is of that split; any other is of "train".
    Images: one sub-folder per class; the classes may be under train/, test/, validation/. With a metadata.jsonl or
    metadata.csv in the folder, or in each of train/, test/, ..., images may lie anywhere below it.

    Raises:
        UsageError: if there is neither, or the images are not in class folders and have no metadata.
    """
    parquet = sorted(folder.rglob("*.parquet"))
    if parquet:
        files: dict[str, list[str]] = {}
        for path in parquet:
            files.setdefault(_split_of(path.relative_to(folder)), []).append(_literal(path))
        return Found(False, False, files)
    inside = [p for p in sorted(folder.iterdir()) if p.name in SPLITS and p.is_dir()]
    roots = {SPLITS[p.name]: p for p in inside if _has_folders(p) or _metadata(p)} or {"train": folder}
    captioned = {split: bool(_metadata(root)) for split, root in roots.items()}
    if any(captioned.values()):
        bare = next((root for split, root in roots.items() if not captioned[split]), None)
        if bare is not None:
            raise UsageError(
                f"data {str(folder)!r}: {bare} has no metadata.jsonl or metadata.csv and another split has; give both "
                "or neither"
            )
        return Found(True, True, {split: [f"{_literal(root)}/**"] for split, root in roots.items()})
    if folder not in roots.values() and _metadata(folder, deep=False):
        raise UsageError(
            f"data {str(folder)!r}: {_metadata(folder, deep=False)[0].name} lies beside {', '.join(sorted(roots))}; "
            "expected one in each of them"
        )
    for root in roots.values():
        _check_classes(root, folder)
    return Found(True, False, {split: [f"{_literal(root)}/*/*"] for split, root in roots.items()})


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, resolved."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return [p for p in folder.resolve().rglob("*") if p.suffix.lower() in ImageFolder.EXTENSIONS]


def _metadata(root: Path, deep: bool = True) -> list[Path]:
    names = ("metadata.jsonl", "metadata.csv")
    return sorted(path for path in (root.rglob("metadata.*") if deep else root.iterdir()) if path.name in names)


def _split_of(relative: Path) -> str:
    for part in reversed(relative.parts):
        match = re.match(r"(train|test|val)", part)
        if match:
            return SPLITS[match[1]]
    return "train"


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())


def _check_classes(root: Path, folder: Path) -> None:
    images = [path.relative_to(root.resolve()) for path in images_below(root)]
    if not images:
        raise UsageError(
            f"data {str(folder)!r}: no parquet files and no images in {root}; expected train.parquet, "
            "or one sub-folder of images per class"
        )
    astray = sorted(path for path in images if len(path.parts) != 2)
    if astray:
        raise UsageError(
            f"data {str(folder)!r}: no label for {root / astray[0]}; every image belongs into "
            f"{root}/CLASS/, one sub-folder per class, or gets a line in a metadata.jsonl"
        )


def _literal(path: Path) -> str:
    """The path as a pattern that matches only itself."""
    return glob.escape(str(path.resolve()))
