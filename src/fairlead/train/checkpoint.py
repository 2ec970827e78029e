"""Checkpoints: a folder a step, safetensors + JSON, written whole or not at all, readable with no code of the user's.

RUN/step-002000/model.json              what it is: network, schedule, objective, data, classes, versions, hashes
                ema.safetensors         averaged weights, the ones to sample from
                raw.safetensors         weights as trained           (absent from snapshots)
                training.safetensors    optimiser state              (absent from snapshots)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.places import is_there

FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})$")
_DESCRIPTION: dict[str, Any] = {  # what is read without asking, by ``load``, --resume and ``fairlead info``
    "step": int, "files": {"ema": str}, "fairlead": str, "torch": str,
    "net": dict, "schedule": dict, "objective": str, "precision": str, "parameters": int,
    "data": {"name": str, "split": str, "n": int, "fingerprint": str, "shape": list, "classes": list},
    "train": {"steps": int, "drop": int | float},
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been found and whose description has been read."""

    folder: Path
    about: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.about["step"])

    def has(self, part: str) -> bool:
        return part in self.about["files"]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of "ema", "raw" or "training", checked against the hash written with them."""
        if not self.has(part):
            raise UsageError(
                f"checkpoint {self.folder} has no {part} weights (it is a snapshot of averaged weights only)"
            )
        path = self.folder / f"{part}.safetensors"
        try:
            if file_hash(path) != self.about["files"][part]:
                raise UsageError(
                    f"checkpoint file {path} is damaged: its bytes are not those that were saved; use another"
                )
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"checkpoint file {path} cannot be read ({error}); use another checkpoint") from error


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def save_checkpoint(run: Path, step: int, about: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]]) -> Path:
    """Write ``RUN/step-N`` under another name, then rename it: a reader never sees half of one.

    Raises:
        UsageError: when it cannot be written (disk full, no permission); what was there before is untouched.
    """
    final = step_folder(run, step)
    partial = run / f".step-{step:06d}.partial"
    replaced = run / f".step-{step:06d}.replaced"
    try:
        for leftover in run.glob(".step-*.*"):  # of a process that was killed while saving
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        files = {}
        for name, tensors in parts.items():
            path = partial / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
            files[name] = file_hash(path)
        text = json.dumps({"format": FORMAT, **about, "step": step, "files": files}, indent=1)
        (partial / "model.json").write_text(text)
        for path in partial.iterdir():
            _sync(path)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        _sync(run)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        try:
            kept = resumable_steps(run)
        except UsageError:  # a description that cannot be read is not the news here
            kept = []
        if kept:
            advice = f"the last whole checkpoint is step {kept[-1]}; free some space and use --resume"
        else:
            advice = "there is no whole checkpoint yet; free some space and start again"
        raise UsageError(f"cannot write checkpoint {final}: {error}; {advice}") from error
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def steps_of(run: Path) -> list[int]:
    """The steps of the checkpoints and snapshots of a run, ascending."""
    if not run.is_dir():
        return []
    found = (_STEP.fullmatch(path.name) for path in run.iterdir() if (path / "model.json").is_file())
    return sorted(int(match[1]) for match in found if match)


def resumable_steps(run: Path) -> list[int]:
    """Those of them that hold all that training goes on from."""
    return [step for step in steps_of(run) if find_checkpoint(step_folder(run, step)).has("training")]


def find_checkpoint(spec: str | Path) -> Checkpoint:
    """``RUN`` (its last checkpoint), ``RUN@step500`` or the checkpoint folder itself.

    Raises:
        UsageError: with what was found instead, for anything that is not a checkpoint of fairlead.
    """
    text = str(spec)
    name, at = text, ""
    if not is_there(text) and "@" in Path(text).name:
        name, _, at = text.rpartition("@")
    path = Path(name)
    if not is_there(path):
        raise UsageError(
            f"no checkpoint {name!r}: the path does not exist; train one with `fairlead train --out {name}`"
        )
    if path.is_file():
        raise UsageError(
            f"{name!r} is a single file: fairlead's checkpoints are folders of safetensors + JSON, and pickled ones "
            "(.pt, .pth, .ckpt) are never loaded; pass a folder written by `fairlead train`"
        )
    if not (path / "model.json").is_file():
        steps = steps_of(path)
        if not steps:
            raise UsageError(
                f"folder {name!r} holds no checkpoint of fairlead (no step-*/model.json); pass a training run"
            )
        wanted = steps[-1]
        if at:
            digits = at.removeprefix("step").lstrip("-")
            if not digits.isdigit() or int(digits) not in steps:
                raise UsageError(f"run {name!r} has no checkpoint {at!r}; it has steps {', '.join(map(str, steps))}")
            wanted = int(digits)
        path = step_folder(path, wanted)
    elif at:
        raise UsageError(
            f"{name!r} is one checkpoint already, {at!r} cannot select a step of it; pass the run's folder"
        )
    try:
        about = json.loads((path / "model.json").read_text())
        if about["format"] != FORMAT:
            raise UsageError(
                f"checkpoint {path} has format {about['format']}, this version reads {FORMAT}; "
                "install the version that wrote it"
            )
        _check(about, _DESCRIPTION)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"checkpoint {path}: model.json is not a whole description by fairlead ({error!r})") from error
    return Checkpoint(path, about)


def _check(given: Any, expected: dict[str, Any]) -> None:
    for key, kind in expected.items():
        value = given[key]
        if isinstance(kind, dict):
            _check(value, kind)
        elif not isinstance(value, kind):
            raise TypeError(f"{key!r} is {value!r}")


def prune(run: Path, keep: int, snapshot_every: int) -> None:
    """Remove all checkpoints but step ``keep`` and the snapshots; of these only the averaged weights stay.

    What cannot be removed now stays for the next save to remove: step ``keep`` has just been saved, so nothing is lost
    but space, and a disk that is really full stops the run at the next save.
    """
    for step in steps_of(run):
        if step == keep:
            continue
        folder = step_folder(run, step)
        with suppress(OSError, UsageError):
            if snapshot_every and step % snapshot_every == 0:
                _keep_average(folder)
            else:  # renamed first: half of a checkpoint is not one, and the next save clears such leftovers
                shutil.rmtree(folder.rename(run / f".step-{step:06d}.replaced"), ignore_errors=True)


def _keep_average(folder: Path) -> None:
    about = find_checkpoint(folder).about
    if set(about["files"]) != {"ema"}:
        with replacing(folder / "model.json") as partial:
            partial.write_text(json.dumps({**about, "files": {"ema": about["files"]["ema"]}}, indent=1))
    for path in folder.glob("*.safetensors"):
        if path.name != "ema.safetensors":
            path.unlink()
