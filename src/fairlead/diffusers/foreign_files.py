"""What is read of folders that others have made: safetensors, and classes of diffusers and transformers. Never pickles,
which run whatever they hold, and never code."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.strict_json import read_json

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_LIBRARIES = ("diffusers", "transformers")
_VARIANTS = ("fp16", "bf16")
"""Preferred in this order."""


def variant_of(folder: Path, what: str) -> str | None:
    """The variant of the weights in a folder that are to be read, such as "fp16", where it has no others; None for the
    plain ones.

    Args:
        what: needs them, for messages.

    Raises:
        UsageError: if the only weights are pickled, or an index names anything but safetensors beside it.
    """
    for index in folder.glob("*.safetensors.index*.json"):
        foreign = [name for name in _weight_map(index, what) if not _plain_safetensors(name)]
        if foreign:
            raise UsageError(f"{what}: {index} names {foreign[0][:60]!r}, expected files *.safetensors beside it")
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files:
        pickled = pickles_of(folder)
        if pickled:
            raise UsageError(f"{what}: {pickled[0]} is pickled, and pickles can run code, {how_to_convert(pickled[0])}")
        return None
    found = {_variant(name) for name in files}
    if "" in found:
        return None
    return next((name for name in _VARIANTS if name in found), min(found))


def pickles_of(folder: Path) -> list[Path]:
    """Files of a folder that are pickled by their name."""
    return sorted(file for file in folder.glob("*") if file.suffix.lower() in PICKLES)


def how_to_convert(file: Path) -> str:
    """For messages."""
    return (
        "so it is not read; load it where you trust it, in diffusers or transformers, and write it again with "
        f"save_pretrained({str(file.parent)!r}, safe_serialization=True)"
    )


def check_pipeline(folder: Path, what: str) -> str | None:
    """Look through the folder of a pipeline before anything of it is loaded.

    Args:
        what: for messages.

    Returns:
        the variant of its weights, as :func:`variant_of`.

    Raises:
        UsageError: for an index that cannot be read, a class that is not of diffusers or transformers, code among the
            files, and pickled weights.
    """
    index = _index(folder, what)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not hasattr(import_module("diffusers"), kind):
        raise UsageError(
            f"{what}: its pipeline is {str(kind)[:60]!r}, code of its own, which is never run; expected a class of "
            "diffusers"
        )
    variants: set[str | None] = set()
    for name, library, cls in _components(index):
        part = folder / name
        if not _is_known(library, cls):
            raise UsageError(
                f"{what}: its {name[:40]} is {library[:40]}.{cls[:40]}, which is not of diffusers or transformers and "
                "never loaded; load the pipeline yourself and pass it"
            )
        code = sorted(part.rglob("*.py"))
        if code:
            raise UsageError(f"{what}: {code[0]} is code, which is never run; remove it from the folder")
        if cls.startswith("Auto") and any("auto_map" in _json(file) for file in part.glob("*config.json")):
            raise UsageError(f"{what}: its {name[:40]} refers to its own code (auto_map), which is never run")
        variants.add(variant_of(part, what))
    wanted = variants - {None}
    return next((name for name in _VARIANTS if name in wanted), min(wanted, default=None, key=str))


def _index(folder: Path, what: str) -> dict[str, Any]:
    path = folder / "model_index.json"
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what}: {path} cannot be read ({type(error).__name__}: {str(error)[:80]})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{what}: {path} is no index of a pipeline; expected an object")
    return found


def _components(index: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, library, class) of the parts that are loaded."""
    for name, value in index.items():
        pair = isinstance(value, list) and len(value) == 2
        if not name.startswith("_") and pair and any(value) and not any(isinstance(v, int | float) for v in value):
            library, cls = value
            yield name, str(library), str(cls)


def _is_known(library: str, cls: str) -> bool:
    if library in _LIBRARIES:
        return hasattr(import_module(library), cls)
    known = library.isidentifier() and getattr(import_module("diffusers.pipelines"), library, None)
    return bool(known) and hasattr(known, cls)


def _variant(name: str) -> str:
    """Of a file: model.fp16.safetensors, model.fp16-00001-of-00002.safetensors."""
    parts = name.removesuffix(".safetensors").split(".")
    return parts[-1].split("-")[0] if len(parts) > 1 else ""


def _weight_map(index: Path, what: str) -> list[str]:
    found = _json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{what}: {index} is no index of weights; expected an object weight_map of file names")
    return sorted(set(found.values()))


def _plain_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and Path(name).name == name and "\\" not in name


def _json(path: Path) -> dict[str, Any]:
    """An object; {} for anything else, which the library complains of itself."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
