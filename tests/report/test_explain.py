"""The table, the drawings and the page show the numbers of the trace, and nothing is fetched or overwritten."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.report.explanations import FILES, Explanation, explain
from fairlead.report.image_grid import grid_layout
from fairlead.report.text_table import in_columns
from fairlead.sample.run import sample
from tests.guide.toy import MODEL, NETWORK

GUIDANCE = "cfg(3).during(t=(0.2, 0.9)) + cfg(2, negative=1) | clip()"


@pytest.fixture(scope="module")
def explained() -> Explanation:
    return explain(NETWORK, 2, guidance=GUIDANCE, seeds=(4, 7), steps=8)


def numbers(data: Any) -> list[float]:
    return [float(value) for value in data]


def test_the_table_is_narrow_and_holds_the_means(explained: Explanation) -> None:
    lines = explained.table().splitlines()
    assert max(map(len, lines)) <= 120
    heads = [line.split("  ") for line in lines if line.startswith("  step")]
    names = [name.strip() for head in heads for name in head if name.strip() not in ("", "step")]
    assert names == [
        "t", "sigma", "log-SNR", "rows", "|D_c|", "A scale", "A size", "A angle", "B scale", "B size", "B angle", "A^B",
        "total", "eff. w", "finished", "out D_c", "out", "out fin.",
    ]  # fmt: skip
    third = [line.split() for line in lines if line.split()[:1] == ["3"]]
    cells = dict(zip(names, [cell for line in third for cell in line[1:]], strict=True))
    assert cells["rows"] == "6"
    assert float(cells["A size"]) == pytest.approx(float(explained.term["size"][0, 2].mean()), abs=1e-4)
    assert float(cells["eff. w"]) == pytest.approx(float(explained.step["effective"][2].mean()), abs=1e-3)
    assert "A = cfg(3).during(t=(0.2, 0.9))" in lines


def test_columns_that_do_not_fit_go_below_with_the_first_again() -> None:
    assert in_columns([("n", ["1", "2"]), ("abc", ["x", "y"]), ("defg", ["z", "w"])], width=10) == [
        "  n  abc", "  1    x", "  2    y", "", "  n  defg", "  1     z", "  2     w",
    ]  # fmt: skip


def test_the_findings_say_what_it_costs_and_where_it_acts(explained: Explanation) -> None:
    text = explained.findings()
    assert "takes 22 network rows per sample in 8 steps" in text  # 2 branches, 3 in the 6 steps inside
    strongest = int(explained.step["strength"].mean(1).argmax())
    assert f"most in step {strongest + 1} " in text


def test_the_lines_of_the_drawing_are_the_means_of_the_trace(explained: Explanation) -> None:
    sizes, angles, scales, outside = explained.figure().axes
    lines = {str(line.get_label()): numbers(line.get_ydata()) for axes in (sizes, scales) for line in axes.get_lines()}
    assert lines["all terms"] == pytest.approx(explained.mean("total"))
    assert lines['cfg(2, negative="one")'] == pytest.approx(explained.mean("size", 1))
    assert lines["effective, after the finishers"] == pytest.approx(explained.mean("effective_finished"), nan_ok=True)
    x = numbers(sizes.get_lines()[0].get_xdata())
    assert explained.log_snr[0] == -math.inf  # rectified flow: drawn one step before the next
    assert x[1:] == list(explained.log_snr[1:])
    assert x[0] == pytest.approx(x[1] - (x[-1] - x[1]) / 6)
    assert "-inf" in explained.figure().get_supxlabel()
    assert angles.get_ylabel() == "angle in degrees"
    assert outside.get_title(loc="left") == "x0 outside the data range"


def test_the_last_picture_of_the_film_is_the_sample(explained: Explanation) -> None:
    png = explained.film_png()
    assert png is not None
    with Image.open(io.BytesIO(png)) as picture:
        shown = torch.tensor(list(picture.convert("L").getdata())).reshape(picture.height, picture.width)
    assert explained.film is not None
    names = [f"seed {seed}, {what}" for seed in (4, 7) for what in ("conditional", "guided")]
    heads = [f"step {i + 1} sigma\u00a0{explained.sigma[i]:.3g}" for i in explained.film_steps]
    layout = grid_layout(explained.film.reshape(4, 8, 1, 8, 8), names, heads, GUIDANCE)
    run = sample(NETWORK, 2, guidance=GUIDANCE, seeds=(4, 7), steps=8)
    assert run.images is not None
    for sample_row, row in enumerate((1, 3)):
        top, left = layout.rows[row], layout.columns[-1]
        tile = shown[top : top + 8 * layout.upscale : layout.upscale, left : left + 8 * layout.upscale : layout.upscale]
        assert torch.equal(tile, run.images[sample_row, 0].long())


def test_what_is_saved_stands_alone_and_replaces_nothing(explained: Explanation, tmp_path: Path) -> None:
    paths = explained.save(tmp_path / "why", "fairlead explain ...")
    assert sorted(path.name for path in paths) == sorted(FILES)
    page = (tmp_path / "why" / "explain.html").read_text()
    assert not re.search(r"<script|<link|url\((?!#)|@import", page)
    assert all(
        source.startswith(("data:image/png;base64,", "#")) for source in re.findall(r'(?:src|href)="([^"]*)"', page)
    )
    assert "fairlead explain ..." in page
    assert json.loads((tmp_path / "why" / "explain.json").read_text()) == explained.to_json()
    with pytest.raises(UsageError, match=r"already holds explain.json"):
        explained.save(tmp_path / "why")
    with pytest.raises(UsageError, match="is a file"):
        explained.save(tmp_path / "why" / "explain.json")


def test_a_toy_has_no_film_and_no_data_range(tmp_path: Path) -> None:
    explanation = fl.explain(MODEL, 1, guidance=fl.cfg(3), steps=4)
    assert explanation.seeds == (0, 1, 2, 3)
    assert explanation.film_png() is None
    assert sorted(path.name for path in explanation.save(tmp_path)) == ["explain.html", "explain.json", "explain.png"]
    assert "out" not in explanation.table().split()
    assert explanation.findings().endswith("It acts like cfg(w) with w from 3 to 3.")
