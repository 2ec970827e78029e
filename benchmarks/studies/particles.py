"""Particles against best of K at equal rows, by rewards that have no gradient."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

import fairlead as fl
from benchmarks.studies.models import BASE
from benchmarks.studies.runner import Bench, Block, Picture, Study, signed, table
from fairlead.core.condition import Condition
from fairlead.core.registry import added
from fairlead.data.images import to_uint8
from fairlead.measure.judge import cached_classifier
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.models.model import Model
from fairlead.report.image_grid import image_grid

STEPS, EVERY = 20, 2
COUNTS = (4, 8)
"""Particles, or samples of which the best is taken."""


def jpeg_bytes(images: Tensor) -> Tensor:
    """Length of each image [n, 1, h, w] uint8 as a JPEG of quality 75, float64 [n]."""
    sizes = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(stream, format="JPEG", quality=75)
        sizes.append(len(stream.getvalue()))
    return torch.tensor(sizes, dtype=torch.float64)


def short_jpeg(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Minus the length of each image as a JPEG, in bytes."""
    return -jpeg_bytes(to_uint8(x0.cpu()))


short_jpeg.pixels = True  # type: ignore[attr-defined]
short_jpeg.differentiable = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Task:
    """A reward and what is measured of its samples.

    Attributes:
        name: in tables.
        file: in the name of the picture.
        weight: of the reward while it chooses among particles; it does not matter to best of K.
        cond: whether the model is conditioned on the class.
        reward: class -> the reward at weight 1.
        measured: (images, labels) -> a number per image, by what does not choose.
        unit: of that number, and what it is multiplied by.
    """

    name: str
    file: str
    weight: float
    cond: bool
    reward: Callable[[str], str]
    measured: Callable[[Tensor, Tensor], Tensor]
    unit: tuple[str, float]


def tasks() -> list[Task]:
    judge = cached_classifier(fl.load_data("digits"), "judge")

    def recognised(images: Tensor, labels: Tensor) -> Tensor:
        return (judge.logits(images).argmax(1) == labels).double()

    def wanted(name: str) -> str:
        return f'judged("{name}", hard=True)'

    return [
        Task(
            "argmax of a classifier, unconditional model", "argmax", 4, False, wanted, recognised, ("% recognised", 100)
        ),
        Task("JPEG size", "jpeg", 2, True, lambda _: "short_jpeg()", lambda x, _: jpeg_bytes(x), ("bytes", 1)),
    ]


def arms(count: int) -> dict[str, fl.Particles]:
    return {
        f"best of {count}": fl.Particles(count, every=0, pick="best"),
        f"{count} particles": fl.Particles(count, every=EVERY, pick="best"),
    }


def sampled(model: Model, task: Task, particles: fl.Particles | None, n: int) -> tuple[Tensor, Tensor, float]:
    """Images uint8 [n, 1, 8, 8], the classes wanted [n], and network rows per image; image i has seed i."""
    images, labels, rows = [], [], 0
    for label, seeds in seeds_of(len(model.classes), n):
        name = model.classes[label]
        steer = {"particles": particles, "reward": f"{task.weight} * {task.reward(name)}"} if particles else {}
        run = fl.sample(
            model, name if task.cond else None, seeds=seeds, sampler="ddpm", steps=STEPS, batch_size=256,
            **steer,  # type: ignore[arg-type]
        )  # fmt: skip
        assert run.images is not None
        images.append(run.images)
        labels += [label] * len(seeds)
        rows += run.cost.rows
    return torch.cat(images), torch.tensor(labels), rows / n


def seeds_of(classes: int, n: int) -> Iterator[tuple[int, list[int]]]:
    """Each class with its seeds: seed i wants class i modulo ``classes``."""
    for label in range(classes):
        if seeds := list(range(label, n, classes)):
            yield label, seeds


def run(bench: Bench) -> list[Block]:
    if "short_jpeg" not in added("reward"):
        fl.register("short_jpeg", short_jpeg, kind="reward")
    parts: list[Block] = [
        f"8x8 digits, the `digits` recipe at half its width, training {bench.trainings[0]}, N = {bench.n} images a "
        f"row, seeds 0 to {bench.n - 1}, the class of seed i is i modulo 10; `ddpm` with {STEPS} steps, a choice every "
        f"{EVERY} steps, the best of the last particles. Both arms evaluate the network equally often. The classifier "
        "that chooses (`judged`) and the judge that measures share nothing but the training images. ± is one standard "
        "error; differences are paired by seed; bold: beyond three standard errors."
    ]
    model = bench.load(BASE, bench.trainings[0])
    for task in tasks():
        rows, first = [], {}
        unit, factor = task.unit
        images, labels, cost = sampled(model, task, None, bench.n)
        first["one sample"] = first_of_each(images, labels)
        rows.append(["one sample", str(scaled(task.measured(images, labels), factor)), f"{cost:.0f}", ""])
        for count in COUNTS:
            values = {}
            for name, particles in arms(count).items():
                images, labels, cost = sampled(model, task, particles, bench.n)
                values[name] = task.measured(images, labels)
                first[name] = first_of_each(images, labels)
                rows.append([name, str(scaled(values[name], factor)), f"{cost:.0f}", ""])
                print(f"{task.name}: {rows[-1]}", flush=True)
            best, steered = values.values()
            rows[-1][-1] = signed(scaled(steered - best, factor))
        parts += [f"### {task.name[0].upper()}{task.name[1:]}, weight {task.weight:g}",
                  table(["samples", unit, "network rows per image", f"against best of K, {unit}"], rows),
                  Picture(f"particles-{task.file}.png",
                          image_grid(torch.stack([*first.values()]), row_labels=[*first], col_labels=model.classes),
                          f"the first sample of each class, without and with a choice by the {task.name}")]  # fmt: skip
    return parts


def first_of_each(images: Tensor, labels: Tensor) -> Tensor:
    """The first image of every class that was wanted."""
    return torch.stack([images[labels == label][0] for label in range(int(labels.max()) + 1)])


def scaled(values: Tensor, factor: float) -> Estimate:
    return mean_estimate(values * factor)


STUDY = Study(
    "particles",
    "Can a score without a gradient steer?",
    "several classifiers steer by their gradients; of what has none they say nothing.",
    run,
)
