"""Which images of a folder, a table or an array make up the set that is asked for, and that set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.printable import printable
from fairlead.core.progress import Progress, silent
from fairlead.data.decode import saved_in_colour
from fairlead.data.images import ImageData, stratified_order
from fairlead.data.own.columns import (
    Columns,
    caption_column,
    captions_of,
    image_column,
    label_column,
    labels_of,
    no_labels,
)
from fairlead.data.own.fitting import Fit, size_text
from fairlead.data.own.folders import ANY_COLUMNS
from fairlead.data.own.found import Pictures
from fairlead.data.own.listing import SPLITS
from fairlead.data.own.npz import Arrays, pixels_of_member
from fairlead.data.own.preparation import prepared_images
from fairlead.data.own.rows import ArrayRows, ArrowRows, FileRows, ImageRows

HOLD_OUT = 0.1
SPLIT_SEED = 0
_NAMED = 5


@dataclass(frozen=True)
class Wanted:
    """What is asked of a set, see :func:`fairlead.data.hub.load_data`."""

    spec: str
    split: str = "train"
    size: tuple[int, int] | None = None
    limit: int | None = None
    flip: bool | None = None
    fit: Fit = "centre"
    columns: Columns = ANY_COLUMNS
    skip_broken: bool = False
    progress: Progress = silent

    @property
    def question(self) -> list[Any]:
        """What decides which images are meant, and how they are stored."""
        columns = [self.columns.image, self.columns.label, self.columns.caption]
        return [self.spec, self.split, self.size, self.limit, self.fit, columns]


@dataclass(frozen=True)
class _Chosen:
    """The rows of a stored split that make up what is wanted.

    Attributes:
        source: the split as it is stored.
        index: int64 [n].
        notes: what part of the set that is, and what is held out.
    """

    source: str
    index: Tensor
    notes: tuple[str, ...]


def of_pictures(found: Pictures, wanted: Wanted) -> ImageData:
    """The set of the images of a folder."""
    what = wanted.spec
    if found.columns:
        otherwise = "take the file away to go by class folders" if found.labelled else "add a column label or text"
        raise UsageError(
            f"data {what!r}: the metadata has no labels and no captions (its columns are {', '.join(found.columns)}); "
            f"name their column with --label-column or --caption-column, or {otherwise}"
        )
    own = {split: [i for i in found.images if i.split == split] for split in found.splits or ("train",)}
    labels = {split: torch.tensor([image.label for image in images]) for split, images in own.items()}
    chosen = _choose(labels, wanted, lambda split, row: own[split][row].where)
    images = [own[chosen.source][i] for i in chosen.index.tolist()]
    texts = [image.captions for image in images] if found.captioned else []
    rows = FileRows([image.path for image in images], found.folder, what)
    used = set(chosen.index.tolist())
    others = [image.path for i, image in enumerate(own[chosen.source]) if i not in used]
    notes, in_colour = [*found.notes, *chosen.notes], None
    if not found.splits and not any(saved_in_colour(image.path) for image in images[:1]):
        # both parts of a set that is divided here have the same channels
        in_colour = next(filter(saved_in_colour, others), None)
        if in_colour is not None and not any(saved_in_colour(image.path) for image in images):
            name = printable(in_colour.name)
            notes.append(f"read with three channels, as {name}, which is not in this split, is in colour")
    rest = found.files - len({image.path for image in found.images})
    counts = f"{found.files:,} files", len(found.images) - len(images), rest
    return _stored(
        rows, labels[chosen.source][chosen.index], found.classes, texts, printable(found.folder.name), wanted, notes,
        in_colour is not None, counts=counts,
    )  # fmt: skip


def of_tables(
    sets: Mapping[str, Any], name: str, wanted: Wanted, notes: Sequence[str], readable: Sequence[Path]
) -> ImageData:
    """The set of the rows of every split, as `datasets` has them.

    Args:
        readable: folders whose files a row may name in place of holding an image itself.
    """
    what, features = wanted.spec, next(iter(sets.values())).features
    pictures = image_column(features, what, wanted.columns.image)
    caption = caption_column(features, wanted.columns.caption, what)
    column = label_column(sets, caption, what, wanted.columns.label, pictures)
    labels, classes = labels_of(sets, column, what)
    chosen = _choose(labels, wanted, lambda split, row: f"{split} row {row}")
    index, source = chosen.index, chosen.source
    texts = [] if caption is None else captions_of(sets[source].select(index.tolist()), caption, index.tolist(), what)
    columns = [f"{kind} by column {of!r}" for kind, of in (("labels", column), ("captions", caption)) if of is not None]
    said = [*notes, f"{printable(name)}: {', '.join(columns) or 'no classes'}", *chosen.notes]
    said += no_labels(features) if column is None else []
    rows = ArrowRows(sets[source], pictures, index, f"{source} row", what, readable)
    return _stored(rows, labels[source][index], classes, texts, name, wanted, said, counts=_rows(labels, index))


def of_arrays(sets: Mapping[str, Arrays], name: str, wanted: Wanted, notes: Sequence[str]) -> ImageData:
    """The set of arrays of every split."""
    labels = {split: arrays.labels for split, arrays in sets.items()}
    classes = next(iter(sets.values())).classes
    chosen = _choose(labels, wanted, lambda split, row: f"{split} row {row}")
    arrays = sets[chosen.source]
    rows = ArrayRows(partial(pixels_of_member, arrays.pixels), arrays.file, arrays.key, chosen.index)
    said = [*notes, f"{printable(name)}: {arrays.sources}", *chosen.notes]
    counts = _rows(labels, chosen.index)
    return _stored(rows, arrays.labels[chosen.index], classes, [], name, wanted, said, counts=counts)


def _rows(labels: Mapping[str, Tensor], index: Tensor) -> tuple[str, int, None]:
    """The counts for :func:`_stored` of ``index`` among the rows of all splits, every one an image."""
    rows = sum(map(len, labels.values()))
    return f"{rows:,} rows", rows - len(index), None


def _stored(
    rows: ImageRows,
    labels: Tensor,
    classes: tuple[str, ...],
    texts: Sequence[tuple[str, ...]],
    name: str,
    wanted: Wanted,
    notes: Sequence[str],
    colour: bool = False,
    *,
    counts: tuple[str, int, int | None],
) -> ImageData:
    """
    Args:
        colour: three channels, whatever the images.
        counts: how much was found, images that are not in this part of the set, files that are no images of it; None
            where there are no files to be any.
    """
    found = prepared_images(
        rows, wanted.question, wanted.size, wanted.fit, wanted.spec,
        skip_broken=wanted.skip_broken, colour=colour, progress=wanted.progress,
    )  # fmt: skip
    said, images = list(notes), found.images
    there, apart, rest = counts
    left = [f"{apart:,} not in split {wanted.split}", f"{len(found.broken):,} broken"]
    left += [f"{rest:,} no images of the set"] if rest is not None else []
    said.insert(0, f"{there}: {len(images):,} images used, {', '.join(left)}")
    if found.broken:
        names = ", ".join(map(str, found.broken[:_NAMED]))
        more = f" and {len(found.broken) - _NAMED:,} more" if len(found.broken) > _NAMED else ""
        said.append(
            f"left out, broken: {len(found.broken):,} of {len(rows):,} images, {printable(names)}{more}; "
            f"{len(images):,} are used"
        )
        labels, texts = labels[found.kept], [texts[i] for i in found.kept.tolist()] if texts else []
    if wanted.size is not None:
        how = {
            "centre": "resized to cover it, the centre cropped", "random": "resized to cover it, another part cropped "
            "at every visit", "resize": "stretched to it", "pad": "resized to fit inside, on black",
        }  # fmt: skip
        said.append(f"size {size_text(wanted.size)} (height x width): images of other sizes are {how[wanted.fit]}")
    # Colour images are taken for photographs, which may be mirrored; grey ones for digits or letters, which may not,
    # and captions may say left and right.
    flip = 2 * found.coloured > len(images) and not texts
    if images.shape[1] == 3 and wanted.flip is None:
        share = f"{found.coloured:,} of {len(images):,} images are in colour" + (" and have captions" if texts else "")
        other = "--flip False if they must not be" if flip else "--flip True if they may be"
        said.append(f"{'mirrored at random' if flip else 'never mirrored'}: {share}; {other}")
    elif wanted.flip is not None:
        said.append("mirrored at random, as asked" if wanted.flip else "never mirrored, as asked")
    else:
        said.append("never mirrored: the images are grey; --flip True if they may be")
    flip = flip if wanted.flip is None else wanted.flip
    first, more_texts = tuple(own[0] for own in texts), tuple(own[1:] for own in texts)
    data = ImageData(
        images, labels, classes, name, wanted.split, flip, first,
        more=more_texts if any(more_texts) else (), notes=tuple(said), crops=found.crops,
    )  # fmt: skip
    return data.stored_as(found)


def _choose(labels: Mapping[str, Tensor], wanted: Wanted, where: Callable[[str, int], str]) -> _Chosen:
    """
    Args:
        labels: int64 of every stored split.
        where: names a row of a split, for messages.
    """
    what, split = wanted.spec, wanted.split
    meant = split if split in labels else SPLITS.get(split.lower(), split)
    held = next((name for name in ("test", "validation") if name in labels), "")
    if meant == "test" and held:
        meant = held
    if held or "train" not in labels or meant not in ("train", "test"):
        if meant not in labels:
            raise UsageError(f"data {what!r}: {unknown('split', split, _offered(labels))}")
        source, index = meant, torch.arange(len(labels[meant]))
        out = f"{held}, {len(labels[held]):,} images" if held else "nothing"
    else:
        order = stratified_order(labels["train"], SPLIT_SEED)
        count = round(HOLD_OUT * len(order))
        source, index = "train", (order[:count] if meant == "test" else order[count:]).sort().values
        out = f"a fixed tenth of every class, {count:,} of {len(order):,} images"
        few = len(set(labels["train"].tolist()) - set(labels["train"][order[:count]].tolist()) - {-1})
        out += f"; none of {few:,} {'class' if few == 1 else 'classes'}, with too few images" if few else ""
    if len(index) == 0:
        raise UsageError(f"data {what!r}: split {split!r} is empty; add images (train has {len(labels[source])})")
    without = (labels[source] < 0).nonzero()[:, 0]
    if len(without):
        raise UsageError(
            f"data {what!r}: {len(without)} of {len(labels[source])} rows of split {split!r} have no label, first "
            f"{where(source, int(without[0]))}; fill them in or remove them, or use another split"
        )
    if wanted.limit is not None:
        index = index[limited(labels[source][index], wanted.limit)]
    others = [f"{name} {len(own):,}" for name, own in labels.items() if name != source]
    rest = len(labels[source]) - len(index)
    others += [f"{rest:,} of {source}"] if rest else []
    said = [f"split {split}: {len(index):,} images; not in it: {', '.join(others)}"] if others else []
    said += [f"held out: {out}"] if meant == "train" else []
    return _Chosen(source, index, tuple(said))


def limited(labels: Tensor, limit: int) -> Tensor:
    """int64: at most ``limit`` rows, a fixed choice spread over the classes; a smaller one chooses among them."""
    return stratified_order(labels, SPLIT_SEED)[:limit].sort().values


def _offered(labels: Mapping[str, Tensor]) -> list[str]:
    return [*labels, *(["test"] if "train" in labels and "test" not in labels else [])]
