"""Which run a folder holds, and whether a training may go on with it: only where that changes no bit.

What no bit of the weights depends on may be another: how often is saved and kept, where data and encoders lie. The
machine may be another too, as far as it computes in the same precision; what then differs by rounding is said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import fairlead
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.train.checkpoint import Checkpoint, find_checkpoint, resumable_steps, step_folder, steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.tasks import task_of

FREE = ("data", "precision", "checkpoint_every", "snapshot_every")
"""Settings that a resumed run may have otherwise: data are compared by their contents, precision as resolved."""
_PLACES = {"latents": ("source", "hash"), "text": ("source", "weights"), "net": ("pipeline", "base"),
           "distill": ("teacher", "hash")}  # fmt: skip
"""Setting -> its part that says where something lies, and the hash that says what it is."""


def previous(out: Path | None, resume: bool, data: ImageData, config: TrainConfig, precision: str) -> Checkpoint | None:
    """The checkpoint to go on from; None for a run that begins.

    Raises:
        UsageError: if ``out`` holds a run and ``resume`` is False, or one that this is not and it is True.
    """
    steps = steps_of(out) if out is not None else []
    if out is None or not steps:
        return None
    if not resume:
        raise UsageError(
            f"{out} already holds a run (step {steps[-1]}); continue it with --resume or choose another --out"
        )
    whole = resumable_steps(out)
    if not whole:
        raise UsageError(f"{out} holds only snapshots of averaged weights, none can be resumed; choose another --out")
    checkpoint = find_checkpoint(step_folder(out, whole[-1]))
    changed = _changed(checkpoint, data, config)
    if changed:
        what = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise UsageError(f"cannot resume {out}: {what}; pass what it was started with, or choose another --out")
    if checkpoint.about["precision"] != precision:
        was = checkpoint.about["precision"]
        raise UsageError(
            f"cannot resume {out}: it was trained in {was}, here {precision} would be used; pass --precision {was}"
        )
    return checkpoint


def setup(accelerator: Accelerator) -> dict[str, Any]:
    """What the last digits of a training depend on beside its settings."""
    return {
        "fairlead": fairlead.__version__,
        "torch": torch.__version__,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
    }


def differences(checkpoint: Checkpoint, here: dict[str, Any], dropout: bool) -> list[str]:
    """In words, how a run goes on otherwise than it was trained so far.

    Args:
        here: the present ``setup``.
        dropout: whether the network has some.
    """
    there = {name: checkpoint.about.get(name, value) for name, value in here.items()}
    unlike = [name for name, value in here.items() if there[name] != value]
    if not unlike:
        return []
    what = "; ".join(f"{name} was {there[name]}, now {here[name]}" for name in unlike)
    masks = " but for dropout, whose masks depend on the processes" if dropout and "processes" in unlike else ""
    return [f"goes on from step {checkpoint.step} in another setup ({what}): equal to rounding{masks}, not to the bit"]


def _changed(checkpoint: Checkpoint, data: ImageData, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name of a setting -> what it was, and is."""
    was, now, there = dict(checkpoint.about["train"]), config.to_json(), checkpoint.about["data"]
    if _dropping(was) == _dropping(now):  # however it is written
        now = {**now, **{name: was[name] for name in ("drop", "drops") if name in was}}
    changed = {
        name: (old, now.get(name))
        for name, old in was.items()
        if name not in FREE and _compared(name, old) != _compared(name, now.get(name))
    }
    if there["fingerprint"] != data.fingerprint:
        changed["data"] = (there["fingerprint"], data.fingerprint)
    if there.get("flip", data.flip) != data.flip:  # not known of earlier versions
        changed["flip"] = (there["flip"], data.flip)
    return changed


def _dropping(train: dict[str, Any]) -> dict[str, float]:
    """Name of a condition -> how often it is dropped."""
    names = task_of(train["objective"]).conditions(train["net"])
    return {name: train.get("drops", {}).get(name, train["drop"]) for name in names}


def _compared(name: str, value: Any) -> Any:
    """A setting as a resumed run must have it again: what is known by its contents may lie elsewhere by now."""
    place, contents = _PLACES.get(name, ("", ""))
    if isinstance(value, dict) and value.get(contents):
        value = {key: part for key, part in value.items() if key != place}
    return _plain(value)


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples become lists."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
