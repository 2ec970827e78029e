"""The sweep's bookkeeping: what is expanded, stored, read back, refused; and the rule that recommends a setting."""

from pathlib import Path

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.data.toys import GaussianMixture
from fairlead.measure.estimate import Estimate
from fairlead.measure.evaluate import Floor, Protocol, Score
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.models.toy import ToyDenoiser
from fairlead.report.sweep import findings, recommend
from fairlead.tune.sweep import Point, SweepFolder, SweepSettings, expand

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
    text = (tmp_path / "s" / "sweep.jsonl").read_text()
    (tmp_path / "s" / "sweep.jsonl").write_text(text[:-20])
    with pytest.raises(UsageError, match="is damaged"):
        folder.read()


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
