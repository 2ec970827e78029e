"""``fairlead info``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.printable import printable


@dataclass(frozen=True)
class Info:
    """Describe a checkpoint, list what this installation knows, or print what a bug report needs (--system).

    Example: fairlead info runs/digits
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """A training run, RUN@step500, or a checkpoint folder; nothing for the lists of names."""

    seal: bool = False
    """Accept model.json as it is now, after a change by hand that is meant (names of classes, for instance), or of a
    checkpoint of version 0.1.0, which has no seal; it is checked against itself and the weights first."""

    system: bool = False
    """Print versions, processor, memory and settings of this machine, for a bug report."""

    def run(self) -> None:
        if self.system:
            if self.model is not None or self.seal:
                raise UsageError("--system: describes this machine; leave the checkpoint and --seal out")
            from fairlead.report.system import system_report

            for name, value in system_report().items():
                print(f"{name:<14} {printable(value)}")
            return
        if self.model is None:
            if self.seal:
                raise UsageError("--seal: give the checkpoint whose model.json is to be sealed")
            self._lists()
            return
        if self.seal:
            from fairlead.models.load import seal

            seal(self.model)
        self._checkpoint(self.model)

    def _lists(self) -> None:
        import torch

        import fairlead
        from fairlead.core.registry import added, names
        from fairlead.nets.build import PRESETS
        from fairlead.train.config import AUTOENCODER_RECIPES, CLASSIFIER_RECIPES, RECIPES

        print(f"fairlead {fairlead.__version__}, torch {torch.__version__}, GPU: {torch.cuda.is_available()}")
        titles = {"term": "guidance", "finisher": "finishers", "scale": "scale schedules", "reward": "rewards",
                  "sampler": "samplers", "extractor": "features", "grid": "time grids", "schedule": "noise schedules",
                  "data": "data sets"}  # fmt: skip
        for kind, title in titles.items():
            others = added(kind)
            known = [f"{name} ({others[name].owner})" if name in others else name for name in names(kind)]
            print(f"{title:<16} {', '.join(known)}")
        print(f"{'networks':<16} {', '.join(PRESETS)}")
        for name, recipe in RECIPES.items():
            print(f"recipe {name:<14} {recipe.about}")
        for name, recipe in CLASSIFIER_RECIPES.items():
            print(f"classifier {name:<10} {recipe.about}")
        for name, recipe in AUTOENCODER_RECIPES.items():
            print(f"autoencoder {name:<9} {recipe.about}")

    def _checkpoint(self, spec: str) -> None:
        from fairlead.train.checkpoint import find_checkpoint, steps_of
        from fairlead.train.tasks import CLASSIFY, DENOISE, task_of

        checkpoint = find_checkpoint(spec)
        about, data = checkpoint.about, checkpoint.about["data"]
        steps = steps_of(checkpoint.folder.parent)
        task = task_of(about["objective"])
        latents = about["train"].get("latents") or {}
        rows = {
            "kind": task.about + (", p(class | x_t, t)" if task is CLASSIFY else ""),
            "checkpoint": f"{checkpoint.folder} (step {checkpoint.step} of {about['train']['steps']})",
            "steps kept": ", ".join(map(str, steps)),
            "weights": checkpoint.weights,
            "parts": ", ".join(f"{part} {digest}" for part, digest in about["files"].items()),
            "network": f"{about['net']} ({about['parameters']:,} parameters)",
            "objective": _objective(about),
            "conditions": _conditions(about) if task is DENOISE else "",
            "latents": f"{latents['shape']} of {latents['source']} #{latents['hash']}, times {latents['scale']:.4g}"
            if latents
            else "",
            "student": _lesson(about["train"].get("distill") or {}),
            "data": f"{data['name']} {data['split']}: {data['n']:,} images {data['shape']}, #{data['fingerprint']}",
            "classes": ", ".join(data["classes"]),
            "made with": f"fairlead {about['fairlead']}, torch {about['torch']}, {about['precision']}",
        }
        for name, value in rows.items():
            if value:
                print(f"{name:<12} {printable(str(value))}")


def _lesson(lesson: dict[str, Any]) -> str:
    """What a student was taught."""
    if not lesson:
        return ""
    steps = f", {lesson['steps']} steps in place of {lesson['steps'] * lesson['each']}" if "steps" in lesson else ""
    return f"of {lesson['teacher']} #{lesson['hash']} under {lesson['guidance']}{steps}"


def _objective(about: dict[str, Any]) -> str:
    from fairlead.train.tasks import CLASSIFY, RECONSTRUCT, task_of

    task = task_of(about["objective"])
    if task is RECONSTRUCT:
        return f"{about['objective']} error and {about['train']['kl']:g} of the KL divergence"
    return f"{'cross-entropy' if task is CLASSIFY else about['objective']} on {about['schedule']}"


def _conditions(about: dict[str, Any]) -> str:
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
