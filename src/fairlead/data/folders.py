"""Which files of a local folder belong to which split. Decided by folder and file names here, not by the guesses of
`datasets`, which would put `cat/my_test_shot.png` into a test split."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from fairlead.core.errors import UsageError

SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}


def find_files(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """(builder of `datasets`, split -> glob patterns) of a folder of parquet files or of images.

    Parquet: a file or one of its folders named train*, test*, val* is of that split; any other is of "train".
    Images: one sub-folder per class; the classes may be under train/, test/, validation/.

    Raises:
        UsageError: if there is neither, or the images are not in class folders.
    """
    parquet = sorted(folder.rglob("*.parquet"))
    if parquet:
        files: dict[str, list[str]] = {}
        for path in parquet:
            files.setdefault(_split_of(path.relative_to(folder)), []).append(_literal(path))
        return "parquet", files
    roots = {SPLITS[p.name]: p for p in sorted(folder.iterdir()) if p.name in SPLITS and _has_folders(p)}
    roots = roots or {"train": folder}
    for root in roots.values():
        _check_classes(root, folder)
    return "imagefolder", {split: [f"{_literal(root)}/*/*"] for split, root in roots.items()}


def _split_of(relative: Path) -> str:
    for part in reversed(relative.parts):
        match = re.match(r"(train|test|val)", part)
        if match:
            return SPLITS[match[1]]
    return "train"


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())


def _check_classes(root: Path, folder: Path) -> None:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    images = [p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in ImageFolder.EXTENSIONS]
    if not images:
        raise UsageError(
            f"data {str(folder)!r}: no parquet files and no images in {root}; expected train.parquet, "
            "or one sub-folder of images per class"
        )
    astray = sorted(path for path in images if len(path.parts) != 2)
    if astray:
        raise UsageError(
            f"data {str(folder)!r}: no label for {root / astray[0]}; every image belongs into "
            f"{root}/CLASS/, one sub-folder per class"
        )


def _literal(path: Path) -> str:
    """The path as a pattern that matches only itself."""
    return glob.escape(str(path.resolve()))
