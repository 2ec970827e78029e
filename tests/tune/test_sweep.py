"""The sweep's bookkeeping: what is expanded, stored, read back, refused; and the rule that recommends a setting."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.data.toys import GaussianMixture
from fairlead.measure.estimate import Estimate
from fairlead.measure.score import Difference, Floor, Protocol, Score
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.models.toy import ToyDenoiser
from fairlead.report.page import Table
from fairlead.report.sweep import _differences, findings, recommend
from fairlead.tune.sweep import Point, SweepFolder, SweepSettings, expand, pictured, shared_out

PROTOCOL = Protocol("f", "j", "r", 100, 60, 30, "l", "0..59")


def point(guidance: str, distance: float, accuracy: float, rows: float = 40) -> Point:
    values = {"distance": distance + 1, "distance_debiased": distance, "accuracy": accuracy}
    score = Score({name: Estimate(value, 0.01, 60) for name, value in values.items()}, PROTOCOL)
    return Point(guidance, score, rows, 2.5, torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8))


def floor(distance: float = 2.0) -> Floor:
    metrics = {"distance": Estimate(distance, 0.1, 30), "accuracy": Estimate(0.997, 0.001, 30)}
    return Floor(metrics, 30, 1, PROTOCOL, "30 held-out images")


def toy() -> Model:
    mixture = GaussianMixture.ring()
    return Model(ToyDenoiser(mixture, VPCosine()), VPCosine(), (2,), LabelEncoder(("a", "b")), identity, ("a", "b"))


def test_templates_are_filled_in_order_and_normalised() -> None:
    filled = expand(["cfg({scale})", "cfg({scale}) | clip()"], [0, 1.5])
    assert filled == ["cfg(0)", "cfg(1.5)", "cfg(0) | clip()", "cfg(1.5) | clip()"]
    assert expand(["cfg( 2.0 )"], []) == ["cfg(2)"]


@pytest.mark.parametrize(
    ("templates", "scales", "message"),
    [
        (["cfg(3)"], [1.0], "are not used: write {scale}"),
        (["cfg({scale})"], [2.0, 2.0], "cfg(2) would be measured twice"),
        (["cfg({scale})", "cfg(2.0)"], [2.0], "cfg(2) would be measured twice"),
        (["cgf({scale})"], [2.0], "did you mean 'cfg'"),
        (["cfg({scale})", "cfg(2)"], [], "nothing to measure"),
        ([], [], "nothing to measure"),
    ],
)
def test_expand_refuses(templates: list[str], scales: list[float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(templates, scales)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("guidance", "scale"),
    [
        ("none", 1.0),
        ("cfg(3)", 3.0),
        ("cfg(3) | clip()", 3.0),
        ('cfg(3, negative="a")', None),
        ("cfg(3).during(t=(0, 0.5))", None),
        ("cfg(2) + cfg(2)", None),
        ("cfg([1, 2])", None),
    ],
)
def test_only_plain_cfg_lies_on_the_axis_of_scales(guidance: str, scale: float | None) -> None:
    assert point(guidance, 1, 1).scale == scale


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.start(toy(), floor(), SweepSettings(n=60), "fairlead sweep x")
    points = [point("cfg(1)", 3, 0.9, 20), point("cfg(2)", 1, 0.99)]
    for each in points:
        folder.add(each)
    about, read = folder.read()
    assert [p.guidance for p in read] == ["cfg(1)", "cfg(2)"]
    assert [p.rows_per_image for p in read] == [20, 40]
    assert read[1].score.metrics == points[1].score.metrics
    assert read[1].score.protocol == PROTOCOL
    assert torch.equal(read[1].examples, points[1].examples)
    assert about["settings"]["n"] == 60
    assert Floor.from_dict(about["floor"]) == floor()
    with pytest.raises(UsageError, match="already holds a sweep"):
        SweepFolder(tmp_path / "s").start(toy(), floor(), SweepSettings(), "")


def test_folders_that_hold_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no sweep"):
        SweepFolder(tmp_path).read()
    folder = SweepFolder(tmp_path / "s")
    folder.start(toy(), floor(), SweepSettings(), "")
    with pytest.raises(UsageError, match="holds no measured guidance yet"):
        folder.read()
    folder.add(point("cfg(1)", 3, 0.9))
    (tmp_path / "s" / "sweep.jsonl").write_text('{"guidance": "cfg(1)"}\n')
    with pytest.raises(UsageError, match="is damaged"):
        folder.read()


@pytest.mark.parametrize("name", ["floor", "settings", "classes", "command", "model"])
def test_a_partial_or_foreign_description_is_damaged(name: str, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.start(toy(), floor(), SweepSettings(), "")
    folder.add(point("cfg(1)", 3, 0.9))
    whole = json.loads((tmp_path / "sweep.json").read_text())
    without = {key: value for key, value in whole.items() if key != name}
    for text in (json.dumps(without), json.dumps({**whole, name: 3}), "{}", "[]"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UsageError, match="is damaged"):
            folder.read()


def test_a_full_disk_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SweepFolder(tmp_path)
    folder.start(toy(), floor(), SweepSettings(), "")
    folder.add(point("cfg(1)", 3, 0.9))
    write = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        write(self, text[:-20], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device; what was measured before is kept"):
        folder.add(point("cfg(2)", 1, 0.99))
    monkeypatch.undo()
    assert [each.guidance for each in folder.read()[1]] == ["cfg(1)"]
    folder.add(point("cfg(3)", 1, 0.99))
    assert [each.guidance for each in folder.read()[1]] == ["cfg(1)", "cfg(3)"]


def test_points_come_back_in_the_order_of_the_guidances_with_their_differences(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.start(toy(), floor(), SweepSettings(), "")
    change = {"distance": Difference(-2.0, 0.5, 60, True), "diversity": Difference(0.5, 0.1, 60, False)}
    folder.add(replace(point("cfg(1)", 3, 0.9), place=1))
    folder.add(replace(point("cfg(0)", 9, 0.1), place=0, differences=change))
    _, read = folder.read()
    assert [each.guidance for each in read] == ["cfg(0)", "cfg(1)"]
    assert [each.differences for each in read] == [change, None]


def test_sweeps_stored_without_differences_are_still_read(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.start(toy(), floor(), SweepSettings(), "")
    for each in (point("cfg(0)", 9, 0.1), point("cfg(1)", 3, 0.9)):
        folder.add(each)
    lines = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    for line in lines:
        del line["place"], line["differences"]
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, read = folder.read()
    assert [each.guidance for each in read] == ["cfg(0)", "cfg(1)"]
    assert _differences(read) == []


def test_the_rule_takes_the_smallest_distance_among_the_accurate() -> None:
    points = [point("cfg(1)", 1, 0.95), point("cfg(1.5)", 2, 0.992), point("cfg(2)", 3, 1.0)]
    assert recommend(points).guidance == "cfg(1.5)"
    assert recommend(points[:1]).guidance == "cfg(1)"
    assert recommend([point("a", 1, 0.5), point("b", 9, 0.7)]).guidance == "b"


def test_findings_say_the_ratio_to_real_images_and_the_rule() -> None:
    best, text = findings([point("cfg(1)", 4, 0.95, 20), point("cfg(2)", 2, 0.995)], floor(2.0))
    assert best.guidance == "cfg(2)"
    assert "99.5 ± 1.0 %" in text
    assert "1.50 times that of held-out real images" in text
    assert "at 20 instead of 40 network rows an image" in text
    assert "at least 99%" in text
    _, text = findings([point("cfg(1)", 4, 0.95)], floor())
    assert "No setting reaches" in text


def test_findings_and_report_say_the_difference_and_whether_it_is_paired() -> None:
    change = {"distance": Difference(-2.0, 0.5, 60, True), "accuracy": Difference(0.045, 0.01, 60, False)}
    points = [point("cfg(1)", 4, 0.95, 20), replace(point("cfg(2)", 2, 0.995), differences=change)]
    _, text = findings(points, floor())
    assert "The distance is 2.00 ± 0.50 less than without guidance (paired, same seeds)." in text
    [table] = _differences(points)
    assert isinstance(table, Table)
    assert list(table.rows) == [["cfg(2)", "-2.00 ± 0.50", "+0.045 ± 0.010 *"]]
    assert "difference to cfg(1), same seeds" in table.caption
    assert "* not paired" in table.caption

    more = {"distance": Difference(2.0, 0.5, 60, False)}
    _, text = findings([points[0], replace(points[1], differences=more)], floor())
    assert "2.00 ± 0.50 more than without guidance (not paired: the errors of both added in squares" in text


def test_classes_are_shared_out_as_among_real_images_in_every_prefix() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    names = shared_out(("a", "b", "c"), labels, 250)
    for n in (10, 50, 100, 250):
        counts = torch.tensor([names[:n].count(name) for name in "abc"])
        assert ((counts - n * torch.tensor([0.6, 0.3, 0.1])).abs() <= 1).all()


def test_pictures_are_one_of_each_class_in_order_then_another() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1])
    assert labels[pictured(labels, 7)].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert pictured(labels, 4).tolist() == [1, 3, 0, 2]
