"""A set of images to be measured: a folder of files, flat or with a sub-folder a class, or what ``load_data`` takes.

Beside the pixels it keeps what a comparison must know of the files: their names, their encoding, what was left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.core.places import home_expanded, is_folder, is_there
from fairlead.core.printable import printable
from fairlead.core.registry import names
from fairlead.data.decode import GIVE_SIZE, decode_images, in_colour, open_image, unwarned
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.data.names import Names
from fairlead.data.own.columns import ONE_CLASS
from fairlead.data.own.fitting import as_size
from fairlead.data.own.folders import read_folder
from fairlead.data.own.found import Tables


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

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.data)

    @property
    def described(self) -> str:
        """``cats#0123456789abcdef``, with the split of a data set: ``digits/train#...``; for protocols."""
        split = f"/{self.data.split}" if self.data.split else ""
        return f"{self.data.name}{split}#{self.data.fingerprint}"

    @cached_property
    def pixels(self) -> tuple[int, ...]:
        """A hash of the pixels of each image; equal for equal images of one size, grey ones also where the one was
        saved as grey and the other in colour."""
        size = self.data.shape[1:]
        coloured = in_colour(self.data.images).tolist()
        return tuple(
            hash((size, (image if colour else image[:1]).numpy().tobytes()))
            for image, colour in zip(self.data.images, coloured, strict=True)
        )


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
    as_size(resize, "resize")
    folder = home_expanded(spec)
    local = is_folder(spec)
    if is_there(folder) and not local:
        raise UsageError(f"{what} {spec!r} is a file; expected a folder of images or the name of a data set")
    found = _read_folder(folder, resize, what) if local and spec not in names("data") else None
    if found is None:
        name, _, split = (spec, "", "") if local else spec.partition("@")
        try:
            data = load_data(name, split=split or "train", size=resize)
        except UsageError as error:
            raise UsageError(f"{what}: {str(error).replace(GIVE_SIZE, 'pass --resize, e.g. 64')}") from error
        found = ImageSet(data, data.classes != (ONE_CLASS,), (), {}, data.notes)
    if len(found) < 2:
        raise UsageError(f"{what} {spec!r}: only 1 image; expected at least 2, better 500")
    return found


def _read_folder(folder: Path, resize: int | None, what: str) -> ImageSet | None:
    """None if the folder holds files of many images or splits, of which ``load_data`` takes one."""
    found = read_folder(folder, what=what)
    if isinstance(found, Tables) or found.splits:
        return None
    rows = sorted(found.images, key=lambda image: image.path)
    paths = [image.path for image in rows]
    lacking = [image.where for image in rows if image.label < 0]
    if lacking:
        raise UsageError(
            f"{what} {str(folder)!r}: {len(lacking)} of {len(paths)} images have no label, first {lacking[0]}; fill "
            "them in or remove them"
        )
    encodings, asked = _headers(paths, resize, what, folder)
    images = decode_images([(str(path), None) for path in paths], resize, str(folder), len(paths))
    labels, classes = torch.tensor([image.label for image in rows]), found.classes
    labelled, notes = found.labelled, found.notes[1:]  # the first counts the images, as measure does itself
    if not labelled and (known := _asked(asked)):
        labels, classes, labelled = torch.tensor([known.index(str(name)) for name in asked]), known, True
    coloured = in_colour(images)
    if coloured.any() and not coloured.all():
        notes = (
            *notes,
            f"{int(coloured.sum()):,} of {len(images):,} images of {folder.name} are in colour, the others grey",
        )
    data = ImageData(
        images, labels, classes, printable(folder.resolve().name), "", flip=2 * int(coloured.sum()) > len(images)
    )
    files = tuple(path.relative_to(found.folder).as_posix() for path in paths)
    return ImageSet(data, labelled, files, encodings, notes)


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
            with unwarned(), open_image(path) as image:
                encodings[image.format or "?"] += 1
                turned = image.getexif().get(0x0112, 1) >= 5  # camera rotation by 90 degrees
                sizes.setdefault(image.size[::-1] if turned else image.size, []).append(path)
                asked.append(_condition(image.info.get("fairlead")))
        except Exception:  # decoding will name the file and say what is wrong
            asked.append(None)
    if resize is None and len(sizes) > 1:
        ranked = sorted(sizes.items(), key=lambda entry: -len(entry[1]))
        counts = ", ".join(f"{len(those):,} of {w}x{h} ({those[0].name})" for (w, h), those in ranked[:3])
        more = f" and {len(ranked) - 3} more sizes" if len(ranked) > 3 else ""
        raise UsageError(
            f"{what} {str(folder)!r}: images differ in size: {counts}{more}; pass --resize {min(ranked[0][0])} to "
            "bring "
            "all to one (shorter side resized, centre cropped), or remove those that do not belong"
        )
    return dict(encodings), asked


def _condition(note: object) -> str | None:
    try:
        made = json.loads(str(note)) if note else {}
        given = made.get("cond")
        # a number that is no text was the place of a class; this version writes names only
        return f"index {given}" if isinstance(given, int) else None if given is None else printable(str(given))
    except (ValueError, AttributeError, RecursionError):
        return None


def _asked(conditions: Sequence[str | None]) -> tuple[str, ...]:
    """The classes, if every image says what was asked for."""
    known = {name for name in conditions if name is not None}
    return tuple(sorted(known)) if None not in conditions and known else ()


def common_labels(real: ImageSet, fake: ImageSet) -> Tensor | None:
    """int64 [n]: the labels of ``fake`` as indices into the classes of ``real``; None unless both are labelled and
    every class of the fakes is one of the real images, read as conditions are (:mod:`fairlead.data.names`)."""
    if not (real.labelled and fake.labelled):
        return None
    known = Names(real.data.classes)
    index = [known.find(name) for name in fake.data.classes]
    if any(index[label] is None for label in set(fake.data.labels.tolist())):
        return None
    return torch.tensor([-1 if i is None else i for i in index])[fake.data.labels]
