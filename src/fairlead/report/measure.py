"""Two folders compared: the table, what the numbers say in plain words, the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fairlead.measure.compare import nearest_pairs
from fairlead.measure.comparison import METRICS, Comparison, clear
from fairlead.measure.estimate import Estimate
from fairlead.measure.extractors import fitted
from fairlead.measure.folders import ImageSet
from fairlead.measure.metrics import percent, title_of
from fairlead.report.columns import in_columns
from fairlead.report.grids import image_grid
from fairlead.report.page import Block, Png, Section, Table, Text, write_page

_SHOWN = 12
"""Pictures a row."""
_SIDE = 96
"""Larger images are shown at this many pixels."""


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
    return heads, rows


def class_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, a row a class): accuracy on the fakes, on held-out real images."""
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
    return write_page(path, title, sections, provenance, findings="\n\n".join(findings(found)), commands=[command])


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
