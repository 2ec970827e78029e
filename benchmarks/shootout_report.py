"""What the documentation shows of a shoot-out: table, front, numbers and a picture for the page of each method.

    python -m benchmarks.shootout_report runs/shootout --model runs/mnist --weak runs/mnist@step1000 \\
        --classifier runs/mnist-classifier --data ../shared/data/mnist --title "MNIST"

Prints the tables, in which every difference is paired; writes docs/results/shootout.png, docs/methods/measured.json and
docs/methods/NAME.png. Of a shoot-out whose settings were chosen elsewhere (``--chosen``) it prints the tables only.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.shootout import METHODS, Result, short
from fairlead.core.registry import names
from fairlead.data.hub import load_data
from fairlead.measure.metrics import title_of
from fairlead.models.load import load
from fairlead.report.image_grid import image_grid
from fairlead.sample.run import sample

DOCS = Path(__file__).parent.parent / "docs"
REGISTERED = {name for kind in ("term", "finisher", "scale", "reward") for name in names(kind)}

DEMOS: dict[str, tuple[tuple[str, ...], str]] = {
    "cfg": (
        ("none", "cfg(1.5)", "cfg(4)", "cfg(8)"),
        "As the scale grows, strokes become heavier and samples more alike, long before digits break.",
    ),
    "compose": (
        ('compose({"three": 2})', 'compose({"three": 2, "eight": 1.5})', 'compose({"three": 3, "eight": -1})'),
        "Ten seeds per row: a three; a three AND an eight; a three AND NOT an eight.",
    ),
    "perp_neg": (
        ("cfg(3)", 'cfg(3, negative="one")', 'perp_neg(3, "one")'),
        "Below `cfg(3)`: away from the class one in place of null, then from its part orthogonal to the condition.",
    ),
    "bands": (
        ("cfg(3)", "bands([3, 1])", "bands([1, 3])"),
        "From top to bottom: guidance in all bands, in the coarse half only, in the fine half only.",
    ),
    "auto": (
        ("none", "auto(2, weak=WEAK)", "auto(4, weak=WEAK)"),
        "Guided away from an early snapshot of the same run.",
    ),
    "pag": (("none", "pag(1)", "pag(4)"), "Identity attention in the middle layer of the perturbed branch."),
    "seg": (
        ("none", "seg(1)", "seg(4)"),
        "Queries of the middle layer are blurred to their mean in the perturbed branch.",
    ),
    "slg": (("none", "slg(0.5)", "slg(2)"), "The middle block is skipped in the perturbed branch."),
    "sag": (("none", "sag(0.5)", "sag(2)"), "Guided away from images that are blurred where the middle layer attends."),
    "icg": (("none", "icg(1.5)", "icg(4)"), "A random class replaces the null condition; compare `cfg`."),
    "cads": (
        ("cfg(4)", "cfg(4) + cads(0.25)", "cfg(4) + cads(1)"),
        "Noise on the class embedding early in the run makes samples more varied.",
    ),
    "classifier": (
        ("none", "classifier(1, CLASSIFIER).during(sigma=(0, 3))", "classifier(1, CLASSIFIER)"),
        "At low noise the classifier repairs digits that it does not recognise; in the whole run it changes too much.",
    ),
    "apg": (
        ("cfg(6)", "apg(cfg(6))", "apg(cfg(6), norm=4)"),
        "Below `cfg(6)`: without the parallel part of the direction, then also with its length limited.",
    ),
    "cfgpp": (("none", "cfgpp(0.2)", "cfgpp(0.8)"), "The scale of this method is between 0 and 1."),
    "zero_star": (
        ("cfg(6)", "zero_star(cfg(6))", "zero_star(cfg(6), zero=0)"),
        "Below `cfg(6)`: with velocity 0 in the first steps, then without.",
    ),
    "tcfg": (
        ("cfg(6)", "tcfg(cfg(6))"),
        "The part of the unconditional eps that the conditional one does not share is removed.",
    ),
    "mambo": (
        ("cfg(6)", "mambo(cfg(6))", "mambo(cfg(6), 4)"),
        "The scale falls where the direction is large compared with the prediction.",
    ),
    "adaptive": (
        ("cfg(4)", "adaptive(cfg(4), 0.99)", "adaptive(cfg(4), 0.9)"),
        "A threshold of 0.9 saves the most rows, but stops guiding before the four looks like a four.",
    ),
    "cached": (
        ("cfg(4)", "cached(cfg(4))", "cached(cfg(4), every=5)"),
        "The direction is reused for 2 and for 5 steps.",
    ),
    "energy": (
        ("none", "energy(brightness(0.3), 40, through=False)", "energy(label(CLASSIFIER), 2, through=False)"),
        "Below no guidance: towards brighter images than the data (mean 0.13), then towards the class of a classifier.",
    ),
    "brightness": (
        tuple(f"energy(brightness({b}), 40, through=False)" for b in (0.05, 0.15, 0.3)),
        "Towards a mean brightness of 0.05, 0.15 and 0.3; that of the data is 0.13.",
    ),
    "label": (
        tuple(f"energy(label(CLASSIFIER), {s}, through=False)" for s in (0.5, 2, 8)),
        "A classifier of clean images scores the denoised estimate.",
    ),
    "match": (
        ("none", "energy(match(IMAGE, [0, 0, 0.5, 1]), 20, through=False)"),
        "The reward asks for the upper half of one real seven, whatever the class.",
    ),
    "rescale": (
        ("cfg(6)", "cfg(6) | rescale(0.7)", "cfg(6) | rescale(1)"),
        "Rescaled towards the standard deviation of the conditional prediction.",
    ),
    "threshold": (
        ("cfg(8)", "cfg(8) | threshold(0.995)", "cfg(8) | threshold(0.9)"),
        "Dynamic thresholding of x0 at every step.",
    ),
    "clip": (("cfg(8)", "cfg(8) | clip()"), "Below: x0 is clipped at every step."),
    "ramp": (
        ("cfg(4)", "cfg(ramp(1, 4))", "cfg(ramp(4, 1))"),
        "From top to bottom: a constant scale, a growing ramp, a falling ramp.",
    ),
    "clamp": (
        ("cfg(ramp(0, 4))", "cfg(clamp(ramp(0, 4), low=1.5))"),
        "Below: the same ramp, with a scale that is never below 1.5.",
    ),
    "region": (
        ("cfg(8)", "cfg(region(8, 1, [0, 0, 0.5, 1]))"),
        "Below: scale 8 in the upper half, guidance off in the lower half.",
    ),
}


@dataclass(frozen=True)
class Options:
    """Arguments of this script."""

    folder: tyro.conf.Positional[Path]
    """Where the shoot-out wrote its results."""
    model: str
    weak: str
    classifier: str
    data: str
    title: str
    steps: int = 20
    seed: int = 12
    searched: int = 300
    """Images of each setting of the search."""
    pictures: bool = True


def read(folder: Path) -> tuple[list[Result], dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().split("\n")
    return [Result(**json.loads(line)) for line in lines if line], json.loads((folder / "floor.json").read_text())


def table(results: Sequence[Result], floor: dict[str, Any], options: Options) -> str:
    """Markdown, best distance first; behind each metric its difference to cfg, from the same seeds."""
    shown = ("distance", "accuracy", "diversity", "saturation")
    matched = any(result.effective is not None for result in results)
    heads = ["setting", "steps", *(["effective scale"] if matched else [])]
    for name in shown:
        heads += [title_of(name), "to `cfg`"]
    real = [_pm((floor["metrics"][name]["value"], floor["metrics"][name]["error"])) for name in shown]
    lines = [_line(heads), _line(["---"] * len(heads))]
    lines.append(_line(["real test images", "", *([""] if matched else []), *(cell for r in real for cell in (r, ""))]))
    for result in sorted(results, key=lambda result: result.metrics["distance"][0]):
        setting = short(result.guidance, options.weak, options.classifier).replace("|", "\\|")
        cells = [f"`{setting}`", str(result.steps), *([f"{result.effective:.2f}"] if matched else [])]
        for name in shown:
            cells.append(_pm(result.metrics[name]))
            own = result.method == "cfg" or result.difference is None
            cells.append("" if own or result.difference is None else _pm(result.difference[name], sign=True))
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pm(measured: Sequence[float], sign: bool = False) -> str:
    value, error = measured
    decimals = 2 if error >= 0.02 else 4
    return f"{value:{'+' if sign else ''}.{decimals}f} ± {error:.{decimals}f}"


def front(results: Sequence[Result], floor: dict[str, Any], options: Options) -> Figure:
    """Accuracy over raw distance, one point per method at its best."""
    figure, axes = plt.subplots(figsize=(11, 7.5), layout="constrained")
    for result in results:
        (x, dx), (y, dy) = result.metrics["distance"], result.metrics["accuracy"]
        color = "tab:red" if result.method in ("cfg", "none") else "tab:blue"
        axes.errorbar(x, 100 * y, xerr=dx, yerr=100 * dy, fmt="o", ms=4, lw=0.6, color=color, ecolor="#C8CCD4")
    axes.axvline(floor["metrics"]["distance"]["value"], color="black", ls="--", lw=0.8, label="real test images")
    axes.axhline(100 * floor["metrics"]["accuracy"]["value"], color="black", ls="--", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlabel(f"raw Fréchet distance of features, N = {floor['n']} (lower is better)")
    axes.set_ylabel("recognised by the judge, %")
    axes.set_title(f"{options.title}: every method at its own best setting, equal rows per image")
    axes.legend(loc="lower left")
    figure.canvas.draw()
    taken: list[tuple[float, float, float, float]] = []
    for result in results:
        _label(axes, result.method, (result.metrics["distance"][0], 100 * result.metrics["accuracy"][0]), taken)
    return figure


def _label(axes: Axes, text: str, at: tuple[float, float], taken: list[tuple[float, float, float, float]]) -> None:
    """Near its point, where no earlier label is."""
    points = 72 / axes.figure.dpi
    x, y = axes.transData.transform(at) * points
    width, height = 4.1 * len(text), 8.0
    for dy in (3, -10, 12, -19, 21, -28, 30, -37, 39):
        for dx in (5, -5 - width):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                taken.append(box)
                arrow = {"arrowstyle": "-", "lw": 0.4, "color": "grey"} if abs(dy) > 12 else None
                axes.annotate(text, at, (dx, dy), textcoords="offset points", fontsize=7, arrowprops=arrow)
                return


def of_page(method: str) -> set[str]:
    """The pages that a method of the shoot-out belongs to."""
    found = set(re.findall(r"[a-z_+]+(?=\()", METHODS[method][0])) & REGISTERED
    return found - {"cfg"} or {"cfg"}


def main(options: Options) -> None:
    results, floors = read(options.folder)
    by_phase = {phase: [r for r in results if r.phase == phase] for phase in ("search", "best", "matched")}
    at_best, at_matched = next(iter(floors.values())), list(floors.values())[-1]
    for phase, floor in (("best", at_best), ("matched", at_matched)):
        if by_phase[phase]:
            print(f"\n## {phase}\n\n{table(by_phase[phase], floor, options)}")
    if not by_phase["search"]:
        return
    front(by_phase["best"], at_best, options).savefig(DOCS / "results" / "shootout.png", dpi=110)
    measured: dict[str, Any] = {}
    for result in by_phase["search"]:
        for page in sorted(of_page(result.method)):
            guidance = short(result.guidance, options.weak, options.classifier)
            row = {"guidance": guidance, "rows": result.rows, "metrics": result.metrics}
            measured.setdefault(page, {"rows": []})["rows"].append(row)
    for page in measured:
        measured[page]["about"] = (
            f"The settings that were searched on {options.title}, with {options.searched} images each at equal rows. "
            "The seeds are not those of the shoot-out, so compare rows of this table only. W is an early snapshot and "
            "C a noise-aware classifier. [The shoot-out](../results/shootout.md) compares the best setting of every "
            "method."
        )
    for page, (_, caption) in DEMOS.items():
        measured.setdefault(page, {})["caption"] = caption
    (DOCS / "methods" / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    if options.pictures:
        draw(options)


def draw(options: Options) -> None:
    """docs/methods/NAME.png: rows of settings, columns of classes (seeds where the guidance names the classes)."""
    model = load(options.model)
    test = load_data(options.data, "test")
    with tempfile.TemporaryDirectory() as folder:
        seven = test.images[int((test.labels == model.classes.index("seven")).nonzero()[0])]
        Image.fromarray(seven[0].numpy()).save(f"{folder}/seven.png")
        given = {"WEAK": options.weak, "CLASSIFIER": options.classifier, "IMAGE": f"{folder}/seven.png"}
        for name, (texts, _) in DEMOS.items():
            rows = []
            for text in texts:
                for word, value in given.items():
                    text = text.replace(word, json.dumps(value))
                conds: Sequence[Any] = [None] * 10 if name == "compose" else model.classes
                seeds = range(options.seed, options.seed + 10)
                run = sample(model, conds, guidance=text, seeds=seeds, sampler="ddim", steps=options.steps)
                assert run.images is not None
                rows.append(run.images)
            labels = [text.replace("WEAK", "W").replace("CLASSIFIER", "C").replace("IMAGE", "seven") for text in texts]
            picture = image_grid(torch.stack(rows), row_labels=labels, upscale=2)
            (DOCS / "methods" / f"{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
