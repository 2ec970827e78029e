"""The small models that the studies are made on: the ``digits`` recipe at half its width, with one thing changed; a
minute each on one core, and only where it is missing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.data.hub import load_data
from fairlead.models.load import Weights
from fairlead.nets.build import CLASSIFIER_PRESETS, PRESETS, net_config
from fairlead.train.checkpoint import steps_of
from fairlead.train.config import CLASSIFIER_RECIPES, RECIPES, TrainConfig
from fairlead.train.loop import Training

CHANNELS = 16
"""Width of the diffusion models' first level; the recipe's is 32."""


@dataclass(frozen=True)
class Variant:
    """A training that differs from the recipe in a few settings.

    Attributes:
        name: in tables, and of its folder.
        train, net: what is changed, by the names of ``TrainConfig`` and of the network's arguments.
        classifier: a classifier of noisy images instead of a diffusion model.
        weights: which of its weights are sampled from.
        of: the name of the variant that is trained for it, where only ``weights`` differ.
    """

    name: str
    train: dict[str, Any] = field(default_factory=dict, hash=False)
    net: dict[str, Any] = field(default_factory=dict, hash=False)
    classifier: bool = False
    weights: Weights = "ema"
    of: str = ""


BASE = Variant("base")


def folder_of(root: Path, variant: Variant, seed: int) -> Path:
    """Where a training of it is kept."""
    return root / f"{variant.of or variant.name}-{seed}".replace(" ", "-")


def trained(root: Path, variant: Variant, seed: int, steps: int | None = None) -> Path:
    """The run of a variant with this seed below ``root``; trained to its end where it is not yet.

    Args:
        steps: fewer or more optimiser steps than the recipe's.
    """
    recipe = (CLASSIFIER_RECIPES if variant.classifier else RECIPES)["digits"]
    presets = CLASSIFIER_PRESETS if variant.classifier else PRESETS
    settings = {**recipe.train, **variant.train, "seed": seed}
    if steps is not None:
        settings["steps"] = steps
    folder = folder_of(root, variant, seed)
    done = steps_of(folder) if folder.exists() else []
    if done and done[-1] == settings["steps"]:
        return folder
    data = load_data(recipe.data)
    changes = variant.net if variant.classifier else {"channels": CHANNELS, **variant.net}
    net = net_config(recipe.net, *data.shape[:2], len(data.classes), presets=presets, **changes)
    training = Training(data, TrainConfig(net, {"spec": recipe.data}, **settings), folder, resume=bool(done))
    began = time.perf_counter()
    for _ in training.run():
        pass
    print(f"trained {folder}: {training.parameters:,} parameters, {time.perf_counter() - began:.0f} s", flush=True)
    return folder
