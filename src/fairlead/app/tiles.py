"""What the page shows, as HTML; every text that comes from outside is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from fairlead.app.forming import FormingSides, Side
from fairlead.core.errors import UsageError
from fairlead.core.printable import printable


def tiles(images: Tensor, labels: Sequence[str], about: str, columns: int) -> str:
    """uint8 [n, c, h, w] as crisp pictures with a label below each, so many in a row, at most 10; ``about`` is said to
    those who cannot see them."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(f"cannot show images of shape {list(images.shape[1:])}; expected 1 or 3 channels")
    small = " small" if max(images.shape[2:]) <= 64 else ""
    figures = []
    for image, label in zip(images, labels, strict=True):
        said = text(f"{about}, {label}" if about else label)
        figures.append(f'<figure><img alt="{said}" src="{_uri(image)}"><figcaption>{text(label)}</figcaption></figure>')
    return f'<div class="tiles{small}" style="--columns: {_columns(columns)}">{"".join(figures)}</div>'


def side(one: Side, name: str, columns: int, labels: Sequence[str] = ()) -> str:
    """The pictures of a side, with a bar, and what it cost so far; ``labels`` in place of condition and seed."""
    total = len(one.plan.seeds)
    rows, ms = one.tracing.cost.rows / total, 1000 * sum(one.tracing.seconds) / total
    state = f"step {one.step} of {one.steps}" if one.run is None else f"{one.steps} steps"
    cost = f"{state} · {rows:g} network rows and {ms:.1f} ms per image"
    bar = f'<progress max="{one.steps}" value="{one.step}" aria-label="{text(name)}: {text(state)}"></progress>'
    wrong = line(one.broken, wrong=True) if one.broken else ""
    shown = (
        tiles(one.images, labels or captions(one), str(one.plan.guidance), columns)
        if one.images is not None
        else _waiting(total, columns)
    )
    return f'{bar}<p class="cost"><code>{text(str(one.plan.guidance))}</code> · {text(cost)}</p>{wrong}{shown}'


def difference(sides: FormingSides, columns: int) -> str:
    """Right minus left, grey where they are equal; "" while one of them is not there."""
    left, right = (one.images for one in sides.values())
    if left is None or right is None or left.shape != right.shape:
        return ""
    change = right.double() - left.double()
    pictures = (128 + change / 2).round().clamp(0, 255).to(torch.uint8)
    size = change.square().mean().sqrt() / 255
    labels = [f"{each:.3f}" for each in (change.square().flatten(1).mean(1).sqrt() / 255).tolist()]
    said = (
        "Right minus left, grey where they are equal; below: root mean square of the difference, of values in [0, 1]."
    )
    return f'<p class="cost">{said} Over all images: {size:.3f}.</p>{tiles(pictures, labels, "difference", columns)}'


def captions(one: Side) -> list[str]:
    """Condition and seed of each image; the condition alone is left out where there is none."""
    pairs = zip(one.plan.conds, one.plan.seeds, strict=True)
    return [f"seed {seed}" if cond is None else f"{cond} · {seed}" for cond, seed in pairs]


def line(said: str, wrong: bool = False) -> str:
    """A line below a field."""
    return f'<p class="{"wrong" if wrong else "quiet"}"{" role=alert" if wrong else ""}>{text(said)}</p>'


def text(given: str) -> str:
    """Any text for HTML: escaped, control characters and marks of direction written out."""
    return escape(printable(given))


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _columns(wanted: int) -> int:
    return min(max(wanted, 1), 10)


def _waiting(count: int, columns: int) -> str:
    blanks = "<figure><div class=blank></div></figure>" * count
    return f'<div class="tiles" style="--columns: {_columns(columns)}">{blanks}</div>'


def _uri(image: Tensor) -> str:
    array = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return data_uri(stream.getvalue())
