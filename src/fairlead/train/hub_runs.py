"""Training runs on the hub, as ``fl.push`` puts them there: recognised by a file, fetched once.

Only descriptions, safetensors and texts are fetched, never code or pickles; the hashes and the seal of a checkpoint are
checked as those of any other.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.places import is_there

MARK = "fairlead.json"
"""In a repository that holds a run of fairlead: which version wrote it, and the checkpoint."""
FILES = ("*.json", "*.safetensors", "*.txt")
"""What is fetched of it."""


def is_hub_name(spec: Any) -> bool:
    """Whether ``spec`` is ``owner/name``, and no path that is here."""
    if not isinstance(spec, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", spec) or is_there(spec):
        return False
    path = Path(spec)
    return not (is_there(path.parent) or path.parent.is_symlink())


@cache
def run_on_hub(name: str) -> Path | None:
    """The folder of the hub's cache that holds the run ``owner/name``; None if that is no run, or cannot be reached and
    is not in the cache. One process sees one version.

    Raises:
        UsageError: if it is a run, but not all of it can be fetched.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        hub.hf_hub_download(name, MARK)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, EntryNotFoundError) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"run {name!r} of the hub cannot be fetched ({type(error).__name__}: {why}); try again"
        ) from error


def local_spec(spec: str | Path) -> str:
    """The folder that holds a run of the hub; anything else as it is."""
    folder = run_on_hub(str(spec)) if is_hub_name(spec) else None
    return str(spec if folder is None else folder)
