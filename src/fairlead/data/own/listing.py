"""What lies in a folder of data, what of it is no data, and which split it belongs to: the one walk that training and
measuring share."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.core.errors import UsageError
from fairlead.core.printable import printable
from fairlead.data.decode import ENDINGS, FORMATS, open_image, unwarned

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
STYLEGAN = "dataset.json"
"""Labels of the data sets of StyleGAN and EDM."""
HIDDEN = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that systems make; so are all whose name starts with a dot."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
}
"""Spellings, in lower case, and what they mean; as in the `datasets` library."""

_WORD = re.compile(f"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?:set|data|split)?\\d*")
_FOLDER = re.compile(
    f"({'|'.join(sorted(SPLITS, key=len, reverse=True))})[ _-]?(?:set|data|split|images|imgs)?(?:\\d{{4}})?"
)
_UNOPENED = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".svgz", ".eps", ".ps", ".pdf", ".ai"),
    *(".psd", ".xcf", ".ico", ".icns", ".cur", ".tga", ".dds", ".exr", ".hdr", ".pfm", ".pcx", ".sgi", ".dib", ".mic"),
    *(".fpx", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".npy", ".npz", ".dcm", ".nii", ".qoi"),
)
"""Endings of images that are not opened; those of ``ENDINGS`` aside."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SIDECARS = (".json", ".txt", ".caption", ".xml", ".csv", ".yaml", ".yml")
_MOST_NAMED = 5
_MOST_OPENED = 100
"""Files of unknown endings that are looked into."""


@dataclass
class Listing:
    """Files below a folder, each list in the order of their whole paths.

    Attributes:
        folder: as it was given, resolved.
        images: files whose name ends like an image of a format that is opened.
        metadata: files of ``METADATA``, and a ``dataset.json`` of StyleGAN at the top where there is none of them.
        parquet: other parquet files.
        unopened: images of other formats.
        archives: zip, tar, ...
        others: all else but hidden files.
        hidden: folders and images that a system or a program made, with the number of images in each.
        loops: links to a folder around them.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    unopened: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: dict[Path, int] = field(default_factory=dict)
    loops: list[Path] = field(default_factory=list)
    files: int = 0
    """All that were found, without the hidden ones."""

    @property
    def arrays(self) -> list[Path]:
        """Files of arrays."""
        return [path for path in self.unopened if path.suffix.lower() == ".npz"]

    def go_by(self, table: Path) -> None:
        """Take ``table``, a file of the folder, for its metadata, and no other."""
        self.others = [path for path in (*self.others, *self.metadata) if path.name != table.name]
        self.metadata = [self.folder / table.name]

    @property
    def tables(self) -> list[Path]:
        """All parquet files, also one called metadata.parquet."""
        return sorted([*self.parquet, *(path for path in self.metadata if path.suffix == ".parquet")])

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def notes(self) -> tuple[str, ...]:
        """What was left out and why, a sentence each."""
        name = printable(self.folder.name)
        said = []
        if plain := [*self.others, *self.archives]:
            said.append(f"left out of {name}: {self.named(plain)}{self._hint()}")
        if self.unopened:
            said.append(
                f"left out of {name}, images of formats that are not opened: {self.named(self.unopened)}; convert "
                f"them ({', '.join(FORMATS)} are read)"
            )
        if self.hidden:
            entries = [
                f"{self.relative(path)}{f' ({count:,} images)' if path.is_dir() and count else ''}"
                for path, count in self.hidden.items()
            ]
            more = f" and {len(entries) - _MOST_NAMED:,} more" if len(entries) > _MOST_NAMED else ""
            said.append(
                f"left out of {name}, hidden: {', '.join(map(printable, entries[:_MOST_NAMED]))}{more}; rename what is "
                "data"
            )
        if self.loops:
            said.append(f"left out of {name}, links to a folder around them: {self.named(self.loops)}")
        return tuple(said)

    def _hint(self) -> str:
        stems = {path.with_suffix("") for path in self.images}
        beside = [p for p in self.others if p.suffix.lower() in _SIDECARS and p.with_suffix("") in stems]
        known = (*_SIDECARS, *ENDINGS, ".parquet")
        unknown = [path for path in self.others if path.suffix.lower() not in known and path.is_file()]
        images = sum(map(_is_image, unknown[:_MOST_OPENED]))
        tables = [p for p in self.others if p.parent == self.folder and p.suffix.lower() in (".csv", ".jsonl")]
        hints = [
            f"{len(beside):,} are beside images of the same names and are not read: put labels or captions into a "
            "metadata.jsonl"
            if beside
            else "",
            f"{images:,} are images whose names do not end so: rename them" if images else "",
            "archives are not read: unpack them" if self.archives else "",
            f"to go by {tables[0].name}, give it in place of the folder" if tables else "",
        ]
        return "".join(f"; {hint}" for hint in hints if hint)

    def named(self, paths: Sequence[Path]) -> str:
        """Their names, or of many how many there are of each ending."""
        if len(paths) <= _MOST_NAMED:
            return ", ".join(printable(self.relative(path)) for path in paths)
        counts = Counter(path.suffix.lower() or "no ending" for path in paths).most_common()
        more = f" and {len(counts) - _MOST_NAMED:,} more kinds" if len(counts) > _MOST_NAMED else ""
        listed = ", ".join(f"{count:,} {printable(ending)}" for ending, count in counts[:_MOST_NAMED])
        return f"{listed}{more}, such as {printable(self.relative(paths[0]))}"


def list_folder(folder: Path, what: str) -> Listing:
    """Every file below ``folder``, links followed.

    Args:
        what: the folder is, for messages.

    Raises:
        UsageError: if a folder cannot be read, an image is a link to nothing, or the name of a file is not Unicode.
    """
    found = Listing(folder.resolve())
    for path in sorted(_walk(found.folder, (), found, f"{what} {str(folder)!r}"), key=str):
        ending = path.suffix.lower()
        found.files += not path.name.startswith(".")
        if path.name.startswith("."):
            if ending in ENDINGS:
                found.hidden[path] = 1
        elif path.name in METADATA:
            found.metadata.append(path)
        elif ending == ".parquet":
            found.parquet.append(path)
        elif ending in ENDINGS:
            found.images.append(path)
        elif ending in _UNOPENED:
            found.unopened.append(path)
        else:
            (found.archives if ending in _ARCHIVES else found.others).append(path)
    found.others.sort(key=str)
    overview = found.folder / "grid.png"
    if overview in found.images and found.folder / "run.json" in found.others:
        found.images.remove(overview)  # of the images that `fairlead sample` made
        found.others.append(overview)
    labels = found.folder / STYLEGAN
    if labels in found.others and not found.metadata:
        found.others.remove(labels)
        found.metadata.append(labels)
    return found


def of_img2dataset(found: Listing) -> str | None:
    """The name of a file by which the output of img2dataset is known."""
    return next((p.name for p in found.others if re.fullmatch(r"\d{5,}_stats\.json", p.name)), None)


def _walk(folder: Path, above: tuple[Path, ...], found: Listing, what: str) -> Iterator[Path]:
    try:
        real = folder.resolve()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        kinds = [(Path(e.path), e.is_dir(), e.is_file(), e.is_symlink()) for e in entries]
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise UsageError(f"{what}: {folder} cannot be read ({error})") from error
    if real in above:
        found.loops.append(folder)
        return
    for path, is_folder, is_file, is_link in kinds:
        if is_folder and (path.name.startswith(".") or path.name in HIDDEN):
            found.hidden[path] = sum(
                Path(name).suffix.lower() in ENDINGS for _, _, names in os.walk(path) for name in names
            )
        elif is_folder:
            yield from _walk(path, (*above, real), found, what)
        elif any("\ud800" <= char <= "\udfff" for char in path.name):  # bytes that are no UTF-8
            raise UsageError(f"{what}: the name of {path} is not Unicode; rename it")
        elif is_file:
            yield path
        elif is_link and path.suffix.lower() in ENDINGS:
            raise UsageError(f"{what}: {path} is a link to nothing; repair or remove it")
        else:
            found.others.append(path)  # a link to nothing, a pipe, a device


def _is_image(path: Path) -> bool:
    try:
        with unwarned(), open_image(path):
            return True
    except Exception:  # not an image of a format that is opened
        return False


def split_of_folder(name: str) -> str | None:
    """``train``, ``Test``, ``val2017``, ``dev-set`` -> their split; None for any other name."""
    found = _FOLDER.fullmatch(name.lower())
    return SPLITS[found[1]] if found else None


def split_of_file(relative: Path) -> str | None:
    """The split of a parquet file: its first or last word, shard numbers aside, else that of its nearest folder:
    ``Test-00000-of-00003.parquet``, ``mnist_test.parquet``, ``data/train/0000.parquet``; None for
    ``testimonials.parquet``."""
    for part in (relative.stem, *reversed(relative.parts[:-1])):
        words = [word for word in re.split(r"[^a-z0-9]+", part.lower()) if not re.fullmatch(r"\d*|of", word)]
        for word in (*words[:1], *words[-1:]):
            if found := _WORD.fullmatch(word):
                return SPLITS[found[1]]
    return None
