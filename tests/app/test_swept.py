"""A sweep to click on: places in the picture are where its points are drawn, differences are those of the folder."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fairlead.app.swept import NEAR, Swept
from fairlead.core.errors import UsageError


@pytest.fixture(scope="module")
def swept(demo: Path) -> Swept:
    return Swept.of(str(demo / "sweep"))


def test_a_point_is_where_its_marker_is_drawn(swept: Swept) -> None:
    pixels, places = swept.front
    blue = np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]).sum(2) < 60
    assert {name for name, _, _ in places} == set(swept.points) == {"cfg(0)", "cfg(1)", "cfg(2)", "cfg(4)"}
    for name, x, y in places:
        around = blue[round(y) - 5 : round(y) + 6, round(x) - 5 : round(x) + 6]
        assert around.sum() >= 12, name  # a marker, filled or hollow
        assert swept.nearest(x + 1, y - 1) == name


def test_a_click_away_from_all_points_is_refused(swept: Swept) -> None:
    x, y = max(place[1] for place in swept.front[1]), max(place[2] for place in swept.front[1])
    with pytest.raises(UsageError, match="no setting is near that place"):
        swept.nearest(x + NEAR + 1, y + NEAR + 1)


def test_the_difference_is_the_paired_one_of_the_folder(swept: Swept) -> None:
    html = swept.against("cfg(4)", "cfg(1)")
    changes = swept.folder.compare(swept.point("cfg(4)").setting, swept.point("cfg(1)").setting)
    cells = re.findall(r"<td>([^<]*)</td></tr>", html)
    assert cells == [f"{'+' if c.value > 0 else ''}{c}{'' if c.paired else ' *'}" for c in changes.values()]
    assert "difference: cfg(4) minus cfg(1), same seeds" in html
    assert html.count("<td>") == 3 * len(changes)
    assert "difference" not in swept.against("cfg(4)", "cfg(4)")


def test_findings_and_curves_are_those_of_the_report(swept: Swept, demo: Path) -> None:
    page = (demo / "sweep" / "report.html").read_text()
    assert re.sub(r"<[^>]*>", "", swept.findings()).startswith("Recommended: ")
    first = re.search(r"<p>([^<]*)</p>", swept.findings())
    assert first is not None
    assert first[1] in page
    assert swept.curves().startswith('<div class="wide"><svg')


def test_what_is_no_sweep_or_no_setting_is_refused(swept: Swept, demo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting 'cfg\\(9\\)'"):
        swept.point("cfg(9)")
    with pytest.raises(UsageError):
        Swept.of(str(demo / "model"))
    broken = shutil.copytree(demo / "sweep", tmp_path / "sweep")
    (broken / "sweep.jsonl").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        Swept.of(str(broken))
