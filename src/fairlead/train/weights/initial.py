"""Given weights that a training starts from: those of another run, as far as they fit, and what was otherwise there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError
from fairlead.core.schedule import schedule_from_config
from fairlead.data.images import ImageData
from fairlead.nets.inputs import condition_names
from fairlead.train.checkpoint import Checkpoint, find_checkpoint, step_folder, steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.resume import compared
from fairlead.train.tasks import task_of
from fairlead.train.weights.averages import read_weights

_LISTED = 6
"""Tensors that a line names."""


def initial_config(spec: str | Path, out: Path | None = None) -> dict[str, Any]:
    """``TrainConfig.init`` for the weights of a checkpoint, the averaged ones unless it names others.

    Args:
        spec: RUN, RUN@step500, a checkpoint folder, or one of them with the weights, such as RUN@ema:0.08 or RUN@raw.
        out: a folder whose run, if it was begun from ``spec``, is resumed: what it was begun from need not be there.

    Raises:
        UsageError: if there is no such checkpoint.
    """
    steps = steps_of(out) if out is not None else []
    if out is not None and steps:
        begun: dict[str, Any] = find_checkpoint(step_folder(out, steps[-1])).about["train"].get("init") or {}
        if begun.get("source") == str(spec):
            return begun
    checkpoint = find_checkpoint(spec)
    return {"source": str(spec), "step": checkpoint.step, "weights": _weights(checkpoint)[1]}


def initialise(network: nn.Module, config: TrainConfig, data: ImageData) -> tuple[list[str], bool]:
    """Give a fresh network the weights of ``config.init`` that it has by name and shape.

    Returns:
        what a user has to know, and whether all that reads text is among them and was made for the same text.

    Raises:
        UsageError: if they are gone or others by now, of another kind of training, or none of them fits.
    """
    source = config.init["source"]
    checkpoint = find_checkpoint(source)
    about, (tensors, digest) = checkpoint.about, _weights(checkpoint)
    if digest != config.init["weights"]:
        raise UsageError(
            f"--init {source}: its last checkpoint is step {checkpoint.step} with weights {digest} by now, expected "
            f"{config.init['weights']}; name a step, RUN@step{config.init.get('step')}"
        )
    kind, task = task_of(about["objective"]), task_of(config.objective)
    if kind is not task:
        raise UsageError(
            f"--init {source}: weights of another kind of network ({kind.about}), expected those of one of this kind "
            f"({task.about})"
        )
    own = network.state_dict()
    taken = [name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape]
    if not any(own[name].ndim > 1 for name in taken):  # single numbers fit anywhere
        raise UsageError(f"--init {source}: none of its layers fits this network; use its --net and --channels")
    with torch.no_grad():
        for name in taken:
            own[name].copy_(tensors[name])
    fresh = [
        f"{name} {list(value.shape)} ({f'there {list(tensors[name].shape)}' if name in tensors else 'not there'})"
        for name, value in own.items()
        if name not in set(taken)
    ]
    share = sum(own[name].numel() for name in taken) / sum(value.numel() for value in own.values())
    parts = [f"{len(taken)} of {len(own)} tensors" + (f" ({100 * share:.1f} % of the values)" if fresh else "")]
    parts += [f"fresh: {_listed(fresh)}"] if fresh else []
    unused = [name for name in tensors if name not in own]
    parts += [f"not used: {_listed(unused)}"] if unused else []
    unlike = _unlike(about, config, data)
    parts += [f"trained with other {' and '.join(unlike)}"] if unlike else []
    reads = [name for name in own if name.startswith("text.")]
    same_text = set(reads) <= set(taken) and _text(about["train"]) == _text(config.to_json())
    return [f"starts from {source}, step {checkpoint.step}, {_called(checkpoint)}: {'; '.join(parts)}"], same_text


def _weights(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], str]:
    return read_weights(checkpoint, checkpoint.weights or "ema")


def _called(checkpoint: Checkpoint) -> str:
    return f"weights {checkpoint.weights}" if checkpoint.weights not in ("", "ema") else "averaged weights"


def _unlike(about: Mapping[str, Any], config: TrainConfig, data: ImageData) -> list[str]:
    """What the weights were trained on and with, where it is otherwise here: ``classes (cat, dog; here dog, cat)``."""
    there, here, was = condition_names(about["net"]), condition_names(config.net), about["train"]
    pairs: dict[str, tuple[Any, Any]] = {"conditions": (there or ["none"], here or ["none"])}
    if "label" in there and "label" in here:
        pairs["classes"] = about["data"]["classes"], list(data.classes)
    values = about["data"].get("attributes", {})
    for name in set(values) & set(here):
        pairs[f"values of {name}"] = values[name], list(data.attributes[name].values)
    pairs["objective"] = about["objective"], config.objective
    pairs["noise schedule"] = about["schedule"], schedule_from_config(config.schedule).config()
    pairs["image condition"] = was.get("image", ""), config.image
    pairs["latents"] = tuple(compared("latents", each) for each in (was.get("latents") or {}, config.latents))
    found = [f"{name} ({_short(a)}; here {_short(b)})" for name, (a, b) in pairs.items() if a != b]
    if "text" in there and "text" in here and _text(was) != _text(config.to_json()):
        found.append("text encoder or words")
    return found


def _text(train: Mapping[str, Any]) -> Any:
    """What decides the meaning of the numbers that a network is given for a text."""
    text = {name: value for name, value in (train.get("text") or {}).items() if name not in ("read", "sketch")}
    return compared("text", text)


def _short(value: Any) -> str:
    return ", ".join(map(str, value))[:120] if isinstance(value, list | tuple) else shown(value, 120)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
