"""The page: one file, nothing fetched, everything escaped, every picture inside."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.measure.score import Protocol, Score
from fairlead.report.image_grid import image_grid
from fairlead.report.page import Code, Png, Section, Svg, Table, Text, score_table, write_page
from fairlead.report.plots import TradeoffRow, to_svg, tradeoff_plot

NASTY = "<script>alert('x')</script> & \"cfg(4)\""


def _score(value: float, **more: Estimate) -> Score:
    metrics = {"distance": Estimate(value, 0.25, 1200), "accuracy": Estimate(0.98, 0.004, 1200), **more}
    protocol = Protocol(
        features="f@1",
        judge="j@2",
        reference="digits/train#3",
        reference_n=1438,
        n=1200,
        block=1200,
        labels="10 labels x 120 #4",
        seeds="0..1199",
    )
    return Score(metrics, protocol)


@pytest.fixture
def picture():
    return image_grid(torch.randint(0, 256, (2, 2, 3, 4, 4), dtype=torch.uint8))


def _drawing() -> str:
    metrics = {name: Estimate(1.0, 0.1, 9) for name in ("distance_debiased", "accuracy", "confidence", "diversity")}
    return to_svg(tradeoff_plot([TradeoffRow(1.0, metrics), TradeoffRow(2.0, metrics)]))


@pytest.fixture
def page(tmp_path, picture):
    sections = [
        Section(f"Pictures {NASTY}", [Text(f"One.\n\nTwo {NASTY}"), Png(picture, NASTY, NASTY)]),
        Section("Drawing", [Svg(_drawing(), NASTY, NASTY), Code(NASTY)]),
        Section("Table", [Table(["a", NASTY], [["x", NASTY]], NASTY)], folded=True),
    ]
    path = tmp_path / "new" / "report.html"
    write_page(path, NASTY, sections, {NASTY: NASTY}, findings=NASTY, commands=["fairlead demo", NASTY])
    return path


class _Reader(HTMLParser):
    """Collects tags, attributes and whether every element is closed in order."""

    VOID = frozenset({"meta", "img", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_file_that_fetches_nothing_and_runs_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.tags)
    for tag, name, value in reader.attributes:
        if name.split(":")[-1] in ("src", "href", "srcset", "action", "poster"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
        assert not name.startswith("on")
    assert not re.search(r"url\((?!#)|@import", text)


def test_pictures_come_back_from_the_page_unchanged(page, picture):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    assert [base64.b64decode(data, validate=True) for data in found] == [picture]
    Image.open(io.BytesIO(base64.b64decode(found[0]))).verify()


def test_what_was_given_is_shown_as_text_never_as_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    escaped = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;cfg(4)&quot;"
    # title 2, findings, heading, text, alt and caption of two figures, code, head, cell, caption, provenance 2, command
    assert text.count(escaped) == 16


def test_findings_come_first_and_the_protocol_is_folded_last(page):
    text = page.read_text(encoding="utf-8")
    order = [text.index(part) for part in ('class="findings"', "<img", "<svg", "<table", "Protocol and exact commands")]
    assert order == sorted(order)
    assert "fairlead demo" in text[text.rindex("<details>") :]


def test_a_failed_write_leaves_the_page_before_it(page, monkeypatch):
    before = page.read_bytes()

    def _fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(page, "other", [], {})
    assert page.read_bytes() == before
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_score_table_prints_values_errors_and_n():
    rows = [("cfg(1)", _score(5.0)), ("cfg(2)", _score(3.0, diversity=Estimate(9.0, 0.5, 1200)))]
    floor = {"distance": Estimate(1.0, 0.1, 300), "accuracy": Estimate(0.997, 0.003, 359)}
    table = score_table(rows, floor, highlight="cfg(2)")
    assert table.header == ["setting", "raw distance", "accuracy", "diversity", "N"]
    assert [list(row) for row in table.rows] == [
        ["cfg(1)", "5.00 ± 0.25", "0.9800 ± 0.0040", "n/a", "1,200"],
        ["cfg(2)", "3.00 ± 0.25", "0.9800 ± 0.0040", "9.00 ± 0.50", "1,200"],
        ["held-out real images", "1.00 ± 0.10", "0.9970 ± 0.0030", "n/a", "300"],
    ]
    assert table.highlight == 1


def test_wrong_blocks_are_refused():
    with pytest.raises(UsageError, match="bytes of a PNG"):
        Png(b"GIF89a", "x")
    with pytest.raises(UsageError, match="without scripts"):
        Svg("<svg><script>1</script></svg>", "x")
    with pytest.raises(UsageError, match="row 1 has 1 cells"):
        Table(["a", "b"], [["1", "2"], ["3"]])
