"""The report: ONE self-contained HTML file, with pictures and styles inside, no scripts and nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.measure.metrics import Estimate, title_of
from fairlead.measure.score import METRICS, Difference, Score
from fairlead.tune.setting import Point


@dataclass(frozen=True)
class Text:
    """Plain text; a blank line starts a new paragraph."""

    text: str

    def html(self) -> str:
        return "".join(f"<p>{escape(part.strip())}</p>" for part in self.text.split("\n\n") if part.strip())


@dataclass(frozen=True)
class Code:
    """Something to paste: a command, an expression."""

    text: str

    def html(self) -> str:
        return f"<pre><code>{escape(self.text)}</code></pre>"


@dataclass(frozen=True)
class Table:
    """Cells are plain text; the first column names the row, ``highlight`` marks one row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    highlight: int | None = None

    def __post_init__(self) -> None:
        uneven = [index for index, row in enumerate(self.rows) if len(row) != len(self.header)]
        if uneven:
            raise UsageError(
                f"table: row {uneven[0]} has {len(self.rows[uneven[0]])} cells, expected one for each of "
                f"{len(self.header)} headings"
            )

    def html(self) -> str:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        lines = []
        for index, row in enumerate(self.rows):
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            mark = ' class="chosen"' if index == self.highlight else ""
            lines.append(f'<tr{mark}><th scope="row">{escape(row[0])}</th>{cells}</tr>')
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        body = "\n".join(lines)
        return (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
        )


@dataclass(frozen=True)
class Png:
    """A picture; ``alt`` says in words what it shows."""

    png: bytes
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise UsageError(f"picture {self.alt!r}: expected the bytes of a PNG, got {self.png[:8]!r}")

    def html(self) -> str:
        data = base64.b64encode(self.png).decode()
        # the true width keeps small pictures from being blurred by stretching
        width = int.from_bytes(self.png[16:20], "big")
        image = f'<img width="{width}" alt="{escape(self.alt)}" src="data:image/png;base64,{data}">'
        return _figure(image, self.caption)


@dataclass(frozen=True)
class Svg:
    """A drawing from ``plots.to_svg``; ``alt`` says in words what it shows."""

    svg: str
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.svg.startswith("<svg") or re.search(r"<script|<foreignObject|\son\w+\s*=", self.svg, re.IGNORECASE):
            raise UsageError(f"drawing {self.alt!r}: expected an <svg> element without scripts; use plots.to_svg")

    def html(self) -> str:
        return _figure(f'<div role="img" aria-label="{escape(self.alt)}">{self.svg}</div>', self.caption)


Block = Text | Code | Table | Png | Svg


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; ``folded`` sections open on a click."""

    title: str
    body: Sequence[Block]
    folded: bool = False

    def html(self) -> str:
        inside = "\n".join(block.html() for block in self.body)
        if self.folded:
            return f"<details><summary>{escape(self.title)}</summary>\n{inside}\n</details>"
        return f"<section><h2>{escape(self.title)}</h2>\n{inside}\n</section>"


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    provenance: Mapping[str, str],
    *,
    findings: str = "",
    commands: Sequence[str] = (),
) -> Path:
    """Write the report; either the whole file is there afterwards or the one before it.

    Args:
        path: of the file; its folder is made if need be.
        title: of the page.
        sections: in reading order: pictures, then tables.
        provenance: what was measured how (protocol, versions, seeds), folded at the end.
        findings: what the reader should know if they read nothing else; on top.
        commands: the exact commands that made the report, folded at the end.
    """
    how: list[Block] = [Table(("what", "value"), [(name, value) for name, value in provenance.items()])]
    if commands:
        how.append(Code("\n".join(commands)))
    parts = [section.html() for section in (*sections, Section("Protocol and exact commands", how, folded=True))]
    lead = f'<div class="findings">{Text(findings).html()}</div>' if findings else ""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )
    path = Path(path)
    with replacing(path, durable=False) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def score_table(
    rows: Sequence[tuple[str, Score]],
    floor: Mapping[str, Estimate] | None = None,
    *,
    highlight: str | None = None,
    caption: str = "",
) -> Table:
    """One line per setting, values ± one standard error, N; held-out real images last, if ``floor`` is given.

    Args:
        rows: (label, score).
        highlight: the label of the line to mark.
    """
    present = [name for name in METRICS if any(name in score.metrics for _, score in rows)]
    lines = [
        [label, *(_cell(score.metrics, name) for name in present), f"{score.protocol.n:,}"] for label, score in rows
    ]
    if floor is not None:
        count = floor["distance"].n if "distance" in floor else next(iter(floor.values())).n
        lines.append(["held-out real images", *(_cell(floor, name) for name in present), f"{count:,}"])
    labels = [label for label, _ in rows]
    chosen = labels.index(highlight) if highlight in labels else None
    return Table(["setting", *map(title_of, present), "N"], lines, caption, chosen)


def _cell(metrics: Mapping[str, Estimate], name: str) -> str:
    return str(metrics[name]) if name in metrics else "n/a"


def difference_tables(
    points: Sequence[Point], names: Sequence[str], titles: Mapping[str, str], unit: str = ""
) -> list[Table]:
    """A table for each baseline: a row for each of ``points`` that is compared with it, a column for each metric of
    ``titles`` that is known of one of them."""
    called = dict(zip((point.setting for point in points), names, strict=True))
    tables = []
    for baseline in dict.fromkeys(point.baseline for point in points if point.baseline is not None):
        compared = [
            (called[point.setting], point.differences)
            for point in points
            if point.baseline == baseline and point.differences is not None
        ]
        present = [metric for metric in titles if any(metric in differences for _, differences in compared)]
        rows = [[row, *(_change(differences.get(metric)) for metric in present)] for row, differences in compared]
        caption = f"difference to {called[baseline]}, same seeds; ± one standard error, paired sample by sample"
        caption += f"; {unit}" if unit else ""
        if any(not differences[m].paired for _, differences in compared for m in present if m in differences):
            caption += "; * not paired: the variances of both settings add, so the error is rather too large"
        tables.append(Table(["setting", *(titles[metric] for metric in present)], rows, caption))
    return tables


def _change(difference: Difference | None) -> str:
    """``+0.045 ± 0.010 *``: signed, the star where the error is not paired."""
    if difference is None:
        return "n/a"
    return f"{'+' if difference.value > 0 else ''}{difference}{'' if difference.paired else ' *'}"


def _figure(content: str, caption: str) -> str:
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide">{content}</div>{note}</figure>'


_CSS = """
:root { color-scheme: light; --ink: #181c22; --quiet: #5b626d; --line: #e3e6eb; --accent: #0072b2; --tint: #eef5fa; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 20px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 16px; border-top: 1px solid var(--line); }
p { max-width: 72ch; margin: 0 0 12px; }
.findings { background: var(--tint); border-left: 4px solid var(--accent); padding: 16px 20px 6px; font-size: 17px; }
figure { margin: 16px 0 24px; }
figcaption, caption { color: var(--quiet); font-size: 14px; text-align: left; max-width: 80ch; padding-bottom: 6px; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; image-rendering: pixelated; }
svg { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 14px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td, thead th { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 8px; font-weight: 500; }
thead th { color: var(--quiet); font-weight: 500; border-bottom: 2px solid var(--line); }
tbody th { min-width: 9.5em; }
tr.chosen { background: var(--tint); }
tr.chosen th { font-weight: 700; color: var(--accent); }
details { margin: 36px 0 0; padding-top: 14px; border-top: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; margin-bottom: 10px; }
details td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
details th { white-space: nowrap; vertical-align: top; }
pre { background: #f6f7f9; border: 1px solid var(--line); padding: 12px 14px; overflow-x: auto; font-size: 13.5px; }
@media print { details { display: block; } main { padding: 0; } }
"""
