"""Tuning on made measures: what is counted, confirmed, recommended, refused, stored and read again."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.tune.answers import read_answers, save_answer
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import Batch, Goal
from fairlead.tune.measurer import Measurer
from fairlead.tune.recommend import Row, Tuned
from fairlead.tune.search import find_guidance, parse_constraints
from fairlead.tune.sweep_run import Shared
from fairlead.tune.template import Knob, Template
from tests.tune.exact import REFERENCE, Linear
from tests.tune.made import evaluator, files, model

SCALE = Template.of("cfg({scale})", ["scale=1:4"])
LOSS = Goal("loss")


class Counted:
    """A ``Measure`` whose loss is a bowl about ``bottom`` in the logarithms of the knobs; features have one spread."""

    def __init__(self, *bottom: float) -> None:
        self.bottom, self.images = bottom, 0
        self.noise = torch.randn(1 << 14, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def __call__(self, setting, seeds):
        self.images += len(seeds)
        noise = self.noise[seeds.start : seeds.stop]
        loss = sum(math.log(x / b) ** 2 for x, b in zip(setting, self.bottom, strict=True))
        tilt = math.log(setting[0] / self.bottom[0])
        hits = (torch.arange(seeds.start, seeds.stop) % 10 > 0).double()  # 9 of 10
        values = {
            "loss": loss + noise * (1 + 0.3 * tilt),
            "accuracy": hits,
            "width": torch.full_like(noise, setting[0]),
        }
        return Batch((2 + noise)[:, None].repeat(1, 2), values, len(seeds) * setting[0])


def test_the_best_place_itself_is_measured_and_may_be_recommended():
    measure = Linear(0.3, 4)
    tuned = find_guidance(measure, REFERENCE, SCALE, budget=2000)
    assert tuned.best is not None
    value, low, high = tuned.best
    assert low < value < high
    assert low <= measure.best() <= high
    confirmed = [row for row in tuned.rows if row.setting == (float(f"{value:.3g}"),)]
    assert len(confirmed) == 1
    assert confirmed[0].n >= 250  # an eighth of the budget was kept for it
    assert tuned.images == measure.images == sum(row.n for row in tuned.rows) <= 2000
    assert [row.setting for row in tuned.rows] == sorted(row.setting for row in tuned.rows)
    assert tuned.guidance in [row.guidance for row in tuned.rows]
    assert tuned.why == "lowest distance_debiased"  # all settings cost 16 rows


def test_a_confirmed_place_that_is_the_best_is_the_recommended_one():
    measure = Counted(1.7)
    # rows per image are the scale, and noise is common: no setting below 1.7 equals the one at 1.7
    tuned = find_guidance(measure, REFERENCE, SCALE, budget=4000, objective=LOSS)
    assert tuned.best is not None
    value = float(f"{tuned.best[0]:.3g}")
    assert value in [row.setting[0] for row in tuned.rows]
    assert abs(math.log(value / 1.7)) < 0.05
    assert measure.images == tuned.images <= 4000


@pytest.mark.parametrize("budget", [480, 999, 1501, 3333])
def test_no_budget_is_exceeded(budget):
    measure = Linear(0.3, budget)
    assert find_guidance(measure, REFERENCE, SCALE, budget=budget).images == measure.images <= budget


def test_a_constraint_bounds_what_is_recommended():
    rules = parse_constraints(["rows_per_step <= 0.1", "accuracy >= 0.85"], 20, ["accuracy"])
    assert rules == [Constraint("rows", 2.0, False), Constraint("accuracy", 0.85, True)]
    tuned = find_guidance(Counted(3.0), REFERENCE, SCALE, budget=3000, objective=LOSS, constraints=rules)
    chosen = next(row for row in tuned.rows if row.guidance == tuned.guidance)
    assert 1.9 < chosen.rows <= 2  # the loss falls until 3, rows per image are the scale
    assert tuned.best is not None
    assert tuned.best[1] <= 2 <= tuned.best[2]
    assert tuned.best[2] / tuned.best[1] < 1.01  # rows have no error
    assert "the best lies beyond what rows <= 2 and accuracy >= 0.85 allows" in tuned.notes[0]


def test_at_the_edge_of_a_constraint_nothing_of_the_budget_is_kept_back():
    measure = Linear(0.3, 3)
    tuned = find_guidance(measure, REFERENCE, SCALE, budget=4000, constraints=[Constraint("accuracy", 0.98, True)])
    assert "the best lies beyond what accuracy >= 0.98 allows" in tuned.notes[0]
    assert 3900 < tuned.images == measure.images <= 4000


def test_where_nothing_is_feasible_the_nearest_is_named_in_one_line():
    rules = [Constraint("accuracy", 0.95, True)]
    with pytest.raises(UsageError) as refused:
        find_guidance(Counted(2.0), REFERENCE, SCALE, budget=1000, objective=LOSS, constraints=rules)  # accuracy is 0.9
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("tune: no setting of 'cfg({scale})' satisfies accuracy >= 0.95; nearest is cfg(")
    assert " with accuracy " in line
    assert line.endswith("widen a range or relax a constraint")


def test_constraints_on_unknown_metrics_are_refused():
    with pytest.raises(UsageError, match=r"unknown metric 'acuracy' \(known: accuracy, rows, rows_per_step\)"):
        parse_constraints(["acuracy >= 0.9"], 20, ["accuracy"])


def test_several_knobs_are_searched_within_the_budget():
    template = Template.of("cfg({scale}).during(sigma=(0.1, {high}))", ["scale=1:8", "high=1:9"])
    measure = Counted(2.0, 3.0)
    tuned = find_guidance(
        measure, REFERENCE, template, budget=3000, objective=LOSS, constraints=[Constraint("width", 4, False)]
    )
    assert tuned.best is None
    assert tuned.notes == ()
    assert measure.images == tuned.images <= 3000
    chosen = next(row for row in tuned.rows if row.guidance == tuned.guidance)
    assert chosen.setting[0] <= 4
    assert measure.bottom == pytest.approx(chosen.setting, rel=0.5)
    with pytest.raises(UsageError, match="does not pay for 4 candidates of 50 images"):
        find_guidance(measure, REFERENCE, template, budget=200, objective=LOSS)


def row(scale: float, on_front: bool = True) -> Row:
    return Row((scale,), f"cfg({scale:g})", 100, {"accuracy": Estimate(0.9, 0.01, 100)}, 40.0, on_front)


def test_what_is_reported_is_the_recommended_no_guidance_and_the_front_spread_out():
    rows = [row(1), *(row(1 + k / 10) for k in range(1, 12)), row(5, on_front=False)]
    few = Tuned("cfg(1)", "best", None, (rows[0], rows[1], rows[-1]), 0, ())
    assert few.reported() == ["none", "cfg(1)", "cfg(1.1)"]
    many = Tuned("cfg(1.5)", "best", None, tuple(rows), 0, ())
    assert many.reported() == ["none", "cfg(1.5)", "cfg(1)", "cfg(1.3)", "cfg(1.8)", "cfg(2.1)"]
    assert many.reported(most=4) == ["none", "cfg(1.5)", "cfg(1)", "cfg(2.1)"]


def test_an_answer_is_read_as_it_was_written(tmp_path: Path):
    tuned = Tuned("cfg(1.5)", "lowest loss", (1.5, 1.25, 2.0), (row(1.5),), 100, ("a note",))
    run = tmp_path / "runs" / "a"
    save_answer(run / "tuned.json", tuned, {"sampler": "ddim", "steps": 20})
    found = read_answers(run / "tuned.json")[0]
    assert found["best"] == {"value": 1.5, "low": 1.25, "high": 2.0}
    assert found["settings"][0]["metrics"] == {"accuracy": [0.9, 0.01]}
    assert (found["guidance"], found["why"], found["notes"], found["images"]) == (
        "cfg(1.5)",
        "lowest loss",
        ["a note"],
        100,
    )
    assert (found["sampler"], found["steps"]) == ("ddim", 20)
    assert files(tmp_path) == ["runs/a/tuned.json"]
    for damaged in ("", "{}", "[]", '{"guidance": 3}'):
        (run / "tuned.json").write_text(damaged)
        with pytest.raises(UsageError, match="is damaged"):
            read_answers(run / "tuned.json")
    with pytest.raises(UsageError, match="cannot write"):
        save_answer(run / "tuned.json" / "x", tuned, {})


@pytest.mark.parametrize(
    ("text", "ranges", "message"),
    [
        ("cfg(3)", [], "nothing is open in 'cfg(3)'; write a name in braces"),
        ("cfg({scale})", ["high=1:2"], "'cfg({scale})' has no {high}; it has scale"),
        ("cfg({omega})", [], "{omega} has no range; give one, such as --range omega=0.1:1"),
        ("cfg({scale})", ["scale=4:1"], "range 'scale=4:1': expected LOW below HIGH"),
        ("cfg({scale})", ["scale=2:2"], "expected LOW below HIGH"),
        ("cfg({scale})", ["scale=2"], "expected NAME=LOW:HIGH"),
        ("cfgg({scale})", [], "did you mean 'cfg'"),
        ("cfg({scale}", [], "cfg(1"),
    ],
)
def test_what_is_no_template_is_refused(text, ranges, message):
    with pytest.raises(UsageError) as refused:
        Template.of(text, ranges)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_template_is_filled_at_four_digits_and_keeps_the_order_of_its_text():
    template = Template.of("cfg({scale}).during(sigma=({low}, 3))", ["low=0:1"])
    assert list(template.knobs) == ["scale", "low"]
    assert template.knobs["scale"] == Knob(1.0, 8.0, highest=32.0)
    assert template.knobs["low"] == Knob(0.0, 1.0, log=False)
    assert template.filled((math.pi, 0.5)) == "cfg(3.142).during(sigma=(0.5, 3))"


def measurer(folder: Path) -> Measurer:
    return Measurer(model(), evaluator(), SCALE, Shared(400, 0, batch_size=32), "ddim", 2, folder)


def test_a_second_search_reads_all_it_needs_and_says_the_same(tmp_path: Path):
    objective = Goal("saturation")

    def search(folder):
        measure = measurer(folder)
        found = find_guidance(measure, evaluator().moments, SCALE, budget=400, objective=objective, first=24)
        return found, measure.sampled

    first, sampled = search(tmp_path)
    assert sampled == first.images <= 400
    again, sampled = search(tmp_path)
    assert sampled == 0
    assert (again.guidance, again.why, again.best, again.notes) == (first.guidance, first.why, first.best, first.notes)
    assert [r.metrics for r in again.rows] == [r.metrics for r in first.rows]
    torn = sorted(tmp_path.glob("*.safetensors"))[0]
    whole, values = torn.read_bytes(), {name: each.clone() for name, each in load_file(torn).items()}
    torn.write_bytes(whole[: len(whole) // 2])
    third, sampled = search(tmp_path)
    assert 0 < sampled <= 32
    torch.testing.assert_close(load_file(torn), values, rtol=0, atol=0, equal_nan=True)
    assert third.best == first.best


def test_a_batch_is_the_same_in_parts_and_has_the_classes_of_its_seeds(tmp_path: Path):
    whole = measurer(tmp_path / "a")((2.0,), range(0, 30))
    measure = measurer(tmp_path / "b")
    parts = [measure((2.0,), part) for part in (range(0, 12), range(12, 30))]
    torch.testing.assert_close(torch.cat([p.features for p in parts]), whole.features, rtol=1e-4, atol=1e-4)
    assert whole.labels is not None
    assert torch.cat([p.labels for p in parts if p.labels is not None]).equal(whole.labels)
    assert whole.rows == 30 * 2 * 2
    other = measure((3.0,), range(0, 12))
    assert other.labels is not None
    assert other.labels.equal(whole.labels[:12])


def test_batches_are_made_again_when_what_the_guidance_names_has_other_weights(tmp_path: Path):
    """A weak model or a classifier is named by its path; it may have been trained again."""
    first, other, same = measurer(tmp_path), measurer(tmp_path), measurer(tmp_path)
    other._named = {"weak": "0123456789ab"}
    seeds = range(0, 32)
    for measure, sampled in ((first, 32), (other, 32), (same, 0)):
        measure((2.0,), seeds)
        assert measure.sampled == sampled
