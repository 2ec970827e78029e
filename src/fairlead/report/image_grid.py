"""Labelled grids of images, every source pixel a crisp square."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fairlead.core.errors import UsageError

_LABEL_SIZE, _TITLE_SIZE = 13, 16
_GAP, _MARGIN = 4, 12
_INK, _QUIET = (24, 28, 34), (88, 96, 108)
_WRAP = 14
"""Characters after which a column label is broken, if it has a space there."""


@dataclass(frozen=True)
class GridLayout:
    """Where everything is, in output pixels.

    Attributes:
        size: (width, height) of the picture.
        upscale: output pixels per source pixel.
        columns: left edge of each column's images.
        rows: top edge of each row's images.
        title_lines: of the title, broken to the width.
    """

    size: tuple[int, int]
    upscale: int
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    title_lines: tuple[str, ...]


def grid_layout(
    images: Tensor,
    row_labels: Sequence[str] | None = None,
    col_labels: Sequence[str] | None = None,
    title: str = "",
    upscale: int | None = None,
) -> GridLayout:
    """The layout that :func:`image_grid` draws; same arguments, same errors."""
    if images.ndim != 5 or str(images.dtype) != "torch.uint8" or images.shape[2] not in (1, 3) or 0 in images.shape:
        raise UsageError(
            f"image grid: expected uint8 [rows, cols, c, h, w] with c = 1 or 3, got {images.dtype} {list(images.shape)}"
        )
    rows, cols, _, h, w = images.shape
    for what, given, expected in (("row", row_labels, rows), ("column", col_labels, cols)):
        if given is not None and len(given) != expected:
            raise UsageError(f"image grid: {len(given)} {what} labels for {expected} {what}s; give one each, or None")
    if upscale is None:
        upscale = max(1, round(64 / max(h, w)))
    if upscale < 1:
        raise UsageError(f"image grid: expected upscale >= 1, got {upscale}")

    font = _font(_LABEL_SIZE)
    cell_w, cell_h = w * upscale, h * upscale
    heads = [_wrapped(label) for label in col_labels or []]
    pitch = max([cell_w, *(_width(line, font) + 8 for lines in heads for line in lines)]) + _GAP
    beside = [label.split("\n") for label in row_labels or []]
    left = _MARGIN + (max(_width(text, font) for lines in beside for text in lines) + 10 if beside else 0)
    line = _LABEL_SIZE + 4
    row_pitch = max(cell_h, line * max(map(len, beside), default=0)) + _GAP
    # the columns' labels are centred over their images; a wide one makes the first column start further right
    inset = (pitch - _GAP - cell_w) // 2
    width = left + cols * pitch - _GAP + _MARGIN
    titles = _broken(title, _font(_TITLE_SIZE), max(width - 2 * _MARGIN, 160)) if title else []
    width = max([width, *(_width(text, _font(_TITLE_SIZE)) + 2 * _MARGIN for text in titles)])
    top = _MARGIN + len(titles) * (_TITLE_SIZE + 6) + (6 if titles else 0)
    top += max((len(lines) for lines in heads), default=0) * line + (4 if heads else 0)
    return GridLayout(
        size=(width, top + rows * row_pitch - _GAP + _MARGIN),
        upscale=upscale,
        columns=tuple(left + inset + column * pitch for column in range(cols)),
        rows=tuple(top + row * row_pitch for row in range(rows)),
        title_lines=tuple(titles),
    )


def image_grid(
    images: Tensor,
    row_labels: Sequence[str] | None = None,
    col_labels: Sequence[str] | None = None,
    title: str = "",
    upscale: int | None = None,
    provenance: Mapping[str, str] | None = None,
) -> bytes:
    """A PNG of ``images`` with a label per row and per column.

    Args:
        images: uint8 [rows, cols, c, h, w], c = 1 (grey) or 3 (RGB).
        row_labels, col_labels: one per row, which may have line breaks, one per column.
        title: above everything.
        upscale: whole output pixels per source pixel; by default images come out near 64 pixels.
        provenance: stored as text in the PNG.

    Raises:
        UsageError: if the shape, the dtype or the number of labels does not fit.
    """
    layout = grid_layout(images, row_labels, col_labels, title, upscale)
    _, _, c, h, w = images.shape
    canvas = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(canvas)
    font, line = _font(_LABEL_SIZE), _LABEL_SIZE + 4
    cell_w, cell_h = w * layout.upscale, h * layout.upscale
    for index, text in enumerate(layout.title_lines):
        draw.text((_MARGIN, _MARGIN + index * (_TITLE_SIZE + 6)), text, fill=_INK, font=_font(_TITLE_SIZE), anchor="la")
    for left, label in zip(layout.columns, col_labels or [], strict=False):
        lines = _wrapped(label)
        for index, text in enumerate(lines):
            bottom = layout.rows[0] - 6 - (len(lines) - 1 - index) * line
            draw.text((left + cell_w / 2, bottom), text, fill=_QUIET, font=font, anchor="md")
    for top, label in zip(layout.rows, row_labels or [], strict=False):
        first = min(layout.columns) - 10
        beside = [text for other in row_labels or [] for text in other.split("\n")]
        inset = first if not col_labels else min(first, _MARGIN + max(_width(text, font) for text in beside))
        lines = label.split("\n")
        for index, text in enumerate(lines):
            middle = top + cell_h / 2 + (index - (len(lines) - 1) / 2) * line
            draw.text((inset, middle), text, fill=_QUIET, font=font, anchor="rm")
    pixels = images.cpu().permute(0, 1, 3, 4, 2).numpy()
    for row, top in enumerate(layout.rows):
        for column, left in enumerate(layout.columns):
            source = pixels[row, column]
            tile = Image.fromarray(source[..., 0] if c == 1 else source).convert("RGB")
            canvas.paste(tile.resize((cell_w, cell_h), Image.Resampling.NEAREST), (left, top))
    notes = PngInfo()
    for name, text in (provenance or {}).items():
        notes.add_itxt(name, text)
    stream = io.BytesIO()
    canvas.save(stream, format="PNG", pnginfo=notes, optimize=True)
    return stream.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries DejaVu Sans, which also has the Greek letters and signs of expressions
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return int(font.getlength(text) + 0.999)


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, _WRAP, break_long_words=False) or [""]


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
