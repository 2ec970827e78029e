"""How well a text model of scenes does what its prompts say, as a judge sees it, attribute by attribute.

    python benchmarks/text.py follow runs/scenes --scales 1 1.5 2 3 --n 2000
    python benchmarks/text.py compose runs/scenes --scale 2

``follow``: held-out prompts, whose combinations of attributes no training image has. ``compose``: AND of two prompts,
NOT, a negative prompt, prompts by region, each beside the plain prompt. Tables are printed; ``--out`` keeps
them as JSON lines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from fairlead.core.places import check_file
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.hub import load_data
from fairlead.data.scenes.captions import COLOURS, full_caption
from fairlead.data.scenes.scene_set import Prompts, held_out_prompts
from fairlead.measure.agreement import AttributeEvaluator
from fairlead.measure.attributes import AttributeJudge, cached_attribute_judge
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.sample.result import Run
from fairlead.sample.run import sample
from fairlead.sample.sampling import Precision

SHOWN = ("digit", "ink", "background", "position", "size", "slant", "count", "all")


@dataclass(frozen=True)
class Common:
    """What both studies take."""

    run: Annotated[str, tyro.conf.Positional]
    """A run that reads text, trained on scenes."""
    sampler: str = "ddim"
    steps: int = 20
    precision: Precision = "fp32"
    """fp32 or bf16."""
    seed: int = 1_000_000
    """First seed of the images, and that of the prompts."""
    batch_size: int = 64
    out: Path | None = None
    """File to append the numbers to, one JSON line per row."""

    def __post_init__(self) -> None:
        if self.out is not None:
            check_file(self.out)

    def draw(self, model: Model, conds: str | Sequence[str] | None, guidance: str, n: int, first: int = 0) -> Run:
        seeds = range(self.seed + first, self.seed + first + n)
        return sample(
            model, conds, guidance=guidance, n=n, seeds=seeds, sampler=self.sampler, steps=self.steps,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip

    def note(self, row: dict[str, Any]) -> None:
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with self.out.open("a") as file:
                how = {"sampler": self.sampler, "steps": self.steps, "seed": self.seed, "precision": self.precision}
                file.write(json.dumps({"run": self.run, **how, **row}) + "\n")


@dataclass(frozen=True)
class Follow(Common):
    """Agreement with held-out prompts, over scales."""

    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    guidance: str = "cfg({scale})"
    n: int = 2000
    two: float = 0.0
    """Share of prompts for two digits."""
    varied: bool = False
    """Prompts in varied English, which leave attributes out, instead of full ones."""
    label: bool = False
    """Name the digit as the label, too, to a run that is conditioned on both."""
    text: bool = True
    """Give the prompt; --no-text with --label: the label alone."""

    def main(self) -> None:
        model = load(self.run)
        judge, held_out = judged(model)
        evaluator = AttributeEvaluator(judge, held_out)
        prompts = held_out_prompts(self.n, self.seed, self.two, full=not self.varied)
        names = [name for name in SHOWN if name in evaluator.real]
        print(f"| guidance | {' | '.join(names)} | ms per image |\n|{' --- |' * (len(names) + 2)}")
        print(f"| real held-out images | {' | '.join(percent(evaluator.real[name]) for name in names)} | |", flush=True)
        for scale in self.scales:
            guidance = self.guidance.replace("{scale}", f"{scale:g}")
            run = self.draw(model, self._conds(prompts), guidance, self.n)
            assert run.images is not None
            found = evaluator.score(run.images, prompts.attributes)
            shares = found.agreement
            cells = " | ".join(percent(shares[name]) if name in shares else "" for name in names)
            print(f"| `{guidance}` | {cells} | {1000 * run.seconds / self.n:.1f} |", flush=True)
            conditions = {"label": self.label, "text": self.text}
            self.note({"guidance": guidance, "n": self.n, "seconds": run.seconds, **conditions, **found.as_dict()})

    def _conds(self, prompts: Prompts) -> list[str]:
        if not self.label:
            return list(prompts.captions)
        labels = [f"label={DIGIT_NAMES[i]}" for i in prompts.attributes["digit"].labels.tolist()]
        return [
            f"{label}; text={caption}" if self.text else label
            for label, caption in zip(labels, prompts.captions, strict=True)
        ]


@dataclass(frozen=True)
class Composed(Common):
    """AND, NOT, a negative prompt and regions, each beside the plain prompt."""

    scale: float = 2.0
    away: float = 1.0
    """Weight of what is negated."""
    pairs: int = 24
    each: int = 24
    """Images a pair."""

    def main(self) -> None:
        model = load(self.run)
        judge, _ = judged(model)
        words = random.Random(self.seed)
        w, v = f"{self.scale:g}", f"{self.away:g}"
        inks = [words.choice(COLOURS) for _ in range(self.pairs)]
        digits = [words.sample(DIGIT_NAMES, 2) for _ in range(self.pairs)]
        others = [words.sample([colour for colour in COLOURS if colour != ink], 2) for ink in inks]
        rows: dict[str, list[dict[str, Tensor]]] = {}

        def look(name: str, k: int, cond: str | None, guidance: str) -> None:
            run = self.draw(model, cond, guidance, self.each, k * self.each)
            assert run.images is not None
            rows.setdefault(name, []).append(self.seen(judge, run.images, inks[k], digits[k]))

        for k, (ink, (one, other), (second, ground)) in enumerate(zip(inks, digits, others, strict=True)):
            look("plain: a red seven", k, f"a {ink} {one}", f"cfg({w})")
            look("a red digit AND a seven", k, None, f'compose({{"a {ink} digit": {w}, "a {one}": {w}}})')
            look("plain: a seven", k, f"a {one}", f"cfg({w})")
            look("a seven AND NOT a red digit", k, None, f'compose({{"a {one}": {w}, "a {ink} digit": -{v}}})')
            look("a seven, negative: a red digit", k, f"a {one}", f'cfg({w}, negative="a {ink} digit")')
            left, right = f"a {one} on the left", f"a {other} on the right"
            look("plain: a seven on the left and a one on the right", k, f"{left} and {right}", f"cfg({w})")
            look("a seven on the left half, a one on the right half", k, None, _halves(left, right, w))
            scene = {"size": "large", "slant": "upright", "background": ground}
            here = {"digit": one, "ink": ink, "position": "left"}
            there = {"digit": other, "ink": second, "position": "right"}
            beside = {f"second {name}": value for name, value in there.items()}
            prompt = full_caption({**scene, **here, **beside, "count": "two"})
            look("plain, everything said of both", k, prompt, f"cfg({w})")
            first, last = (full_caption({**scene, **digit, "count": "one"}) for digit in (here, there))
            look("by halves, everything said of each", k, None, _halves(first, last, w))
        names = ("digit", "ink", "both", "left digit", "right digit", "both digits")
        n = self.pairs * self.each
        print(f"| prompt (n = {n}, scale {w}) | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}")
        for name, found in rows.items():
            # images of one pair are alike: the error is that of the mean over pairs
            shares = {key: mean_estimate(torch.stack([row[key].double().mean() for row in found])) for key in names}
            print(f"| {name} | {' | '.join(percent(shares[key]) for key in names)} |", flush=True)
            self.note({"prompt": name, "n": n, "scale": self.scale, **{k: s.value for k, s in shares.items()}})

    @staticmethod
    def seen(judge: AttributeJudge, images: Tensor, ink: str, digits: Sequence[str]) -> dict[str, Tensor]:
        """By question, whether each image shows it. Left and right digits count only where two are seen."""
        labels = judge.judge(images)
        first, second = (DIGIT_NAMES.index(name) for name in digits)
        digit, inked = labels["digit"] == first, labels["ink"] == COLOURS.index(ink)
        two = labels["count"] == 1
        left, right = two & digit, two & (labels["second digit"] == second)
        return {
            "digit": digit, "ink": inked, "both": digit & inked, "left digit": left, "right digit": right,
            "both digits": left & right,
        }  # fmt: skip


def _halves(left: str, right: str, scale: str) -> str:
    return f'compose({{"{left}": region({scale}, 0, [0, 0, 1, 0.5]), "{right}": region({scale}, 0, [0, 0.5, 1, 1])}})'


def judged(model: Model) -> tuple[AttributeJudge, Any]:
    """The judge of scenes as large as what the model draws, and the images that it was not trained on."""
    scenes = f"scenes(size={model.image_shape[-1]})"
    return cached_attribute_judge(load_data(scenes)), load_data(scenes, "test")


def percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} ± {100 * share.error:.1f} %"


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"follow": Follow, "compose": Composed}, config=(tyro.conf.OmitArgPrefixes,)
    ).main()
