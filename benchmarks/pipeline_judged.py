"""A pipeline's own guidance beside others attached to it: distance, agreement with the prompt, time a step.

    python benchmarks/pipeline_judged.py runs/pipeline/pipeline --data "scenes(size=32, two=0)" --guidance "cfg(2)"

The images of the pipeline's own guidance are drawn by a process that never imports fairlead, by plain
``StableDiffusionPipeline.from_pretrained``; those of the attached ones here, by the same pipeline with the same
scheduler, prompts and noise. Prompts are of combinations of attributes that no training image has, and say everything.
Differences are paired. ``real images`` and ``reconstructions`` (held-out real images through the pipeline's VAE) are
what the judge sees and the distance is at best.

Times are of the loop alone (latents, no VAE), for the same batch, in rounds in which everyone runs once and the order
turns; ratios are medians over the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

import fairlead as fl
from fairlead.data.images import ImageData, to_float, to_uint8
from fairlead.data.scenes.scene_set import Prompts, held_out_prompts
from fairlead.diffusers.pipelines import decoded, latents_of
from fairlead.measure.agreement import AGREEMENT
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.metrics import title_of
from fairlead.measure.references import evaluator_for
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.report.image_grid import image_grid

OWN = """
import json, sys, numpy as np, torch
from diffusers import StableDiffusionPipeline
job = json.loads(sys.argv[1])
pipe = StableDiffusionPipeline.from_pretrained(job["pipeline"])
pipe.set_progress_bar_config(disable=True)
drawn = []
for first in range(0, len(job["prompts"]), job["batch"]):
    prompts = job["prompts"][first : first + job["batch"]]
    noise = [torch.Generator().manual_seed(job["seed"] + first + i) for i in range(len(prompts))]
    arguments = {"num_inference_steps": job["steps"], "guidance_scale": job["scale"], "output_type": "np"}
    images = pipe(prompts, generator=noise, **arguments).images
    drawn.append((images * 255).round().astype("uint8"))
np.save(job["out"], np.concatenate(drawn))
assert "fairlead" not in sys.modules
"""


@dataclass(frozen=True)
class Judged:
    """Judge attached guidances beside the pipeline's own."""

    pipeline: Annotated[Path, tyro.conf.Positional]
    """A folder of StableDiffusionPipeline, trained on scenes."""
    guidance: tuple[str, ...]
    """Expressions to attach."""
    out: Path
    """Folder for images, numbers and a picture."""
    data: str = "scenes(size=32)"
    """The scenes it was trained on."""
    scale: float = 7.5
    """Of the pipeline's own guidance; 7.5 is what diffusers takes where nobody says."""
    n: int = 1000
    steps: int = 20
    seed: int = 5_000_000
    """Of the first noise, and of the prompts; nothing was chosen on these."""
    two: float = 0.0
    """Share of prompts for two digits."""
    batch_size: int = 50
    rounds: int = 9
    """Of the measurement of time; 0 leaves it out."""
    timed: int = 16
    """Images of a batch whose time is taken."""
    rows: int = 8
    """Prompts in the picture."""

    def main(self) -> None:
        torch.set_num_threads(1)
        self.out.mkdir(parents=True, exist_ok=True)
        prompts = held_out_prompts(self.n, self.seed, self.two)
        own = f"own, guidance_scale={self.scale:g}"
        pipe = _pipeline(self.pipeline)
        images = {own: self._own(prompts), **{text: self._attached(pipe, text, prompts) for text in self.guidance}}
        same = (
            self._attached(pipe, f"cfg({self.scale})", prompts, self.batch_size).int() - images[own][: self.batch_size]
        )
        print(f"attached cfg({self.scale:g}) and own: at most {int(same.abs().max())} of 255 apart\n")
        model = load(self.pipeline)
        evaluator = evaluator_for(str(self.pipeline), self.data, model=model)
        scores = {name: self._score(evaluator, drawn, prompts) for name, drawn in images.items()}
        real = evaluator.floor(self.n)
        data = _first(evaluator.held_out, self.n)
        rebuilt = evaluator.score(_rebuilt(pipe, data.images), data.labels, None, range(self.n), asked=data.attributes)
        rows: dict[str, Mapping[str, Any]] = {
            "real images": real.metrics,
            "reconstructions": rebuilt.metrics,
            **{_code(name): score.metrics for name, score in scores.items()},
        }
        names = ["distance", *(name for name in AGREEMENT if name in scores[own].metrics)]
        print(_table(f"N = {self.n}", names, rows))
        changes = {_code(name): score.compare(scores[own]) for name, score in scores.items() if name != own}
        print(_table(f"minus {own}, paired", names, changes))
        self._keep(images, scores, changes)
        if self.rounds:
            print(self._times(pipe, prompts.captions[: self.timed]))

    def _own(self, prompts: Prompts) -> Tensor:
        path = self.out / "own.npy"
        job = {
            "pipeline": str(self.pipeline), "prompts": prompts.captions, "batch": self.batch_size, "seed": self.seed,
            "steps": self.steps, "scale": self.scale, "out": str(path),
        }  # fmt: skip
        subprocess.run([sys.executable, "-W", "ignore", "-c", OWN, json.dumps(job)], check=True)
        return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)

    def _attached(self, pipe: Any, guidance: str, prompts: Prompts, n: int | None = None) -> Tensor:
        drawn = []
        with fl.attach(pipe, guidance):
            for first in range(0, n or self.n, self.batch_size):
                texts = list(prompts.captions[first : first + self.batch_size])
                noise = [torch.Generator().manual_seed(self.seed + first + i) for i in range(len(texts))]
                images = pipe(texts, num_inference_steps=self.steps, generator=noise, output_type="np").images
                drawn.append(torch.from_numpy((images * 255).round().astype("uint8")))
        return torch.cat(drawn).permute(0, 3, 1, 2)

    def _score(self, evaluator: Evaluator, images: Tensor, prompts: Prompts) -> Score:
        labels = prompts.attributes["digit"].labels
        return evaluator.score(images, labels, None, range(self.seed, self.seed + self.n), asked=prompts.attributes)

    def _times(self, pipe: Any, prompts: Sequence[str]) -> str:
        """A table; the pipeline's own guidance first."""
        everyone: list[str | None] = [None, *self.guidance]
        for guidance in everyone:
            self._seconds(pipe, prompts, guidance)
        walls: dict[str | None, list[float]] = {guidance: [] for guidance in everyone}
        for turn in range(self.rounds):
            for guidance in everyone[turn % len(everyone) :] + everyone[: turn % len(everyone)]:
                walls[guidance].append(self._seconds(pipe, prompts, guidance))
        lines = [f"| {len(prompts)} images, {self.rounds} rounds | ms per step | over own |", "| --- | --- | --- |"]
        for guidance, taken in walls.items():
            ratios = [mine / theirs for mine, theirs in zip(taken, walls[None], strict=True)]
            step = 1e3 * statistics.median(taken) / self.steps
            name = "own" if guidance is None else _code(guidance)
            lines.append(
                f"| {name} | {step:.1f} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
            )
        return "\n".join(lines)

    def _seconds(self, pipe: Any, prompts: Sequence[str], guidance: str | None) -> float:
        if guidance is not None:
            with fl.attach(pipe, guidance):
                return self._seconds(pipe, prompts, None)
        began = time.perf_counter()
        pipe(
            list(prompts), num_inference_steps=self.steps, guidance_scale=self.scale, output_type="latent",
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip
        return time.perf_counter() - began

    def _keep(self, images: Mapping[str, Tensor], scores: Mapping[str, Score], changes: Mapping[str, Any]) -> None:
        numbers = {
            "scores": {name: score.as_dict() for name, score in scores.items()},
            "differences": {
                name: {key: vars(value) for key, value in change.items()} for name, change in changes.items()
            },
        }
        (self.out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
        prompts = held_out_prompts(self.n, self.seed, self.two).captions[: self.rows]
        shown = torch.stack([drawn[: self.rows] for drawn in images.values()], dim=1)
        (self.out / "images.png").write_bytes(image_grid(shown, row_labels=prompts, col_labels=list(images)))


def _pipeline(folder: Path) -> Any:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _rebuilt(pipe: Any, images: Tensor) -> Tensor:
    return torch.cat([to_uint8(decoded(pipe, latents_of(pipe, to_float(part)))) for part in torch.split(images, 256)])


def _first(data: ImageData, n: int) -> ImageData:
    return data.subset(torch.arange(min(n, len(data))))


def _table(title: str, names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    short = [title_of(name).removeprefix("agreement ").replace("agreement", "all") for name in names]
    lines = [f"| {title} | {' | '.join(short)} |", "| --- |" + " --- |" * len(names)]
    for row, values in rows.items():
        cells = [_cell(name, values[name]) if name in values else "" for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if name == "distance":
        return f"{value.value:.2f} ± {value.error:.2f}"
    return f"{100 * value.value:.1f} ± {100 * value.error:.1f} %"


def _code(name: str) -> str:
    return name if name.startswith("own") else f"`{name}`".replace("|", "\\|")


if __name__ == "__main__":
    tyro.cli(Judged).main()
