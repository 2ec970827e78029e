"""``fl.distill``: a student that answers in one row what a model answers under a guidance, and then in fewer steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairlead.core.arguments import as_path, is_count, shown
from fairlead.core.errors import UsageError
from fairlead.core.hold import shared_hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, counting_bar, silent
from fairlead.core.registry import lookup
from fairlead.core.signals import saving_ignored
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.diffusers.exported_pipeline import export
from fairlead.models.load import is_pipeline, load
from fairlead.report.sweeps import read_asked
from fairlead.report.training import Trained
from fairlead.report.trainings.adapter_lessons import adapter_lesson
from fairlead.sample.teacher import SCALE, Teacher
from fairlead.train.checkpoint import Checkpoint, find_checkpoint
from fairlead.train.config import TrainConfig
from fairlead.train.environment import check_environment, resolve_precision, training_device
from fairlead.train.loop import Training
from fairlead.train.session import train_to_end
from fairlead.train.tasks import DENOISE, task_of

TEACHER_STEPS = 16
"""Steps that a teacher takes from noise to an image, at least, where its student takes fewer."""


def distill(
    model: str | Path,
    out: str | Path,
    *,
    guidance: str = "none",
    range: str = "",
    steps_to: int | None = None,
    steps_from: int | None = None,
    data: ImageData | str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    warmup: int | None = None,
    drop: float | None = None,
    ema: float | None = None,
    precision: str | None = None,
    seed: int = 0,
    checkpoint_every: int | None = None,
    resume: bool = False,
    weights: str = "ema",
    lora: int | None = None,
    prompts: str | Path | Sequence[str] | None = None,
    n: int | None = None,
    path_steps: int | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train a student that predicts in one row what a model predicts under a guidance (2210.03142) and, with
    ``steps_to``, that samples in fewer steps (2202.00512).

    The student starts from the model's weights and is a model like any other; its ``model.json`` says what it has
    learned (``train.distill``). Without a scale it is sampled with no guidance; with one, ``distilled(3)`` says which.
    Of a pipeline of Stable Diffusion adapters are trained instead, on the paths that it takes under the guidance
    (2503.07274); ``pipe.load_lora_weights("OUT/adapters")`` of plain diffusers takes them, for ``guidance_scale=1``.

    Args:
        model: a training run, RUN@step500, a checkpoint folder, or a pipeline.
        out: folder of the student.
        guidance: any expression that remembers nothing from step to step; "{scale}" in it is the scale that the student
            takes.
        range: "scale=1:8", the scales that the student is taught.
        steps_to: steps of DDIM, on the grid "trailing", that the student is for; None: it is for any sampler.
        steps_from: steps of ``dpmpp_3m`` that the teacher takes, a multiple of steps_to. Default: the smallest from 16
            on, at least twice steps_to.
        data: images to noise, in memory or as ``load_data`` takes them; by default those of the model's training.
        steps: optimiser steps; default: a quarter of the model's.
        batch_size, warmup, ema, precision, drop: as for ``fl.train``; default: the model's.
        lr: peak learning rate; default: half the model's.
        seed: decides all random draws.
        checkpoint_every: steps between checkpoints that can be resumed; default: the model's.
        resume: go on from the last checkpoint in ``out``.
        weights: "ema" or "raw" of the model.
        lora: rank of the adapters of a pipeline.
        prompts: what a pipeline draws: the path of a file, one a line, or a list, taken in turn.
        n: number of paths; default 256. ``path_steps``: steps of DDIM of each; default 20.

    Raises:
        UsageError: for a guidance or steps that cannot be taught, a model that is no checkpoint, unfit data.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is finished and saved.
    """
    if not isinstance(model, str | Path):
        raise UsageError(f"distill: expected the path of a training run or pipeline, got {shown(model)}")
    folder, span = as_path("out", out), _span(range)
    each = _each(steps_to, steps_from)
    check_folder(folder)
    of_pipeline = {"lora": lora, "prompts": prompts}
    missing = [name for name, value in of_pipeline.items() if value is None]
    extra = {**of_pipeline, "n": n, "path_steps": path_steps}
    if not is_pipeline(model) and (odd := [name for name, value in extra.items() if value is not None]):
        raise UsageError(f"--{odd[0].replace('_', '-')}: {model} is a training run; only pipelines have adapters")
    if is_pipeline(model) and missing:
        raise UsageError(f"--{missing[0]}: {model} is a pipeline, which is taught by adapters: give --lora RANK, "
                         "--prompts FILE")  # fmt: skip
    given = {
        "steps": steps, "batch_size": batch_size, "lr": lr, "warmup": warmup, "drop": drop, "ema": ema,
        "precision": precision, "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    settings = {name: value for name, value in given.items() if value is not None} | {"seed": seed}
    if lora is not None and prompts is not None:
        refused = {"range": range, "steps_to": steps_to, "data": data, "drop": drop}
        if odd := [name for name, value in refused.items() if value not in (None, "")]:
            raise UsageError(f"--{odd[0].replace('_', '-')}: not of adapters of a pipeline; leave it out")
        asked = read_asked("distill", prompts, None)
        with saving_ignored(), shared_hold(folder):
            return _adapters(str(model), guidance, lora, asked, n or 256, path_steps or 20, settings, folder, resume)
    student = _Student(str(model), weights, guidance, span, steps_to or 0, each, settings, data)
    with saving_ignored(), shared_hold(folder):
        return student.trained(folder, resume, progress)


def _adapters(
    pipeline: str,
    guidance: str,
    rank: int,
    prompts: Sequence[str],
    n: int,
    path_steps: int,
    settings: Mapping[str, Any],
    out: Path,
    resume: bool,
) -> Trained:
    """Adapters of a pipeline, and OUT/adapters for plain diffusers."""
    with counting_bar("drawing paths", None, "step") as drawn:
        data, config, paths = adapter_lesson(
            pipeline, guidance, rank, prompts, n, path_steps, settings, training_device(), drawn
        )
    training = Training(data, config, out, resume, teacher=paths)
    print(
        f"adapters of rank {rank} for {pipeline} under {guidance}: {n:,} paths of {path_steps} steps, "
        f"{training.parameters:,} parameters with those of the pipeline, {training.precision}; {out}"
    )
    loss = train_to_end(training)
    written = out / "adapters"
    if not written.exists():
        export(out, written)
    print(f"take them: pipe.load_lora_weights({str(written)!r}), then pipe(..., guidance_scale=1)")
    return Trained(out, training.step, loss, tuple(training.notes))


@dataclass(frozen=True)
class _Student:
    """What is asked for."""

    teacher: str
    weights: str
    guidance: str
    span: tuple[float, float] | None
    steps: int
    each: int
    settings: Mapping[str, Any]
    data: ImageData | str | None

    def trained(self, out: Path, resume: bool, progress: Progress) -> Trained:
        device = training_device()
        checkpoint = find_checkpoint(self.teacher)
        if task_of(checkpoint.about["objective"]) is not DENOISE:
            load(self.teacher)  # says what it is in place of a diffusion model
        settings: dict[str, Any] = {**self.settings}
        base = TrainConfig.from_json(checkpoint.about["train"])
        check_environment(resolve_precision(settings.get("precision", base.precision), device), device)
        with progress(f"loading {self.teacher}"):
            model = load(self.teacher, self.weights, device)
        with progress(f"trying {self.guidance}"):
            teacher = Teacher.of(model, self.guidance, self.span, self.steps, self.each)
        spec, data = self._data(base, progress)
        lesson = {
            "teacher": str(Path(self.teacher).resolve()) if Path(self.teacher).exists() else self.teacher,
            "weights": self.weights,
            "hash": checkpoint.about["files"][self.weights],
            "guidance": self.guidance,
            **({"steps": self.steps, "each": self.each} if self.steps else {}),
            **({"before": base.distill} if base.distill else {}),
        }
        first = not base.distill  # a student's own settings are a student's already
        config = replace(
            base,
            net=self._net(checkpoint),
            data=spec,
            distill=lesson,
            init={},
            internal=0.0,
            guided=1.0,
            snapshot_every=0,
            ema=0.999 if base.ema == "power" else base.ema,
            steps=max(1, base.steps // 4 if first else base.steps),
            lr=base.lr / 2 if first else base.lr,
        )
        config = replace(config, **settings)
        training = Training(data, config, out, resume, teacher=teacher)
        if training.accelerator.is_main_process:
            taught = f"{self.guidance}, scale {self.span[0]:g} to {self.span[1]:g}" if self.span else self.guidance
            fewer = f", in {self.steps} steps of its {self.steps * self.each}" if self.steps else ""
            print(
                f"student of {self.teacher} under {taught}{fewer}; {len(data):,} images of {data.name}, "
                f"{training.parameters:,} parameters, {training.precision}; {out}"
            )
        loss = train_to_end(training)
        return Trained(out, training.step, loss, (*data.notes, *training.notes))

    def _data(self, base: TrainConfig, progress: Progress) -> tuple[dict[str, Any], ImageData]:
        """Arguments of ``load_data`` that give the images again, {} for those in memory, and the images."""
        if isinstance(self.data, ImageData):
            return {}, self.data
        given = {**base.data, **({} if self.data is None else {"spec": self.data})}
        if "spec" not in given:
            raise UsageError(
                f"distill: {self.teacher} was trained on images in memory; pass data=..., those or others like them"
            )
        with progress(f"reading data {given['spec']!r}"):
            return given, load_data(**given)

    def _net(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The teacher's network, with a scale of its own."""
        net = {name: value for name, value in checkpoint.about["net"].items() if name not in ("internal", "scale")}
        if self.span is None:
            return net
        if "scale" not in inspect.signature(lookup("net", net["kind"])).parameters:
            raise UsageError(
                f"distill: a network of kind {net['kind']!r} has no input for a scale; teach it one scale, as in "
                f"--guidance {self.guidance.replace(SCALE, '3')!r}"
            )
        return {**net, "scale": list(self.span)}


def _span(text: str) -> tuple[float, float] | None:
    """``scale=1:8``"""
    if not text:
        return None
    name, _, ends = text.partition("=")
    low, _, high = ends.partition(":")
    try:
        span = float(low), float(high)
    except ValueError:
        span = (0.0, 0.0)
    if name != "scale" or not -1e6 <= span[0] < span[1] <= 1e6:
        raise UsageError(f"range {text!r}: expected scale=LOW:HIGH with LOW below HIGH, e.g. scale=1:8")
    return span


def _each(steps_to: int | None, steps_from: int | None) -> int:
    """The teacher's steps in one of the student's."""
    if steps_to is None:
        if steps_from is not None:
            raise UsageError("--steps-from: it needs --steps-to, the steps of the student")
        return 1
    if not is_count(steps_to):
        raise UsageError(f"--steps-to: expected an integer of at least 1, got {shown(steps_to)}")
    if steps_from is None:
        return max(2, -(-TEACHER_STEPS // steps_to))
    if not is_count(steps_from) or steps_from % steps_to or steps_from < 2 * steps_to:
        raise UsageError(
            f"--steps-from: expected {steps_to} times 2, 3, 4, ..., as every step of the student is so many of the "
            f"model, got {shown(steps_from)}"
        )
    return steps_from // steps_to
