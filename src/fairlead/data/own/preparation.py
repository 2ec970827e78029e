"""Decoding a set into its store: in parallel, and so that a process that is killed at any moment goes on where it was.

ImageRows are decoded in chunks by threads (Pillow lets go of Python's lock while it decodes and resizes) and written to
their place in the file. A finished chunk gets a line in the journal with the hash of its bytes, so that what a power
cut left unwritten is decoded again. What is found depends on the images alone, not on threads or interruptions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.files import synced
from fairlead.core.places import can_write
from fairlead.core.progress import Progress, silent
from fairlead.data.decode import BrokenImageError, size_of, unwarned
from fairlead.data.own.chunks import AT_ONCE, Chunk, Chunks, InColourError, Layout, decoded_row
from fairlead.data.own.fitting import Fit, covering, size_text
from fairlead.data.own.rows import ImageRows
from fairlead.data.own.store import Broken, Stored, locked, only, open_store, publish
from fairlead.data.tensor_cache import cache_folder

VERSION = 1
"""Of what decoding makes of an image; another one is decoded anew."""
_CHUNK = 2**22
"""Decoded bytes of a chunk, about."""
_NAMED = 20
_FEW = 200
"""Images that are decoded before a bar is worth a line."""
"""Broken files that a message names; the others stand in a file beside the store."""


def prepared_images(
    rows: ImageRows,
    question: Any,
    size: tuple[int, int] | None,
    fit: Fit,
    what: str,
    *,
    skip_broken: bool = False,
    colour: bool = False,
    progress: Progress = silent,
    threads: int | None = None,
) -> Stored:
    """The decoded images, from their store where they are there.

    Args:
        question: what was asked for, JSON-ready: images of the same question replace each other.
        size: (height, width); None keeps the images, which must then agree in size.
        skip_broken: leave out what cannot be decoded, in place of refusing it.
        colour: three channels, also if all are grey; else 1 if all are.
        what: the data set, for messages.

    Raises:
        UsageError: naming every broken image, or the first of another size; if nothing can be stored.
    """
    described = [VERSION, rows.contents(), size, fit, colour]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(question))
        stack.enter_context(locked(folder))
        found = open_store(folder, key, len(rows))
        if found is None:
            going = _Preparation(rows, folder, key, size, fit, what, threads)
            shown = progress if len(rows) > _FEW else silent
            with unwarned(), shown("decoding images", len(rows), "image") as advance:
                going.run(colour, skip_broken, advance)
            found = open_store(folder, key, len(rows))
        if found is None:
            raise UsageError(f"data {what!r}: {folder} was changed while it was prepared; start again")
    if found.broken and not skip_broken:
        raise UsageError(_refusal(found.broken, len(rows), what, found.folder))
    return found


@contextmanager
def _folder(question: Any) -> Iterator[Path]:
    """The store's folder, in the cache; where nothing can be written, one that is gone as soon as it is mapped."""
    root = cache_folder()
    name = f"images-{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]}"
    if root is not None:
        with suppress(OSError):
            (root / name).mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir() and can_write(root / name):
            yield root / name
            return
    with tempfile.TemporaryDirectory(prefix="fairlead-") as folder:
        yield Path(folder)


class _Preparation:
    """One go at a store's folder, which this process has locked."""

    def __init__(
        self,
        rows: ImageRows,
        folder: Path,
        key: str,
        size: tuple[int, int] | None,
        fit: Fit,
        what: str,
        threads: int | None,
    ) -> None:
        self.rows, self.folder, self.key, self.size, self.fit, self.what = rows, folder, key, size, fit, what
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = threads or min(16, cores)
        self.journal = folder / f"{key}.journal"
        self.pixels, self.wide, self.sizes = (folder / f"{key}.{name}.part" for name in ("pixels", "wide", "sizes"))

    def run(self, colour: bool, skip_broken: bool, advance: Callable[[int], object]) -> None:
        try:
            for part in (self.pixels, self.wide):  # killed after the files had their names, before they were listed
                if not part.exists() and part.with_suffix("").exists():
                    os.replace(part.with_suffix(""), part)
            plan, done = self._begun() or (self._plan(colour), {})
            try:
                done = self._filled(plan, done, advance)
            except InColourError:  # the first images were grey: all again, with three channels
                self.journal.unlink()
                plan = self._plan(True)
                done = self._filled(plan, {}, lambda count: None)
            broken = tuple(each for number in sorted(done) for each in done[number].broken)
            if broken and not skip_broken:
                raise UsageError(_refusal(broken, len(self.rows), self.what, self.folder))
            self._finish(plan, sum(chunk.coloured for chunk in done.values()), broken)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"data {self.what!r}: its decoded images cannot be stored in {self.folder} ({reason}); set "
                "FAIRLEAD_CACHE to a folder on another disk"
            ) from error

    def _plan(self, colour: bool) -> Layout:
        """By the first image that can be decoded, or the heads of all."""
        first = self._first()
        height, width = self.size or (first.shape[0], first.shape[1])
        shape = (3 if colour or first.ndim == 3 else 1, height, width)
        sizes = self._sizes((height, width)) if self.fit == "random" else None
        each = shape[0] * height * width
        total = len(self.rows) * each + (0 if sizes is None else int(sizes.prod(dim=1).sum()) * shape[0])
        free = shutil.disk_usage(self.folder).free
        if total > free:
            raise UsageError(
                f"data {self.what!r}: {len(self.rows):,} images of {size_text((height, width))} take "
                f"{total / 1e9:,.2f} GB on disk, {self.folder} has {free / 1e9:,.2f} GB; give a smaller size or a "
                "limit, or set FAIRLEAD_CACHE to a folder on another disk"
            )
        plan = Layout(shape, sizes, min(1024, max(1, _CHUNK // each)))
        with open(self.journal, "w") as journal:
            journal.write(json.dumps({"shape": shape, "rows": plan.rows}) + "\n")
        for path in (self.pixels, self.wide):
            path.unlink(missing_ok=True)
        if sizes is not None:
            _save(self.sizes, sizes)
        return plan

    def _first(self) -> NDArray[np.uint8]:
        for start in range(0, len(self.rows), AT_ONCE):
            for name, image in self.rows.read(start, start + AT_ONCE):
                try:
                    return decoded_row(name, image, self.size, self.fit, self.what)
                except BrokenImageError:
                    continue
        return np.zeros((*(self.size or (1, 1)),), np.uint8)  # all are broken: they are named below

    def _sizes(self, size: tuple[int, int]) -> Tensor:
        """int64 [n, 2]: of each image after it was resized to cover ``size``; broken ones are of that size."""

        def of(start: int) -> list[tuple[int, int]]:
            found = []
            for _, image in self.rows.read(start, start + AT_ONCE):
                try:
                    found.append(covering(size_of(image), size))
                except (BrokenImageError, UsageError):  # they are named when they are decoded
                    found.append(size)
            return found

        with ThreadPoolExecutor(self.threads) as pool:
            parts = list(pool.map(of, range(0, len(self.rows), AT_ONCE)))
        return torch.tensor([pair for part in parts for pair in part], dtype=torch.int64).reshape(-1, 2)

    def _begun(self) -> tuple[Layout, dict[int, Chunk]] | None:
        """What an earlier go has done; None if there was none."""
        try:
            lines = self.journal.read_text().split("\n")
            head = json.loads(lines[0])
            sizes = None
            if self.fit == "random":
                sizes = torch.from_numpy(np.load(self.sizes))
            channels, height, width = head["shape"]
            plan = Layout((channels, height, width), sizes, head["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        done: dict[int, Chunk] = {}
        for line in lines[1:]:
            with suppress(ValueError, TypeError):  # torn by a kill, as is at most the last one before each new start
                number, digest, coloured, broken = json.loads(line)
                done[number] = Chunk(digest, coloured, tuple(Broken(*each) for each in broken))
        chunks = self._chunks(plan)
        return plan, {number: chunk for number, chunk in done.items() if chunks.digest(number) == chunk.digest}

    def _chunks(self, plan: Layout) -> Chunks:
        return Chunks(self.rows, plan, self.size, self.fit, self.pixels, self.wide, self.what)

    def _filled(self, plan: Layout, done: dict[int, Chunk], advance: Callable[[int], object]) -> dict[int, Chunk]:
        """All chunks, of which those that were ``done`` already are not done again."""
        done, chunks = dict(done), self._chunks(plan)
        advance(sum(chunks.count(number) for number in done))
        missing = iter([n for n in range(chunks.number) if n not in done])
        with ExitStack() as stack:
            journal = stack.enter_context(open(self.journal, "a"))
            journal.write("\n")  # after a torn line
            files = [os.open(path, os.O_RDWR | os.O_CREAT, 0o666) for path, _, _ in chunks.spans(0)]
            for file in files:
                stack.callback(os.close, file)
            pool = ThreadPoolExecutor(self.threads)
            stack.callback(pool.shutdown, cancel_futures=True)
            waiting: dict[Future[Chunk], int] = {}
            while True:
                while len(waiting) < 2 * self.threads and (number := next(missing, None)) is not None:
                    waiting[pool.submit(chunks.write, number, files)] = number
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number, chunk = waiting.pop(future), future.result()
                    entry = [number, chunk.digest, chunk.coloured, [[b.row, b.name, b.reason] for b in chunk.broken]]
                    journal.write(json.dumps(entry) + "\n")
                    journal.flush()
                    done[number] = chunk
                    advance(chunks.count(number))
            for file in files:
                os.fsync(file)
        return done

    def _finish(self, plan: Layout, coloured: int, broken: Sequence[Broken]) -> None:
        """Take out what is broken and give the files their names."""
        lost = {each.row for each in broken}
        kept = [row for row in range(len(self.rows)) if row not in lost]
        if not kept:
            raise UsageError(_refusal(broken, len(self.rows), self.what, self.folder))
        if lost:
            only(self.pixels, [(row * int(np.prod(plan.shape)), int(np.prod(plan.shape))) for row in kept])
        if plan.sizes is not None:
            if lost:
                bytes_each = plan.sizes.prod(dim=1) * plan.shape[0]
                starts = (bytes_each.cumsum(0) - bytes_each).tolist()
                only(self.wide, [(starts[row], int(bytes_each[row])) for row in kept])
            _save(self.sizes.with_suffix(""), plan.sizes[kept])
            os.replace(self.wide, self.wide.with_suffix(""))
        os.replace(self.pixels, self.pixels.with_suffix(""))
        synced(self.folder)
        index = {
            "shape": [len(kept), *plan.shape], "coloured": coloured, "random": plan.sizes is not None,
            "broken": [[each.row, each.name, each.reason] for each in broken],
        }  # fmt: skip
        publish(self.folder, self.key, index)
        for path in (self.journal, self.sizes):
            path.unlink(missing_ok=True)


def _save(path: Path, sizes: Tensor) -> None:
    with open(path, "wb") as handle:
        np.save(handle, sizes.numpy())


def _refusal(broken: Sequence[Broken], count: int, what: str, folder: Path) -> str:
    if len(broken) == 1:
        each = broken[0]
        return (
            f"data {what!r}: cannot read image {each.name} ({each.reason}); repair or remove it, or go on without it "
            "with --skip-broken"
        )
    more = ""
    if len(broken) > _NAMED:
        listed = folder / "broken.txt"
        with suppress(OSError):
            listed.write_text("".join(f"{each.name}\t{each.reason}\n" for each in broken))
        more = f" and {len(broken) - _NAMED:,} more, all named in {listed}"
    names = "; ".join(map(str, broken[:_NAMED]))
    return (
        f"data {what!r}: cannot read {len(broken):,} of {count:,} images: {names}{more}; repair or remove them, or go "
        "on without them with --skip-broken"
    )
