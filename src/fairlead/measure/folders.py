"""A set of images to be measured: a folder of files, flat or with a sub-folder a class, or what ``load_data`` takes.

Beside the pixels it keeps what a comparison must know of the files: their names, their encoding, what was left out.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.places import expanded, is_folder, is_there
from fairlead.core.registry import names
from fairlead.data.decode import decode_images
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.folders import SPLITS
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the files that are taken for images."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and where they come from.

    Attributes:
        data: the images; all labels are 0 if ``labelled`` is False.
        labelled: whether the labels mean something.
        files: the file of each image, relative to its folder; empty for a data set.
        encodings: how many files of each encoding ("PNG", "JPEG", ...); empty for a data set.
        notes: what was left out, a sentence each.
    """

    data: ImageData
    labelled: bool
    files: tuple[str, ...]
    encodings: Mapping[str, int]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.data)

    @property
    def described(self) -> str:
        """``cats#0123456789abcdef``, with the split of a data set: ``digits/train#...``; for protocols."""
        split = f"/{self.data.split}" if self.data.split else ""
        return f"{self.data.name}{split}#{self.data.fingerprint}"

    @cached_property
    def pixels(self) -> tuple[int, ...]:
        """A hash of the pixels of each image; equal for equal images of one shape."""
        shape = str(self.data.shape)
        return tuple(hash((shape, image.numpy().tobytes())) for image in self.data.images)


def read_images(spec: str, resize: int | None = None, what: str = "images") -> ImageSet:
    """The images that ``spec`` names, in the order of their file names.

    Args:
        spec: a folder of images, flat or with a sub-folder a class; or a name or folder as in ``load_data``, with
            ``@SPLIT`` behind it for another split than "train", as in ``digits@test``. A folder written by
            ``fairlead sample`` has its conditions as classes.
        resize: bring every image to this size: shorter side resized (bicubic, antialiased), centre cropped.
        what: for messages: REAL or FAKE.

    Raises:
        UsageError: one line, if there is no such folder or data, it is empty or holds one image only, sizes differ and
            no ``resize`` is given, images are both in the folder and in its sub-folders, or a file is broken.
    """
    if resize is not None and resize < 1:
        raise UsageError(f"resize: expected at least 1 pixel, got {resize}")
    folder = expanded(spec)
    local = is_folder(spec)
    if is_there(folder) and not local:
        raise UsageError(f"{what} {spec!r} is a file; expected a folder of images or the name of a data set")
    found = _read_folder(folder, resize, what) if local and spec not in names("data") else None
    if found is None:
        name, _, split = (spec, "", "") if local else spec.partition("@")
        try:
            data = load_data(name, split=split or "train", size=resize)
        except UsageError as error:
            raise UsageError(
                f"{what}: {str(error).replace('give a size, e.g. size=', 'pass --resize, e.g. ')}"
            ) from error
        found = ImageSet(data, True, (), {}, ())
    if len(found) < 2:
        raise UsageError(f"{what} {spec!r}: only 1 image; expected at least 2, better 500")
    return found


def _read_folder(folder: Path, resize: int | None, what: str) -> ImageSet | None:
    """None if the folder is one of those that ``load_data`` reads: parquet files, or classes under train/ and test/."""
    if any(folder.rglob("*.parquet")):
        return None
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    flat, left = _split_images([path for path in inside if path.is_file()])
    if flat and (folder / "run.json") in left and (folder / "grid.png") in flat:
        flat.remove(folder / "grid.png")  # an overview of the others
        left.append(folder / "grid.png")
    folders = {path.name: _images_below(path) for path in inside if path.is_dir()}
    folders = {name: paths for name, paths in folders.items() if paths}
    if not flat and any(
        name in SPLITS and any(p.parent.name != name for p in paths) for name, paths in folders.items()
    ):
        return None
    if not flat and not folders:
        raise UsageError(
            f"{what} {str(folder)!r}: no images in it; expected files ({', '.join(IMAGES)}) or a sub-folder a class"
        )
    if flat and folders:
        raise UsageError(
            f"{what} {str(folder)!r}: images in it and in its sub-folders ({', '.join(sorted(folders)[:3])}); expected "
            "either a flat folder or one sub-folder a class"
        )
    deep = [path for name, paths in folders.items() for path in paths if path.parent != folder / name]
    if deep:
        raise UsageError(f"{what} {str(folder)!r}: {deep[0]} is deeper than FOLDER/CLASS/IMAGE; expected one level")
    paths = flat or [path for _, found in sorted(folders.items()) for path in found]
    encodings, asked = _headers(paths, resize, what, folder)
    images = decode_images([(str(path), None) for path in paths], resize, str(folder))
    classes: tuple[str, ...] = tuple(sorted(folders)) or _asked(asked) or ("image",)
    of = [path.parent.name for path in paths] if folders else asked if len(_asked(asked)) else ["image"] * len(paths)
    labels = torch.tensor([classes.index(str(name)) for name in of])
    notes = (f"left out of {folder.name}: {', '.join(path.name for path in left[:5])}",) if left else ()
    words = DIGIT_NAMES if classes == tuple("0123456789") else classes
    data = ImageData(images, labels, words, folder.resolve().name, "", flip=images.shape[1] == 3)
    files = tuple(str(path.relative_to(folder)) for path in paths)
    return ImageSet(data, classes != ("image",), files, encodings, notes)


def _split_images(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(images, others)"""
    images = [path for path in paths if path.suffix.lower() in IMAGES]
    return images, [path for path in paths if path not in set(images)]


def _images_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return _split_images(found)[0]


def _headers(
    paths: Sequence[Path], resize: int | None, what: str, folder: Path
) -> tuple[Mapping[str, int], list[str | None]]:
    """(number of files of each encoding, the condition that ``fairlead sample`` wrote into each or None).

    Raises:
        UsageError: if the images differ in size and are not resized.
    """
    encodings: Counter[str] = Counter()
    sizes: dict[tuple[int, int], list[Path]] = {}
    asked: list[str | None] = []
    for path in paths:
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore")
                encodings[image.format or "?"] += 1
                turned = image.getexif().get(0x0112, 1) >= 5  # camera rotation by 90 degrees
                sizes.setdefault(image.size[::-1] if turned else image.size, []).append(path)
                asked.append(_condition(image.info.get("fairlead")))
        except Exception:  # decoding will name the file and say what is wrong
            asked.append(None)
    if resize is None and len(sizes) > 1:
        ranked = sorted(sizes.items(), key=lambda entry: -len(entry[1]))
        told = ", ".join(f"{len(those):,} of {w}x{h} ({those[0].name})" for (w, h), those in ranked[:3])
        more = f" and {len(ranked) - 3} more sizes" if len(ranked) > 3 else ""
        raise UsageError(
            f"{what} {str(folder)!r}: images differ in size: {told}{more}; pass --resize {min(ranked[0][0])} to bring "
            "all to one (shorter side resized, centre cropped), or remove those that do not belong"
        )
    return dict(encodings), asked


def _condition(note: object) -> str | None:
    try:
        made = json.loads(str(note)) if note else {}
        return str(made["cond"]) if made.get("cond") is not None else None
    except (ValueError, AttributeError):
        return None


def _asked(conditions: Sequence[str | None]) -> tuple[str, ...]:
    """The classes, if every image says what was asked for."""
    known = {name for name in conditions if name is not None}
    return tuple(sorted(known)) if None not in conditions and known else ()


def common_labels(real: ImageSet, fake: ImageSet) -> Tensor | None:
    """int64 [n]: the labels of ``fake`` as indices into the classes of ``real``; None unless both are labelled and
    every class of the fakes is one of the real images, by name or, as in ``--cond 3``, by number."""
    if not (real.labelled and fake.labelled):
        return None
    known = {name: index for index, name in enumerate(real.data.classes)}
    numbers = {str(index): index for index in range(len(known))} if not set(known) & set("0123456789") else {}
    index = [known.get(name, numbers.get(name)) for name in fake.data.classes]
    if any(index[label] is None for label in set(fake.data.labels.tolist())):
        return None
    return torch.tensor([-1 if i is None else i for i in index])[fake.data.labels]
