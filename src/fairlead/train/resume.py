"""Which run a folder holds, and whether a training may go on with it: only where that changes no bit.

What no bit of the weights depends on may be another: how often is saved and kept, where data and encoders lie. The
machine may be another too, as far as it computes in the same precision; what then differs by rounding is said. Of the
rest, only the number of steps may be another, and what the learning rate makes of it is said.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import fairlead
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.train.checkpoint import Checkpoint, find_checkpoint, resumable_steps, step_folder, steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.optimizer import learning_rate
from fairlead.train.tasks import task_of

FREE = ("data", "precision", "steps", "accumulate", "checkpoint_every", "checkpoint_minutes", "keep", "snapshot_every")
"""Settings that a resumed run may have otherwise: data are compared by their contents, precision as resolved."""
_PLACES = {
    "latents": ("source", "hash"),
    "text": ("source", "weights"),
    "net": ("pipeline", "base"),
    "init": ("source", "weights"),
    "distill": ("teacher", "hash"),
}
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
    planned = checkpoint.about["train"]["steps"]
    if config.steps != planned and config.steps <= checkpoint.step:
        raise UsageError(
            f"cannot resume {out}: it was planned for {planned} steps and is at step {checkpoint.step}, got --steps "
            f"{config.steps}; give more than {checkpoint.step} to go on further"
        )
    if checkpoint.about["precision"] != precision:
        was = checkpoint.about["precision"]
        raise UsageError(
            f"cannot resume {out}: it was trained in {was}, here {precision} would be used; pass --precision {was}"
        )
    return checkpoint


def setup(accelerator: Accelerator, compiled: bool) -> dict[str, Any]:
    """What the last digits of a training depend on beside its settings."""
    return {
        "fairlead": fairlead.__version__,
        "torch": torch.__version__,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "compiled": compiled,
    }


def differences(checkpoint: Checkpoint, here: dict[str, Any], dropout: bool) -> list[str]:
    """In words, how a run goes on otherwise than it was trained so far.

    Args:
        here: the present ``setup`` and ``accumulate``.
        dropout: whether the network has some.
    """
    about = {"accumulate": 1, "compiled": False, **checkpoint.about["train"], **checkpoint.about}
    there = {name: about.get(name, value) for name, value in here.items()}
    unlike = [name for name, value in here.items() if there[name] != value]
    if not unlike:
        return []
    what = "; ".join(f"{name} was {there[name]}, now {here[name]}" for name in unlike)
    parted = dropout and {"processes", "accumulate"} & set(unlike)
    masks = " but for dropout, whose masks depend on the parts of a batch" if parted else ""
    return [f"goes on from step {checkpoint.step} in another setup ({what}): equal to rounding{masks}, not to the bit"]


def replanned(checkpoint: Checkpoint, config: TrainConfig) -> list[str]:
    """In words, what another number of steps than the run was planned for makes of the learning rate."""
    step, before = checkpoint.step, checkpoint.about["train"]["steps"]
    if config.steps == before:
        return []
    rate, old = (learning_rate(replace(config, steps=steps), step) for steps in (config.steps, before))
    went = f"{old:.2g}" if step < before else "its end"
    return [
        f"goes on from step {step} to {config.steps}, planned for {before} before: the learning rate of step "
        f"{step + 1} is {rate:.2g} ({config.decay} over {config.steps} steps), where the old plan was at {went}"
    ]


def plans_until(checkpoint: Checkpoint, config: TrainConfig) -> list[dict[str, int]]:
    """The numbers of steps that a run was planned for before the present one, each with the step up to which."""
    before: list[dict[str, int]] = checkpoint.about.get("plans", [])
    steps = checkpoint.about["train"]["steps"]
    return [*before, {"until": checkpoint.step, "steps": steps}] if steps != config.steps else before


def _changed(checkpoint: Checkpoint, data: ImageData, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name of a setting -> what it was, and is."""
    was, now, there = dict(checkpoint.about["train"]), config.to_json(), checkpoint.about["data"]
    if _dropping(was) == _dropping(now):  # however it is written
        now = {**now, **{name: was[name] for name in ("drop", "drops") if name in was}}
    changed = {
        name: (old, now.get(name))
        for name, old in was.items()
        if name not in FREE and compared(name, old) != compared(name, now.get(name))
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


def compared(name: str, value: Any) -> Any:
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
