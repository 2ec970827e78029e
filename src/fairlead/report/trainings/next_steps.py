"""What a training has made, and the commands that come next."""

from __future__ import annotations

import shlex

from fairlead.train.loop import Training


def made(training: Training, loss: float | None = None) -> str:
    """``runs/mine: diffusion model, conditioned on label, of 346 images of lab, step 2,000 of 2,000, loss 0.0412``"""
    config, data = training.config, training.data
    conditions = f", conditioned on {' and '.join(training.drops)}" if training.drops else ""
    text = f"{training.out}: {training.task.about}{conditions}, of {len(data):,} images of {data.name}"
    text += f", step {training.step:,} of {config.steps:,}"
    return text if loss is None else f"{text}, loss {loss:.4f}"


def next_commands(training: Training) -> list[str]:
    """For a run that is saved: to draw from it, and to find its guidance; for adapters, to export them."""
    run, about = shlex.quote(str(training.out)), training.about()
    if about["net"]["kind"] == "lora":
        return [f"fairlead export {run} {run}/adapters"]
    if "image" in training.drops:
        return [f"fairlead info {run}"]  # its condition is a picture of the reader's own
    drops = [training.config.drop_all, *training.drops.values()]
    conditional, learned_null = bool(training.drops) and min(drops[1:]) < 1, max(drops) > 0
    if not conditional:
        return [f"fairlead sample {run} --n 16 --out {run}/samples"]
    conds = "all"
    if list(training.drops) != ["label"]:
        conds = shlex.quote(str(next((one for one in about["data"]["examples"] if one is not None), "")))
    guidance = " --guidance 'cfg(2)'" if learned_null else ""
    commands = [f"fairlead sample {run} --cond {conds}{guidance} --out {run}/samples"]
    if learned_null and training.config.data:
        commands.append(f"fairlead tune {run} --out {run}/tune")
    return commands
