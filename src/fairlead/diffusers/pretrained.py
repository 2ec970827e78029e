"""Pretrained networks through `transformers` and `diffusers`: their files, from a folder or the hub, and their weights,
whole or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairlead.core.errors import UsageError
from fairlead.core.places import home_expanded, is_folder
from fairlead.diffusers.foreign_files import pickles_of, variant_of

_WAIT = 5.0
"""Seconds in which the hub must answer at all."""


def fetched(source: str, what: str, needed: Sequence[str] = (), instead: str = "") -> Path:
    """The local folder of ``source``, a folder or a hub name; downloaded if it is not in the hub's cache.

    Args:
        what: needs it, for messages.
        needed: files that it must hold beside ``config.json`` and weights.
        instead: what else the user could do where it cannot be downloaded.

    Raises:
        UsageError: if there is no such folder, the hub does not have it or cannot be reached, or files are missing.
    """

    def wanted(files: Sequence[str]) -> list[str]:
        return ["*.json", "*.txt", "*.model", "model*.safetensors"]

    return files_of(source, what, lambda folder: _complete(folder, what, needed), wanted, instead)


def files_of(
    source: str,
    what: str,
    complete: Callable[[Path], Path],
    wanted: Callable[[Sequence[str]], list[str]],
    instead: str = "",
) -> Path:
    """:func:`fetched` for any layout of files.

    Args:
        complete: a folder -> the folder to use; raises UsageError if something is missing in it.
        wanted: the files of a hub entry -> patterns of those to download.
    """
    if is_folder(source):
        return complete(home_expanded(source))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise UsageError(f"{what}: {source!r} is no folder and no hub name owner/name; give the folder where it is now")
    import huggingface_hub

    try:
        return complete(Path(huggingface_hub.snapshot_download(source, local_files_only=True)))
    except Exception:  # not there, or only in part
        pass
    here = home_expanded(source)
    if is_folder(here.parent):  # a local name, which is nobody else's business
        raise UsageError(f"{what}: there is no folder {source!r} in {here.parent}; give the one where it is now")
    try:
        # asked once, briefly: the download itself would try for half a minute where there is no connection
        files = [entry.rfilename for entry in huggingface_hub.model_info(source, timeout=_WAIT).siblings or []]
        return complete(Path(huggingface_hub.snapshot_download(source, allow_patterns=wanted(files))))
    except UsageError:
        raise
    except Exception as error:  # httpx, the hub client, the disk
        reason = (" ".join(str(error).split()) or type(error).__name__).replace(";", ",").partition(". ")[0]
        raise UsageError(
            f"{what}: {source} is not in the local hub cache and cannot be downloaded ({reason[:120]}); give a "
            f"folder{instead}"
        ) from error


def pretrained(folder: Path, model: str, what: str) -> nn.Module:
    """The network of class ``model`` of `transformers`, float32, in evaluation mode.

    Raises:
        UsageError: if `transformers` is missing, the files are damaged, or weights are missing, which the library would
            fill with random numbers.
    """
    transformers = library(what)
    variant = variant_of(folder, what)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            network, report = getattr(transformers, model).from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                variant=variant,
            )
    except Exception as error:  # safetensors, json, the library's own checks
        raise UsageError(f"{what}: {folder} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    lost = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lost:
        raise UsageError(
            f"{what}: {folder} has no weights for {len(lost)} parts of {model}, e.g. {lost[0]}; wrong model?"
        )
    return network.requires_grad_(False).eval()  # type: ignore[no-any-return]


def weight_hash(network: nn.Module) -> str:
    """sha256[:12] of names, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def library(what: str, name: str = "transformers") -> Any:
    """The package `transformers`, or `diffusers`.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"{what} need the package {name}; pip install 'fairlead[diffusers]'") from error


def inner_network(network: Any) -> nn.Module:
    """The network inside a ``torch.compile``d one."""
    inside: nn.Module = getattr(network, "_orig_mod", network)
    return inside


def setting(part: Any, name: str, default: Any = None) -> Any:
    """A setting of the config of a network or scheduler of diffusers, ``default`` where it has none of that name."""
    return getattr(part, "config", {}).get(name, default)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no remarks of `transformers`; what matters is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _complete(folder: Path, what: str, needed: Sequence[str]) -> Path:
    for file in ("config.json", *needed):
        if not (folder / file).is_file():
            raise UsageError(f"{what}: {folder} has no {file}; expected a model folder of transformers")
    if not any(folder.glob("*.safetensors")) and not pickles_of(folder):
        raise UsageError(f"{what}: {folder} has no weights; expected model.safetensors, pickled ones are never read")
    return folder
