"""Checkpoints: a folder a step, safetensors + JSON, written whole or not at all, readable with no code of the user's.

RUN/step-002000/model.json              what it is: network, schedule, objective, data, classes, versions, hashes
                ema.safetensors         averaged weights, the ones to sample from
                narrow.safetensors      their narrower average       (of power averages)
                raw.safetensors         weights as trained           (absent from snapshots)
                training.safetensors    optimiser state              (absent from snapshots)

Over 300 lines, as they are written, named, found and checked in one place.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError, note, shortened
from fairlead.core.files import replacing, settle, synced
from fairlead.core.places import is_file, is_folder, is_there
from fairlead.core.strict_json import SEAL, read_json, seal_of, sealed
from fairlead.train.description import check_description, check_types, renamed
from fairlead.train.hub_runs import local_spec

FORMAT, UNSEALED = 2, 1
"""Of what is written here, and of version 0.1.0, whose descriptions have no seal."""
AVERAGES = {"ema", "narrow"}
"""The parts of a snapshot."""
_LONGEST = 1000
"""Characters of a message that may come from a damaged file."""
_STEP = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been found and whose description has been read and checked.

    Attributes:
        about: what ``model.json`` says, without its seal.
        weights: those that its name asks for, see :func:`weights_of`; "" if it names none.
    """

    folder: Path
    about: dict[str, Any]
    weights: str = ""

    __repr__ = brief

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
        described = {"format": FORMAT, **about, "step": step, "files": files}
        (partial / "model.json").write_text(json.dumps(sealed(described), indent=1))
        settle(partial)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        synced(run)
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


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def steps_of(run: Path) -> list[int]:
    """The steps of the checkpoints and snapshots of a run, ascending."""
    if not is_folder(run):
        return []
    try:
        names = [path.name for path in run.iterdir() if _STEP.fullmatch(path.name) and is_file(path / "model.json")]
    except OSError as error:
        raise UsageError(f"training run {run} cannot be read ({error})") from error
    return sorted(int(match[1]) for match in map(_STEP.fullmatch, names) if match)


def resumable_steps(run: Path) -> list[int]:
    """Those of them that hold all that training goes on from."""
    return [step for step in steps_of(run) if "training" in _described(step_folder(run, step))["files"]]


def snapshots(run: Path) -> list[int]:
    """Those of them that hold averaged weights only."""
    return [step for step in steps_of(run) if set(_described(step_folder(run, step))["files"]) <= AVERAGES]


def find_checkpoint(spec: str | Path) -> Checkpoint:
    """``RUN`` (its last checkpoint), ``RUN@step500``, the checkpoint folder itself, or ``owner/name`` on the hub; each
    also with ``@raw`` or ``@ema:0.08`` behind it.

    Raises:
        UsageError: with what was found instead, for anything that is not a checkpoint of fairlead, for a description
            that was changed after it was written, or that contradicts itself.
    """
    path = checkpoint_folder(spec)
    described = _described(path)
    seal = described.pop(SEAL, None)
    if seal is not None and seal != (of := seal_of(described)):
        raise UsageError(
            f"checkpoint {path}: model.json was changed after it was written (it says {SEAL} {shortened(str(seal))}, "
            f"what it describes has {of}); use another checkpoint, or, if the change is meant, accept it with "
            f"`fairlead info {path} --seal`"
        )
    _check(path, described)
    if seal is None:
        note(
            f"checkpoint {path} was written by version 0.1.0, which did not seal model.json: its description cannot be "
            f"verified; `fairlead info {path} --seal` seals it as it is"
        )
    return Checkpoint(path, renamed(described), weights_of(spec)[1])


def unsealed_checkpoint(spec: str | Path) -> Checkpoint:
    """As :func:`find_checkpoint`, whatever the seal of the description: it was changed by hand, or has none."""
    path = checkpoint_folder(spec)
    described = {**_described(path), "format": FORMAT}
    described.pop(SEAL, None)
    _check(path, described)
    return Checkpoint(path, described)


def seal_checkpoint(checkpoint: Checkpoint) -> None:
    """Write the description of a checkpoint with its seal.

    Raises:
        UsageError: if it cannot be written.
    """
    path = checkpoint.folder / "model.json"
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(sealed(checkpoint.about), indent=1))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; it is as it was") from error


def checkpoint_folder(spec: str | Path) -> Path:
    """The folder that :func:`find_checkpoint` reads.

    Raises:
        UsageError: with what was found instead, if there is none.
    """
    text = local_spec(weights_of(spec)[0])
    name, at = text, ""
    if not is_there(text) and "@" in Path(text).name:
        name, _, at = text.rpartition("@")
    path = Path(name)
    if not is_there(path):
        raise UsageError(
            f"no checkpoint {shortened(name, 300)}: the path does not exist; train one with `fairlead train --out "
            f"{name[:300]}`"
        )
    if not is_folder(path):
        raise UsageError(
            f"{name!r} is a single file: fairlead's checkpoints are folders of safetensors + JSON, and pickled ones "
            "(.pt, .pth, .ckpt) are never loaded; pass a folder written by `fairlead train`, or make a folder of a "
            "pipeline that you trust: PIPELINE.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if is_file(path / "model.json"):
        if at:
            raise UsageError(
                f"{name!r} is one checkpoint already, {at!r} cannot select a step of it; pass the run's folder"
            )
        return path
    steps = steps_of(path)
    if not steps:
        raise UsageError(f"folder {name!r} holds no checkpoint of fairlead (no step-*/model.json); pass a training run")
    wanted = steps[-1]
    if at:
        digits = at.removeprefix("step").lstrip("-")
        if not digits.isdecimal() or len(digits) > 18 or int(digits) not in steps:
            raise UsageError(f"run {name!r} has no checkpoint {at!r}; it has steps {', '.join(map(str, steps))}")
        wanted = int(digits)
    return step_folder(path, wanted)


def weights_of(spec: str | Path) -> tuple[str, str]:
    """A checkpoint's name and the weights behind it: ("RUN@step500", "ema:0.08") of RUN@step500@ema:0.08; "" if there
    are none."""
    name, at, weights = str(spec).rpartition("@")
    named = at and (weights in ("raw", "ema") or weights.startswith("ema:")) and not is_there(str(spec))
    return (name, weights) if named else (str(spec), "")


def _described(path: Path) -> dict[str, Any]:
    """What ``model.json`` says, of a known format and of the right types."""
    try:
        about = read_json(path / "model.json")
        if not isinstance(about, dict) or "format" not in about:
            raise ValueError("'format' is missing")
        if about["format"] not in (UNSEALED, FORMAT):
            raise UsageError(
                f"checkpoint {path} has format {about['format']}, this version reads {FORMAT}; "
                "install the version that wrote it"
            )
        check_types(about)
        if about["format"] == FORMAT and not isinstance(about.get(SEAL), str):
            raise ValueError(f"{SEAL!r} is missing")
    except (OSError, ValueError) as error:  # UsageError is a ValueError
        if isinstance(error, UsageError) and str(error).startswith("checkpoint "):
            raise
        raise UsageError(f"checkpoint {path}: model.json is not a whole description by fairlead ({error})") from error
    return about


def _check(path: Path, described: Mapping[str, Any]) -> None:
    try:
        check_description(described)
    except UsageError as error:
        text = str(error)
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
        raise UsageError(f"checkpoint {path}: {text}") from error
    named = _STEP.fullmatch(path.name)
    if named and int(named[1]) != described["step"]:
        raise UsageError(
            f"checkpoint {path}: the folder holds step {described['step']}; rename it to "
            f"{step_folder(path.parent, described['step']).name}"
        )


def prune(run: Path, keep: int, snapshot_every: int, kept: Collection[int] = (), count: int = 1) -> None:
    """Remove all checkpoints but the ``count`` last resumable ones up to step ``keep``, the snapshots, of which only
    averaged weights stay, and ``kept``. What cannot be removed now stays for the next save to remove: a disk that is
    really full stops the run there.
    """
    whole = [keep] if count == 1 else [step for step in resumable_steps(run) if step <= keep][-count:]
    for step in steps_of(run):
        if step in whole or step in kept:
            continue
        folder = step_folder(run, step)
        with suppress(OSError, UsageError):
            if snapshot_every and step % snapshot_every == 0:
                _keep_average(folder)
            else:  # renamed first: half of a checkpoint is not one, and the next save clears such leftovers
                shutil.rmtree(folder.rename(run / f".step-{step:06d}.replaced"), ignore_errors=True)


def _keep_average(folder: Path) -> None:
    described = _described(folder)
    if not set(described["files"]) <= AVERAGES:
        described["files"] = {part: digest for part, digest in described["files"].items() if part in AVERAGES}
        if SEAL in described:
            described = sealed(described)
        with replacing(folder / "model.json") as partial:
            partial.write_text(json.dumps(described, indent=1))
    for path in folder.glob("*.safetensors"):
        if path.stem not in AVERAGES:
            path.unlink()
