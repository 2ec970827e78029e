"""Sweeps of data with few images of some classes: every n is measured or refused with an n that is."""

import json
import re
from pathlib import Path

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.images import stratified_order
from fairlead.measure.metrics import rare_classes
from fairlead.measure.references import spread
from fairlead.report.sweep_page import sweep_page
from fairlead.tune.recommend import choice_for
from fairlead.tune.setting import all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Shared, Sweep
from tests.tune.made import model
from tests.tune.uneven import evaluator_of

SIZES = [(120, 40, 8), (120, 40, 1), (100, 60, 0), (140, 30, 30)]
SETTINGS = all_settings(["runs/a"], ["cfg(1)", "cfg(2)"], ["ddim"], [1])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n", [9, 10, 11, 12, 17, 23, 30, 31, 60, 119, 200])
def test_samples_and_real_images_are_scored_at_every_n_over_the_same_classes(sizes: tuple[int, ...], n: int) -> None:
    judge = evaluator_of(sizes)
    order = judge.reference.labels[stratified_order(judge.reference.labels, seed=0)]
    index = spread(judge.reference.labels, n)
    labels = judge.reference.labels[index]
    left_out = [one.label for one in rare_classes(labels, judge.held_out.labels, order)]
    score = judge.score(judge.reference.images[index], labels, None, range(n), left_out=left_out)
    floor = judge.floor(n, left_out)
    assert ("diversity" in score.metrics) == ("diversity" in floor.metrics) == (len(left_out) < 3)
    assert score.protocol.left_out == ", ".join(map(str, left_out))
    if "diversity" in score.metrics:
        assert score.metrics["diversity"].n == sum(label not in left_out for label in labels.tolist())
    assert all(
        torch.isfinite(torch.tensor(value.value)) for value in (*score.metrics.values(), *floor.metrics.values())
    )
    assert score.metrics["distance"].n == n


@pytest.mark.parametrize("n", [1, 8, 9, 10, 15, 30])
def test_what_a_refusal_advises_is_measured(n: int, tmp_path: Path) -> None:
    try:
        sweep = Sweep(SETTINGS, Shared(n=n), model)
    except UsageError as error:
        advised = re.search(r"expected at least (\d+)", str(error))
        assert advised is not None
        assert (n, int(advised[1])) == (n, 9)
        if n > 1:
            return
        sweep = Sweep(SETTINGS, Shared(n=int(advised[1])), model)
    list(sweep.measure(SweepFolder(tmp_path), evaluator_of((120, 40, 8))))
    about, points = SweepFolder(tmp_path).read()
    assert len(points) == 2
    assert any("diversity leaves out two" in note for note in about["notes"])
    assert points[1].differences is not None
    assert points[1].differences["diversity"].paired
    page = (
        sweep_page(tmp_path / "report.html", about, points, choice_for(points), features=6).read_text()
        if n in (1, 30)
        else ""
    )
    assert ("Diversity leaves out two" in page) == (n in (1, 30))


def test_classes_that_are_left_out_change_nothing_of_the_others() -> None:
    judge = evaluator_of((120, 40, 8))
    real = judge.reference
    both = real.labels < 2
    whole = judge.score(real.images, real.labels, None, range(len(real)), left_out=[2])
    part = judge.score(real.images[both], real.labels[both], None, range(int(both.sum())))
    assert whole.metrics["diversity"].value == pytest.approx(part.metrics["diversity"].value, rel=1e-12)
    assert (whole.protocol.left_out, part.protocol.left_out) == ("2", "")
    assert "left_out" not in part.protocol.as_dict()  # as in scores of earlier versions


def test_scores_over_other_classes_are_not_compared() -> None:
    judge = evaluator_of((120, 40, 8))
    real = judge.reference
    scores = [judge.score(real.images, real.labels, None, range(len(real)), left_out=out) for out in ([], [2])]
    with pytest.raises(UsageError, match="left_out: '' and '2'"):
        scores[0].compare(scores[1])


def test_a_sweep_without_any_diversity_has_its_report(tmp_path: Path) -> None:
    judge = evaluator_of((20, 14, 12))  # of these 1 to 2 are held out
    list(Sweep(SETTINGS, Shared(n=9), model).measure(SweepFolder(tmp_path), judge))
    about, points = SweepFolder(tmp_path).read()
    assert all("diversity" not in point.score.metrics for point in points)
    page = sweep_page(tmp_path / "report.html", about, points, choice_for(points), features=6).read_text()
    assert "Few images for features of 6 dimensions: 9 where 24 are wanted" in page
    assert "The trade-off" in page


def test_sweeps_of_earlier_versions_are_read(tmp_path: Path) -> None:
    list(Sweep(SETTINGS, Shared(n=20), model).measure(SweepFolder(tmp_path), evaluator_of((140, 60, 60))))
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about.pop("notes") == []
    del about["seal"]  # which they did not have
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    lines = (tmp_path / "sweep.jsonl").read_text()
    assert "left_out" not in lines
    read, points = SweepFolder(tmp_path).read()
    assert read["notes"] == []
    stored = [json.loads(line)["score"]["metrics"] for line in lines.splitlines()]
    for point, metrics in zip(points, stored, strict=True):
        for name in ("distance", "distance_debiased"):
            assert point.score.metrics[name].value == metrics[name]["value"]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
def test_every_n_from_1_to_200_is_measured_or_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    for n in range(1, 201):
        if n < 9:
            with pytest.raises(UsageError, match="expected at least 9"):
                Sweep(SETTINGS, Shared(n=n), model)
        else:
            folder = SweepFolder(tmp_path / str(n))
            list(Sweep(SETTINGS, Shared(n=n), model).measure(folder, evaluator_of(sizes)))
            assert len(folder.read()[1]) == 2
