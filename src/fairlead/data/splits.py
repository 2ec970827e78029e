"""Which split a folder or a parquet file belongs to, by its name."""

from __future__ import annotations

import re
from pathlib import Path

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
