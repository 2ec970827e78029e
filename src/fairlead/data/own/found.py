"""What was found in a folder: images with what is said of each, or files that hold many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Picture:
    """An image of a folder.

    Attributes:
        path: of its file.
        split: "train", "test" or "validation".
        label: index into the classes; -1 if its line has none.
        captions: none, or one or several.
        where: the line of the metadata that is about it, for messages; "" without.
    """

    path: Path
    split: str
    label: int = 0
    captions: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Pictures:
    """The images of a folder.

    Attributes:
        folder: resolved.
        images: those of each split by path, or in the order of the metadata.
        classes: names of the classes; the one class "image" if there are none.
        splits: those that the folder divides its images into; none: it does not, and all are of "train".
        labelled: whether the classes mean something.
        captioned: whether every image has a caption.
        columns: of metadata that says neither labels nor captions, the image first; else none.
        files: how many were found in all, without hidden ones.
        notes: what was found, used and left out, a sentence each.
    """

    folder: Path
    images: tuple[Picture, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    labelled: bool
    captioned: bool
    columns: tuple[str, ...]
    files: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """Files of a folder that hold many images each.

    Attributes:
        kind: "parquet", "npz", or "saved": by ``save_to_disk`` of `datasets`.
        files: split -> files; of a saved set nothing, as it says itself.
        images: how many image files lie beside them, unread.
        notes: as of :class:`Pictures`.
    """

    kind: Literal["parquet", "npz", "saved"]
    files: Mapping[str, list[Path]]
    images: int = 0
    notes: tuple[str, ...] = ()
