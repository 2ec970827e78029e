"""Choices of the scenes recipe, each on its own: what a narrow network should predict, how words are read; and what a
run knows of its captions.

python benchmarks/text_choices.py objective   # errors of x0 by noise level after a few hundred steps
python benchmarks/text_choices.py encoder     # attributes read off a caption by a linear head
python benchmarks/text_choices.py sketch      # what sketches alone know, by what they are made of
python benchmarks/text_choices.py knows runs/scenes@step500 runs/scenes
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.denoiser import NetworkDenoiser, expand_like
from fairlead.data.hub import load_data
from fairlead.data.images import to_float
from fairlead.data.scenes.captions import VALUES, full_caption, read_caption
from fairlead.data.text import encoder_from_config
from fairlead.data.words import END, Words
from fairlead.models.load import load
from fairlead.nets.build import net_config
from fairlead.nets.text_attention import TextTransformer
from fairlead.train.conditions import DataConditions, asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training

LOG_SNR = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
READ = ("digit", "ink", "background", "position")
CHANGED = ("digit", "position", "ink", "slant", "size")


@dataclass(frozen=True)
class Objective:
    """Mean squared error of x0 on held-out scenes, by log-SNR, for objectives and weightings."""

    steps: int = 200
    n: int = 5000
    """Train images."""

    def main(self) -> None:
        data, held_out = load_data(f"scenes(n={self.n})"), load_data("scenes(n=1280)", "test")
        print(f"| objective, weighting | {' | '.join(f'{level:g}' for level in LOG_SNR)} |\n|{' --- |' * 8}")
        choices: tuple[tuple[Any, Any], ...] = (
            ("v", "uniform"), ("x0", "uniform"), ("x0", "min_snr"), ("x0", "capped_v"),
        )  # fmt: skip
        for objective, weighting in choices:
            _, inputs, text = asked(data, ["text"])
            config = TrainConfig(
                net_config("28x28", 3, 28, 0, **inputs), text=text, steps=6000, batch_size=64,
                objective=objective, weighting=weighting,
            )  # fmt: skip
            training = Training(data, config, None)
            for _ in range(self.steps):
                training.take_step()
            denoiser = NetworkDenoiser(training.averaged_network(), training.schedule, objective)
            condition = DataConditions.of(held_out, config.net, text).at(torch.arange(len(held_out)))
            x0, generator, errors = to_float(held_out.images), torch.Generator().manual_seed(0), []
            for level in LOG_SNR:
                t = training.schedule.t_of_log_snr(torch.tensor(level, dtype=torch.float64))
                alpha, sigma = (expand_like(value, x0) for value in training.schedule.alpha_sigma(t))
                x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
                with torch.no_grad():
                    errors.append(float((denoiser(x_t, t, condition).x0 - x0).square().mean()))
            print(f"| {objective}, {weighting} | {' | '.join(f'{error:.4f}' for error in errors)} |", flush=True)


@dataclass(frozen=True)
class Encoder:
    """Share of held-out captions whose attributes a linear head, trained along, reads off the pooled state."""

    steps: tuple[int, ...] = (100, 200, 400)
    n: int = 8000
    """Captions."""

    def main(self) -> None:
        train, test = load_data(f"scenes(n={self.n})"), load_data(f"scenes(n={self.n})", "test")
        words = Words.of(train.captions + test.captions)
        (ids, labels), (held_out, truth) = ((words(d.captions), said(d.captions)) for d in (train, test))
        print(f"| encoder | steps | {' | '.join(READ)} |\n|{' --- |' * 6}")
        for name in ("attention only", "neighbours first"):
            torch.manual_seed(1)
            encoder = TextTransformer(len(words.vocabulary) + 2, words.width, words.length, 2, 4)
            if name == "attention only":
                for parameter in encoder.neighbours.parameters():
                    nn.init.zeros_(parameter).requires_grad_(False)
            heads = nn.ModuleDict({key: nn.Linear(words.width, len(VALUES[key])) for key in READ})
            trained = [p for p in (*encoder.parameters(), *heads.parameters()) if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
            for step in range(1, max(self.steps) + 1):
                optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 100)
                index = torch.randint(len(ids), (64,))
                pooled = at_end(encoder, ids[index])
                losses = [F.cross_entropy(heads[key](pooled), labels[key][index], ignore_index=-1) for key in READ]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                if step in self.steps:
                    with torch.no_grad():
                        pooled = at_end(encoder, held_out)
                        right = {key: heads[key](pooled).argmax(1) == truth[key] for key in READ}
                    shares = [float(right[key][truth[key] >= 0].double().mean()) for key in READ]
                    print(f"| {name} | {step} | {' | '.join(f'{100 * s:.1f} %' for s in shares)} |", flush=True)


@dataclass(frozen=True)
class Knows:
    """Error of x0 on held-out scenes of one digit, conditioned on full captions, and how much more of it there is when
    the caption names another value of an attribute: 0 where the network does not use it."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    levels: tuple[float, ...] = (-5.0, -3.0, -1.0)
    """log-SNR."""
    n: int = 256

    @torch.no_grad()
    def main(self) -> None:
        x0, truth = single_digits(self.n)
        print(f"| run | log-SNR | error | {' | '.join(CHANGED)} |\n|{' --- |' * (3 + len(CHANGED))}")
        for spec in self.runs:
            model, generator = load(spec), torch.Generator().manual_seed(0)
            conditions = {name: model.encode(captions(truth, name, generator)) for name in ("", *CHANGED)}
            text = getattr(getattr(model.denoiser, "network", None), "text", None)
            if text is not None and text.sketch is not None:
                print_row(f"{spec} | sketch", {k: text(c).sketch for k, c in conditions.items()}, x0)
            for level in self.levels:
                t = model.schedule.t_of_log_snr(torch.tensor(level, dtype=torch.float64))
                alpha, sigma = (expand_like(value, x0) for value in model.schedule.alpha_sigma(t))
                x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
                print_row(f"{spec} | {level:g}", {k: model.denoiser(x_t, t, c).x0 for k, c in conditions.items()}, x0)


@dataclass(frozen=True)
class Sketches:
    """The same of sketches alone, made of the probabilities that readers give to the attributes, or of the pooled
    vector as it is; no network is trained."""

    steps: tuple[int, ...] = (6000, 20_000)
    n: int = 512
    data: str = "scenes(n=100000)"

    def main(self) -> None:
        x0, truth = single_digits(self.n)
        data = load_data(self.data)
        print(f"| made of | steps | processor | error | {' | '.join(CHANGED)} |\n|{' --- |' * (4 + len(CHANGED))}")
        for steps in self.steps:
            for of in ("probabilities", "vector"):
                _, inputs, text = asked(data, ["text"], settings={"read": 400, "sketch": steps})
                if of == "vector":
                    inputs["text"].pop("says")
                ticks, tick = clock()
                net = net_config("28x28-colour", 3, 28, 0, **inputs)
                training = Training(data, TrainConfig(net, text=text), None, reading=tick)
                encode, generator = encoder_from_config(text), torch.Generator().manual_seed(0)
                drawn = {}
                with torch.no_grad():
                    for name in ("", *CHANGED):
                        pooled = training.network.text.pooled(encode(captions(truth, name, generator)))
                        drawn[name] = training.network.text.sketch(pooled)
                print_row(f"{of} | {steps} | {ticks[-1] - ticks[399]:.0f} s", drawn, x0)


def clock() -> tuple[list[float], Callable[[int], None]]:
    """The processor's times at which the second was called."""
    ticks: list[float] = []
    return ticks, lambda done: ticks.append(time.process_time())


def single_digits(n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Held-out scenes of one digit: images [n, 3, 28, 28] and labels [n] by attribute."""
    held_out = load_data(f"scenes(n={10 * n})", "test")
    one = (held_out.attributes["count"].labels == 0).nonzero()[:n, 0]
    return to_float(held_out.images[one]), {k: a.labels[one] for k, a in held_out.attributes.items()}


def print_row(head: str, drawn: dict[str, Tensor], x0: Tensor) -> None:
    """The error of what was drawn for the true captions, "", and how much more of it there is for the others."""
    error = {name: float((x - x0).square().mean()) for name, x in drawn.items()}
    more = [f"{100 * (error[name] / error[''] - 1):.0f} %" for name in CHANGED]
    print(f"| {head} | {error['']:.4f} | {' | '.join(more)} |", flush=True)


def captions(truth: dict[str, Tensor], changed: str, generator: torch.Generator) -> list[str]:
    """Full captions of scenes, each with another value, drawn evenly, of the attribute ``changed``; "": of none."""
    labels = dict(truth)
    if changed:
        count = len(VALUES[changed])
        other = torch.randint(1, count, truth[changed].shape, generator=generator)
        labels[changed] = (truth[changed] + other) % count
    rows = [{k: VALUES[k][int(v[i])] for k, v in labels.items() if v[i] >= 0} for i in range(len(truth["digit"]))]
    return [full_caption(row) for row in rows]


def said(captions: tuple[str, ...]) -> dict[str, Tensor]:
    """What each caption says, int64 [n] by attribute; -1 where it does not."""
    read = [read_caption(caption) for caption in captions]
    return {key: torch.tensor([VALUES[key].index(r[key]) if key in r else -1 for r in read]) for key in READ}


def at_end(encoder: TextTransformer, ids: Tensor) -> Tensor:
    """The states at the end tokens, [n, width]."""
    return encoder(ids)[torch.arange(len(ids)), (ids == END).int().argmax(1)]  # type: ignore[no-any-return]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"objective": Objective, "encoder": Encoder, "sketch": Sketches, "knows": Knows},
        config=(tyro.conf.OmitArgPrefixes,),
    ).main()
