"""Edits on scenes, where every attribute is known: one attribute is changed, all others have to stay.

    python -m benchmarks.edit RUN --n 500

RUN reads text and was trained on scenes. Sources are real images of the test split with one digit; the source condition
is the caption that says everything, the target the same caption with another ink, or another digit. The judge of
attributes sees an edit as right if the changed attribute is the asked one and all others are what they were. What
should not change is known to the pixel: the same scene is drawn again with the other ink or digit, and where both
drawings agree, the edit is compared with the source.

Every method has the same number of network rows for an edit (``--rows``), but null-text inversion, which has the number
of steps of inversion and the rows that it takes. Strength, scale and interval of noise levels in which each is guided
are those that do best on other images (``--tune-n``). ``--store`` keeps every number, and what it holds is not made
again; OUT/edit.md is the page.

Over 300 lines, as what is measured and the page that says it share the settings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import tyro
from torch import Tensor

import fairlead
from fairlead.core.errors import UsageError
from fairlead.core.places import check_file, check_folder
from fairlead.core.progress import bars
from fairlead.data.hub import load_data
from fairlead.data.scenes.captions import VALUES, full_caption
from fairlead.data.scenes.scene_set import redrawn
from fairlead.data.spec import read_call
from fairlead.measure.attributes import AttributeJudge, cached_attribute_judge, is_scenes
from fairlead.measure.metrics import Estimate, mean_estimate, proportion_estimate
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.report.edits import Edited, EditMethod, edit
from fairlead.report.image_grid import image_grid
from fairlead.train.checkpoint import find_checkpoint

METHODS: tuple[EditMethod, ...] = get_args(EditMethod)
CHANGED = ("ink", "digit")
KEPT = tuple(name for name in VALUES if not name.startswith("second"))
"""What the judge is asked of a scene with one digit."""
SETTING = ("strength", "scale", "form", "steps")
"""What is chosen; the form is an expression with {scale}."""
EVALUATIONS = {"sdedit": 0, "inversion": 1, "fixed-point": 4, "null-text": 1, "negative": 1}
"""Rows that a step of inverting costs without guidance, about, beside the two of sampling."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    run: Annotated[str, tyro.conf.Positional]
    """A run that reads text, trained on scenes."""
    out: Path = Path("docs/results")
    """Folder for edit.md and edit.png."""
    store: Path = Path("runs/edit.jsonl")
    """File for the numbers, a row per setting."""
    n: int = 500
    """Images for each edit."""
    null_text_n: int = 100
    """As many for null-text inversion, which takes ten times as long; a fifth of them choose among fewer settings."""
    tune_n: int = 60
    """Other images, on which strength and scale are chosen."""
    rows: int = 120
    """Network rows for each edit, sampling and inverting together."""
    methods: tuple[EditMethod, ...] = METHODS
    strengths: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    scales: tuple[float, ...] = (1.5, 3.0, 5.0)
    guidances: tuple[str, ...] = ("cfg({scale})", "cfg({scale}).during(sigma=(0.3, 20))")
    """Expressions; {scale} is each of the scales."""
    data: str | None = None
    """The scenes, if not those of the training."""
    batch_size: int = 100
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Task:
    """Sources and what they are to become.

    Attributes:
        images: uint8 [n, c, h, w].
        truth: attribute -> labels of what an edit should show, int64 [n].
        same: bool [n, h, w]: where nothing changes.
        source, target: captions.
    """

    images: Tensor
    truth: Mapping[str, Tensor]
    same: Tensor
    source: list[str]
    target: list[str]

    def first(self, n: int) -> Task:
        """The first n images and what is asked of them."""
        truth = {name: labels[:n] for name, labels in self.truth.items()}
        return Task(self.images[:n], truth, self.same[:n], self.source[:n], self.target[:n])


class Bench:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.model: Model = load(options.run, device=options.device)
        if self.model.conditions != ("text",):
            raise UsageError(f"{options.run}: expected a run that reads text alone, as of --recipe scenes")
        spec = options.data or str(find_checkpoint(options.run).about["train"]["data"]["spec"])
        self.train, self.test = load_data(spec), load_data(spec, "test")
        if not is_scenes(self.test) or self.test.shape != self.model.image_shape:
            raise UsageError(f"data {spec!r}: expected scenes of the model's size {list(self.model.image_shape)}")
        if options.n < 1 or options.tune_n < 1 or len(self.single) < options.n + options.tune_n:
            raise UsageError(
                f"--n {options.n}, --tune-n {options.tune_n}: the test split has {len(self.single)} images of one digit"
            )

    @cached_property
    def judge(self) -> AttributeJudge:
        return cached_attribute_judge(self.train)

    @cached_property
    def single(self) -> Tensor:
        """Images with one digit."""
        return (self.test.attributes["count"].labels == 0).nonzero()[:, 0]

    def n(self, method: EditMethod, tuning: bool = False) -> int:
        options = self.options
        most = options.tune_n if tuning else options.n
        fewer = max(1, options.null_text_n // 5) if tuning else options.null_text_n
        return min(most, fewer) if method == "null-text" else most

    def task(self, changed: str, tuning: bool, n: int | None = None) -> Task:
        """Of all images, or of the first n, with the same changes."""
        options = self.options
        index = self.single[options.n :][: options.tune_n] if tuning else self.single[: options.n]
        was = {name: self.test.attributes[name].labels[index] for name in KEPT}
        generator = torch.Generator().manual_seed(options.seed)
        taken = torch.zeros(len(index), len(VALUES[changed]), dtype=torch.bool)
        for name in (changed, "background") if changed == "ink" else (changed,):
            taken[torch.arange(len(index)), was[name]] = True
        draw = torch.rand(taken.shape, generator=generator).masked_fill(taken, -1)
        truth = {**was, changed: draw.argmax(1)}
        call = read_call(self.test.name)
        again = redrawn(index, {changed: truth[changed]}, "test", **({} if call is None else call[1]))
        images = self.test.images[index]
        same = (again.int() - images.int()).abs().amax(1) == 0
        return Task(images, truth, same, captions(was), captions(truth)).first(n or len(index))

    def settings(self, method: EditMethod) -> Iterator[dict[str, Any]]:
        """All of a method's guidances, strengths and scales; how many steps its rows allow."""
        slow, options = method == "null-text", self.options
        scales = options.scales[:2] if slow else options.scales
        for form, scale in product(options.guidances[:1] if slow else options.guidances, scales):
            for strength in options.strengths[-2:] if slow else options.strengths:
                each = (EVALUATIONS[method] + (2 if scale != 1 else 1)) * strength
                steps = 40 if method == "null-text" else max(2, round(self.options.rows / each))
                most = self.model.schedule.table_size
                steps = steps if most is None else min(steps, most)
                yield {"strength": strength, "scale": scale, "form": form, "steps": steps}

    def done(self, method: EditMethod, setting: Mapping[str, Any], task: Task) -> Edited:
        inverting = method != "sdedit"
        more: dict[str, Any] = {"source": task.source} if inverting else {}
        if method in ("inversion", "fixed-point"):
            more["source_guidance"] = "none"
        return edit(
            self.model, task.images, task.target, method=method, strength=setting["strength"],
            guidance=guidance_of(setting), steps=setting["steps"], seed=self.options.seed,
            batch_size=self.options.batch_size, progress=bars, **more,
        )  # fmt: skip

    def scored(self, found: Edited, task: Task) -> dict[str, Any]:
        images = found.images
        assert images is not None
        seen = self.judge.judge(images)
        hits = {name: seen[name] == task.truth[name] for name in KEPT}
        off = (images.double() - task.images.double()) / 255
        here = task.same[:, None].expand_as(off)
        off = (off.square() * here).flatten(1).sum(1) / here.flatten(1).sum(1).clamp(min=1)
        n, inversion = len(images), found.inversion
        inverting = 0.0 if inversion is None else inversion.cost.rows / n  # the way back is a measurement
        row: dict[str, Any] = {
            "right": proportion_estimate(torch.stack(list(hits.values())).all(0).double()),
            **{name: proportion_estimate(hit.double()) for name, hit in hits.items()},
            "unchanged": mean_estimate(off.sqrt()),
            "rows": found.run.cost.rows / n + inverting,
        }
        if inversion is not None:
            row["psnr"] = mean_estimate(inversion.psnr.clamp(max=100))  # type: ignore[union-attr]
            row["error"] = mean_estimate(inversion.error)
            if inversion.codec_psnr is not None:
                row["codec_psnr"] = mean_estimate(inversion.codec_psnr.clamp(max=100))
        return {name: asdict(value) if isinstance(value, Estimate) else value for name, value in row.items()}


def captions(labels: Mapping[str, Tensor]) -> list[str]:
    columns = {name: values.tolist() for name, values in labels.items()}
    return [
        full_caption({name: VALUES[name][column[i]] for name, column in columns.items()})
        for i in range(len(columns["digit"]))
    ]


def guidance_of(setting: Mapping[str, Any]) -> str:
    return str(setting["form"]).replace("{scale}", f"{setting['scale']:g}")


def measured(
    bench: Bench, changed: str, method: EditMethod, setting: Mapping[str, Any], tuning: bool
) -> dict[str, Any]:
    """A row of edit.jsonl, from there if it is there."""
    options = bench.options
    key = {
        "changed": changed, "method": method, **setting, "tuning": tuning, "seed": options.seed,
        "data": bench.test.name,
        "n": bench.n(method, tuning), "first": options.n if tuning else 0,
        "weights": bench.model.metadata.get("weights_hash"), "version": fairlead.__version__,
    }  # fmt: skip
    if options.store.is_file():
        for line in options.store.read_text().split("\n"):
            if line and (row := json.loads(line))["key"] == key:
                return row  # type: ignore[no-any-return]
    task = bench.task(changed, tuning, bench.n(method, tuning))
    row = {"key": key, **bench.scored(bench.done(method, setting, task), task)}
    with options.store.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{changed} {method} {setting}: right {_share(row['right'])}, {row['rows']:.0f} rows", file=sys.stderr)
    return row


def chosen(bench: Bench, changed: str, method: EditMethod) -> dict[str, Any]:
    """The setting that does best on the other images; of equals, the one that changes less of what should stay."""
    tried = {}
    for setting in bench.settings(method):
        row = measured(bench, changed, method, setting, tuning=True)
        tried[json.dumps(setting)] = (row["right"]["value"], -row["unchanged"]["value"])
    best: dict[str, Any] = json.loads(max(tried, key=lambda setting: tried[setting]))
    return best


def page(bench: Bench, found: Mapping[tuple[str, str], dict[str, Any]]) -> str:
    """The text of edit.md."""
    options = bench.options
    lines = [
        "# Edits on scenes",
        "",
        "One attribute of a real image is changed, everything else has to stay: the ink, or the digit.",
        "`benchmarks/edit.py` says how it is measured.",
        "",
        "```sh",
        f"python -m benchmarks.edit {options.run} --n {options.n} --rows {options.rows}",
        "```",
        "",
        f"N images of the test split of `{bench.test.name}`, from the first {options.n} with one digit. Strength and",
        f"guidance of each method are those that do best on {options.tune_n} others. Errors are standard errors, those",
        "of shares of the Wilson interval.",
    ]
    for changed in CHANGED:
        task = bench.task(changed, tuning=False)
        seen = bench.judge.judge(task.images)
        kept = [name for name in KEPT if name != changed]
        ceiling = proportion_estimate(torch.stack([seen[name] == task.truth[name] for name in kept]).all(0).double())
        lines += [
            "",
            f"## {'Another ink' if changed == 'ink' else 'Another digit'}",
            "",
            f"The judge sees all that has to stay in {_share(asdict(ceiling))} of the sources themselves: no edit can",
            "be seen to do much better.",
            "",
            "| method | right, all else kept | asked one right | change of what stays (RMS of [0, 1]) "
            "| way back, PSNR in dB | rows per edit | strength | guidance | steps | N |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for method in options.methods:
            row = found[changed, method]
            key = row["key"]
            psnr = _number(row["psnr"]) if "psnr" in row else ""
            psnr += f" (autoencoder {_number(row['codec_psnr'])})" if "codec_psnr" in row else ""
            lines.append(
                f"| {method} | {_share(row['right'])} | {_share(row[changed])} | {_number(row['unchanged'])} | {psnr} "
                f"| {row['rows']:.0f} | {key['strength']:g} | `{guidance_of(key)}` | {key['steps']} "
                f"| {key['n']} |"
            )
    lines += [
        "",
        "![Before, and after each method](edit.png)",
        "",
        "Columns are the first images of both edits, in order. The way back is measured at scale 1 for inversion and",
        "fixed point, at the scale of the edit for null-text and negative-prompt inversion.",
    ]
    return "\n".join(lines) + "\n"


def picture(bench: Bench, found: Mapping[tuple[str, str], dict[str, Any]], columns: int = 6) -> bytes:
    rows: list[Tensor] = []
    titles: list[str] = []
    few = {changed: bench.task(changed, tuning=False, n=columns) for changed in CHANGED}
    rows.append(torch.cat([task.images for task in few.values()]))
    for method in bench.options.methods:
        parts = []
        for changed, task in few.items():
            key = found[changed, method]["key"]
            images = bench.done(method, {name: key[name] for name in SETTING}, task).images
            assert images is not None
            parts.append(images)
        rows.append(torch.cat(parts))
    for changed, task in few.items():
        titles += [VALUES[changed][int(label)] for label in task.truth[changed]]
    return image_grid(torch.stack(rows), row_labels=["before", *bench.options.methods], col_labels=titles)


def main(options: Options) -> None:
    check_folder(options.out)
    check_file(options.store)
    bench = Bench(options)
    for folder in (options.out, options.store.parent):
        folder.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for changed in CHANGED:
        for method in options.methods:
            setting = chosen(bench, changed, method)
            found[changed, method] = measured(bench, changed, method, setting, tuning=False)
    (options.out / "edit.png").write_bytes(picture(bench, found))
    text = page(bench, found)
    (options.out / "edit.md").write_text(text)
    print(text)


def _share(value: Mapping[str, Any]) -> str:
    return f"{100 * value['value']:.1f} ± {100 * value['error']:.1f} %"


def _number(value: Mapping[str, Any]) -> str:
    return str(Estimate(**value))


if __name__ == "__main__":
    main(tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,)))
