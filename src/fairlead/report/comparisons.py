"""``fl.measure`` compares two folders of images: the table, what the numbers say in plain words, the page.

Over 300 lines, as a sentence for each kind of metric stands beside its table.
"""

from __future__ import annotations

import json as json_text
import math
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, remark, unknown
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_file, check_folder
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.guide.rewards.reward import Fn, Reward, as_reward
from fairlead.measure.compare import compare, nearest_pairs
from fairlead.measure.comparison import CHOICES, METRICS, Comparison, clear, prompt_reader, read_prompts
from fairlead.measure.extractors import default_extractor, extractor, fitted
from fairlead.measure.image_sets import ImageSet, read_images
from fairlead.measure.judge import JudgeKind
from fairlead.measure.metrics import Estimate, percent, title_of
from fairlead.measure.rewards.image_reward import RewardedImages, images_rewarded
from fairlead.models.load import usable_device
from fairlead.report.image_grid import image_grid
from fairlead.report.page import Block, Png, Section, Table, Text, write_page
from fairlead.report.text_table import WIDTH, in_columns

_SHOWN = 12
"""Pictures a row."""
_SIDE = 96
"""Larger images are shown at this many pixels."""


def measure(
    real: str | Path,
    fake: str | Path,
    *,
    features: str | None = None,
    metrics: str | Sequence[str] = (),
    prompts: str | Path | None = None,
    clip: str | None = None,
    judge: JudgeKind = "quick",
    reward: Reward | Fn | str | None = None,
    k: int = 5,
    resize: int | None = None,
    out: str | Path | None = None,
    json: str | Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
    command: str = "",
) -> Comparison:
    """Compare two folders of images: how far are the fakes from the real ones, and is it more than chance?

    Args:
        real: a folder of images, flat or with a sub-folder a class; or as in ``load_data``, with ``@test`` for it.
        fake: the images to be measured, likewise.
        features: an extractor, see :func:`fairlead.measure.extractors.extractor`; default dinov2 where its weights can
            be had, else random, which is remarked.
        metrics: some of ``CHOICES``; by default all that apply.
        prompts: JSON lines or CSV with a file name and a prompt for each image of ``fake``: how well they fit, by CLIP.
        clip: what reads the prompts, ``clip:PATH`` or other features that embed text; by default ``features`` where
            they do, else ``clip``.
        judge: which judge says whether an image shows its class: "quick", trained in half a minute, or "thorough", for
            photographs, trained in half an hour of one core.
        reward: what else every image is worth, as particles take it: its mean over the fakes and, where it does not
            read their prompts, over the real images.
        k: which neighbour makes a neighbourhood, for precision, recall, density and coverage.
        resize: bring every image to this size first: shorter side resized, centre cropped.
        out: folder for measure.html (pictures, all numbers) and measure.json; earlier ones are replaced.
        json: file for the numbers and their protocol.
        command: said in the files as what made them.

    Returns:
        The numbers with their errors; :func:`findings` says in words what they show.

    Raises:
        UsageError: for images that cannot be read, unknown names, weights that cannot be had, places that cannot be
            written to.
    """
    chosen = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in chosen:
        if name not in CHOICES:
            raise unknown("metric", name, CHOICES)
    if k < 1:
        raise UsageError(f"k: expected at least 1, got {k}")
    if clip is not None and prompts is None:
        raise UsageError("clip is for prompts, which are not given; for clip features pass features clip:PATH")
    out, file = None if out is None else Path(out), None if json is None else Path(json)
    if out is not None:
        check_folder(out, files=["measure.json", "measure.html"])
    if file is not None:
        check_file(file, "choose another file")
    with nullcontext() if out is None else Hold(out):
        with progress("reading the images"):
            images, fakes = (read_images(str(one), resize, what) for one, what in ((real, "REAL"), (fake, "FAKE")))
        asked = [] if prompts is None else read_prompts(Path(prompts), fakes.files)
        rewards = () if reward is None else _rewards(reward, images, fakes, asked, device, progress)
        with progress("loading the network of the features"):
            if features is None:
                network, why = default_extractor(device)
                remark(why)
            else:
                network = extractor(features, device=device)
            reader = None
            if prompts is not None and (clip is not None or network.texts is None):
                reader = prompt_reader(clip, network, device)
        found = compare(
            images,
            fakes,
            network,
            metrics=chosen,
            k=k,
            resize=resize,
            prompts=asked,
            clip=reader,
            judge=judge,
            progress=progress,
        )
        found = replace(found, rewards=rewards)
        numbers = _plain({**found.as_dict(), "findings": findings(found), "command": command})
        paths = [path for path in (file, out and out / "measure.json") if path is not None]
        page = path = None if out is None else out / "measure.html"
        try:
            with unbroken():
                for path in paths:
                    with replacing(path) as partial:
                        partial.write_text(json_text.dumps(numbers, indent=1) + "\n")
                if page is not None:
                    path = page
                    with progress("writing the report"):
                        measure_page(page, found, images, fakes, command)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}") from error
    return found


def _rewards(
    reward: Reward | Fn | str, real: ImageSet, fake: ImageSet, asked: Sequence[str], device: str, progress: Progress
) -> tuple[RewardedImages, ...]:
    """Of the fakes, and of the real images where their own conditions are of the kind that the reward reads."""
    with progress("the reward of the images"):
        found = images_rewarded(fake, reward, usable_device(device), asked)
        if as_reward("reward", reward).needs_condition() and (asked or not real.labelled):
            return (found,)
        return found, images_rewarded(real, reward, usable_device(device))


def comparison_text(found: Comparison) -> str:
    """For a terminal: the tables, what they say, what is missing and what makes the numbers less than they look."""
    tables = [measure_table(found), *([class_table(found)] if found.classes else [])]
    parts = ["\n".join(as_lines(*table)) + "\n" for table in tables]
    parts += [textwrap.fill(sentence, WIDTH) for sentence in findings(found)]
    remarks = [*((f"no {name}", why) for name, why in found.missing.items()), *(("mind", w) for w in found.warnings)]
    parts += [textwrap.fill(f"{lead}: {text}", WIDTH, subsequent_indent="  ") for lead, text in remarks]
    return "\n".join(parts)


def measure_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, a row a metric): all fakes; as many fakes as are compared; as many real images."""
    about = found.protocol
    heads = [
        "",
        f"{about.fake_n:,} fake to {about.real_n:,} real",
        f"{about.block:,} fake to {about.half:,} real",
        f"{about.block:,} real to {about.half:,} real",
    ]
    rows = []
    for name in METRICS:
        parts = [part.get(name) for part in (found.whole, found.fake, found.floor)]
        if any(parts):
            shown = [percent(part) if name == "accuracy" and part else str(part or "-") for part in parts]
            rows.append([_title(name, found), *shown])
    if found.text is not None:
        rows.append(["CLIP cosine to the prompt", str(found.text.cosine), "-", "-"])
        if found.text.others is not None:
            rows.append(["CLIP cosine to other prompts", str(found.text.others), "-", "-"])
    for what, one in zip(("reward", "reward of the real images"), found.rewards, strict=False):
        rows.append([what, str(one.mean), "-", "-"])
    return heads, rows


def class_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, a row per class): accuracy on the fakes, on held-out real images."""
    rows = []
    for row in found.classes:
        cells = [("-", "-") if part is None else (f"{part.n:,}", percent(part)) for part in (row.fake, row.real)]
        rows.append([row.name, *(cell for pair in cells for cell in pair)])
    return ["class", "fakes", "recognised", "held-out real", "recognised"], rows


def as_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """For a terminal."""
    return in_columns([(head, [row[k] for row in rows]) for k, head in enumerate(heads)])


def findings(found: Comparison) -> list[str]:
    """What the numbers say, a sentence or two each; a difference is claimed only where it is :func:`clear`."""
    sentences = [_on_distance(found), _on_variety(found), _on_vendi(found), _on_classes(found), _on_text(found)]
    sentences += [_on_reward(found)]
    return [sentence for sentence in sentences if sentence]


def measure_page(path: Path, found: Comparison, real: ImageSet, fake: ImageSet, command: str) -> Path:
    """Write the comparison as one HTML file."""
    heads, rows = measure_table(found)
    caption = (
        "value ± one standard error, the real images held fixed. The last two columns compare with each other: the "
        "same number of images against the same half of the real ones; the last is what real images reach."
    )
    numbers: list[Block] = [Table(["metric", *heads[1:]], rows, caption)]
    numbers.append(
        Text("\n\n".join(f"{_title(name, found)}: {METRICS[name]}." for name in METRICS if name in found.whole))
    )
    sections = [
        Section(
            "The images", [Png(_examples(real, fake), "real images above, fakes below", "The first of either kind.")]
        ),
        Section("All numbers", numbers),
    ]
    if found.classes:
        class_heads, class_rows = class_table(found)
        sections.append(Section("By class", [Table(class_heads, class_rows, "a judge trained on 80 % of REAL")]))
    sections.append(Section("Nearest to a real image", [_pairs(found, real, fake)]))
    remarks = [*found.warnings, *(f"{_title(name, found)}: {why}" for name, why in found.missing.items())]
    if remarks:
        sections.insert(0, Section("Mind", [Text("\n\n".join(remarks))]))
    provenance = {name: str(value) for name, value in asdict(found.protocol).items()}
    provenance["hash"] = found.protocol.hash
    title = f"{fake.data.name} beside {real.data.name}"
    said, commands = "\n\n".join(findings(found)), [command] if command else []
    return write_page(path, title, sections, provenance, findings=said, commands=commands)


def _title(name: str, found: Comparison) -> str:
    return title_of(name, found.distance)


def _on_distance(found: Comparison) -> str:
    name = next((name for name in ("distance", "cmmd", "kid") if name in found.fake and name in found.floor), None)
    if name is None:
        return ""
    fake, floor, n = found.fake[name], found.floor[name], found.protocol.block
    title = _title(name, found)
    if not clear(fake, floor):
        return (
            f"{title}: no difference between the fakes and real images can be shown at this n ({fake} and {floor}, "
            f"both at {n:,} images)."
        )
    if fake.value < floor.value:
        return (
            f"{title}: the fakes are nearer to the real images than other real images are ({fake} and {floor}, both at "
            f"{n:,} images); copies of the real images would look like this."
        )
    if name == "distance" and floor.value > 0:
        times = f"{fake.value / floor.value:.3g}x as far from the real images as real images are from each other"
    else:  # an unbiased value of the floor may be 0 or below, so that a ratio means nothing
        times = "further from the real images than real images are from each other"
    return f"{title}: the fakes are {times} ({fake} and {floor}, both at {n:,} images)."


def _on_variety(found: Comparison) -> str:
    if not all(name in part for name in ("precision", "recall") for part in (found.fake, found.floor)):
        return ""
    needed = {"precision": 2.0, "recall": 3.0}  # see clear
    low = [name for name, errors in needed.items() if _lower(found.fake[name], found.floor[name], errors)]
    numbers = ", ".join(
        f"{name} {found.fake[name]} (real images {found.floor[name]})" for name in ("precision", "recall")
    )
    if low == ["recall"]:
        text = "recall is low beside precision: the fakes cover only part of the real variety"
    elif low == ["precision"]:
        text = "precision is low beside recall: part of the fakes lie where no real images are"
    elif low:
        text = "precision and recall are both low: part of the fakes lie where no real images are, and they cover only "
        text += "part of the real variety"
    else:
        text = "no lack of precision or recall can be shown at this n"
    return f"{text[0].upper()}{text[1:]}: {numbers}."


def _on_vendi(found: Comparison) -> str:
    if "vendi" not in found.fake or "vendi" not in found.floor:
        return ""
    fake, floor, n = found.fake["vendi"], found.floor["vendi"], found.protocol.block
    if not clear(fake, floor):
        return f"Variety (vendi): no difference can be shown at this n ({fake} and {floor}, both at {n:,} images)."
    word = "less" if fake.value < floor.value else "more"
    return f"The fakes are {word} varied than real images: vendi {fake} and {floor}, both at {n:,} images."


def _on_classes(found: Comparison) -> str:
    if "accuracy" not in found.fake or "accuracy" not in found.floor:
        return ""
    fake, floor = found.fake["accuracy"], found.floor["accuracy"]
    text = (
        f"The judge recognises {percent(fake)} of the fakes as their class and {percent(floor)} of held-out real images"
    )
    text += "." if clear(fake, floor) else ": no difference can be shown at this n."
    low = [row for row in found.classes if row.fake and row.real and _lower(row.fake, row.real)]
    if low:
        worst = sorted(low, key=lambda row: row.fake.value if row.fake else 1.0)[:3]
        text += " Below the real images of their class: "
        text += ", ".join(f"{row.name} ({percent(row.fake)})" for row in worst if row.fake) + "."
    return text


def _on_text(found: Comparison) -> str:
    if found.text is None:
        return ""
    text = f"CLIP cosine of image and prompt: {found.text.cosine} (the cosine itself, not times 2.5 or 100)"
    if found.text.others is not None:
        text += f"; with the prompts of the other images {found.text.others}"
        if not clear(found.text.cosine, found.text.others):
            text += ": that the images follow their prompts cannot be shown at this n"
    if found.text.truncated:
        text += f". {found.text.truncated} prompts are longer than CLIP reads and were cut"
    return text + "."


def _on_reward(found: Comparison) -> str:
    if not found.rewards:
        return ""
    fake, real = found.rewards[0], found.rewards[1] if len(found.rewards) > 1 else None
    text = f"The reward {fake.reward} gives the fakes {fake.mean}"
    if real is not None:
        text += f" and the real images {real.mean}"
        text += "" if clear(fake.mean, real.mean) else ": no difference can be shown at this n"
    return f"{text}."


def _lower(fake: Estimate, floor: Estimate, errors: float = 2.0) -> bool:
    return fake.value < floor.value and clear(fake, floor, errors)


def _examples(real: ImageSet, fake: ImageSet) -> bytes:
    count = min(_SHOWN, len(real), len(fake))
    shape = _shown_shape(real)
    rows = [fitted(_spread(part, count), shape) for part in (real, fake)]
    return image_grid(torch.stack(rows), row_labels=["real", "fake"])


def _spread(images: ImageSet, count: int) -> Tensor:
    """``count`` images at even steps through the set, so that sorted classes all appear."""
    return images.data.images[torch.arange(count) * len(images) // count]


def _pairs(found: Comparison, real: ImageSet, fake: ImageSet) -> Png:
    pairs = nearest_pairs(*found.features, count=min(_SHOWN, len(fake)))
    shape = _shown_shape(real)
    rows = [
        fitted(fake.data.images[[i for i, _, _ in pairs]], shape),
        fitted(real.data.images[[j for _, j, _ in pairs]], shape),
    ]
    labels = [f"{distance:.3g}" for _, _, distance in pairs]
    picture = image_grid(torch.stack(rows), row_labels=["fake", "real"], col_labels=labels)
    caption = "The fakes that lie nearest to a real image, each above it, with the distance of their features: copies?"
    return Png(picture, "pairs of a fake and the real image nearest to it", caption)


def _shown_shape(real: ImageSet) -> tuple[int, int, int]:
    channels, height, width = real.data.shape
    shrink = max(1.0, max(height, width) / _SIDE)
    return channels, max(1, round(height / shrink)), max(1, round(width / shrink))


def _plain(value: Any) -> Any:
    """JSON has no nan: None."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
