"""``fairlead info``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Info:
    """Describe a checkpoint, or list what this installation knows.

    Example: fairlead info runs/digits
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """A training run, RUN@step500, or a checkpoint folder; nothing for the lists of names."""

    def run(self) -> None:
        if self.model is None:
            self._lists()
        else:
            self._checkpoint(self.model)

    def _lists(self) -> None:
        import torch

        import fairlead
        from fairlead.core.registry import REGISTRY
        from fairlead.nets.build import PRESETS
        from fairlead.train.config import CLASSIFIER_RECIPES, RECIPES

        print(f"fairlead {fairlead.__version__}, torch {torch.__version__}, GPU: {torch.cuda.is_available()}")
        titles = {"term": "guidance", "finisher": "finishers", "scale": "scale schedules", "score": "energy scores",
                  "sampler": "samplers", "grid": "time grids", "schedule": "noise schedules",
                  "data": "data sets"}  # fmt: skip
        for kind, title in titles.items():
            print(f"{title:<16} {', '.join(REGISTRY[kind])}")
        print(f"{'networks':<16} {', '.join(PRESETS)}")
        for name, recipe in RECIPES.items():
            print(f"recipe {name:<14} {recipe.about}")
        for name, recipe in CLASSIFIER_RECIPES.items():
            print(f"classifier {name:<10} {recipe.about}")

    def _checkpoint(self, spec: str) -> None:
        from fairlead.train.checkpoint import find_checkpoint, steps_of

        checkpoint = find_checkpoint(spec)
        about, data = checkpoint.about, checkpoint.about["data"]
        steps = steps_of(checkpoint.folder.parent)
        classifier = about["objective"] == "label"
        rows = {
            "kind": "classifier of noisy images, p(class | x_t, t)" if classifier else "diffusion model",
            "checkpoint": f"{checkpoint.folder} (step {checkpoint.step} of {about['train']['steps']})",
            "steps kept": ", ".join(map(str, steps)),
            "parts": ", ".join(f"{part} {digest}" for part, digest in about["files"].items()),
            "network": f"{about['net']} ({about['parameters']:,} parameters)",
            "objective": f"{'cross-entropy' if classifier else about['objective']} on {about['schedule']}",
            "told": "" if classifier else _told(about),
            "data": f"{data['name']} {data['split']}: {data['n']:,} images {data['shape']}, #{data['fingerprint']}",
            "classes": ", ".join(data["classes"]),
            "made with": f"fairlead {about['fairlead']}, torch {about['torch']}, {about['precision']}",
        }
        for name, value in rows.items():
            if value:
                print(f"{name:<12} {value}")


def _told(about: dict[str, Any]) -> str:
    """The conditions with their probabilities of being dropped, and the text encoder."""
    from fairlead.nets.inputs import condition_names

    train = about["train"]
    drops = {name: train.get("drops", {}).get(name, train["drop"]) for name in condition_names(about["net"])}
    parts = [f"{name}, dropped with probability {drop:g}" for name, drop in drops.items()] or ["nothing"]
    if train.get("drop_all"):
        parts.append(f"all at once with probability {train['drop_all']:g}")
    text = train.get("text") or {}
    if text:
        source = text.get("source") or f"{len(text['vocabulary'])} words"
        parts.append(
            f"text by {text['name']} ({source}), {text.get('length') or text['tokens'] * text['windows']} tokens"
        )
    return "; ".join(parts)
