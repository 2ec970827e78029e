"""Rewards of images that are there already: folders, sweeps and searches give what the reward gives by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData, to_float
from fairlead.measure.image_sets import ImageSet
from fairlead.measure.metrics import maximised
from fairlead.measure.rewards.image_reward import ImageReward, images_rewarded
from fairlead.tune.measurements import Goal
from fairlead.tune.measurer import Measurer
from fairlead.tune.search import parse_constraints
from fairlead.tune.setting import all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Shared, Sweep
from fairlead.tune.template import Template
from tests.tune.made import evaluator, model

CPU = torch.device("cpu")
CLASSES = ("zero", "one", "two")


def by_class(x0: Tensor, t: Tensor, condition: Any) -> Tensor:
    """The brightness of the image times its class + 1."""
    values: Tensor = x0.flatten(1).mean(1) * (condition.values["label"] + 1)
    return values


def by_hand(images: Tensor, labels: Tensor) -> Tensor:
    return (to_float(images).flatten(1).mean(1) * (labels + 1)).double()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    from fairlead.core import registry

    monkeypatch.setitem(registry._REGISTERED, "reward", {})
    fl.register("by_class", by_class, kind="reward")
    return "by_class()"


def test_a_folder_has_the_mean_of_its_images_with_their_own_conditions(tmp_path: Path, capsys: Any) -> None:
    data = fl.load_data("digits", "test")
    assert main(["measure", "digits@test", "--reward", "brightness(0.3)", "--json", str(tmp_path / "r.json")]) == 0
    pixels = to_float(data.images).flatten(1).double()
    each = -0.5 * 64 * (pixels.mean(1) - (2 * 0.3 - 1)) ** 2
    numbers = json.loads((tmp_path / "r.json").read_text())
    assert numbers["reward"]["value"] == pytest.approx(float(each.mean()), rel=1e-5)
    assert numbers["reward"]["error"] == pytest.approx(float(each.std()) / math.sqrt(len(each)), rel=1e-5)
    assert torch.tensor(numbers["values"]).double().allclose(each, rtol=1e-4)
    assert f"over {len(data)} images of digits/test#{data.fingerprint}" in capsys.readouterr().out
    found = fl.reward_of("digits@test", by_class)
    assert found.values.allclose(by_hand(data.images, data.labels))


def test_a_comparison_has_the_reward_of_both(tmp_path: Path) -> None:
    found = fl.measure("digits", "digits@test", features="random", metrics="precision", reward="brightness(0.3)")
    each = [fl.reward_of(part, "brightness(0.3)").mean for part in ("digits@test", "digits")]
    assert [one.mean for one in found.rewards] == each
    assert [one["reward"]["value"] for one in found.as_dict()["rewards"]] == [one.value for one in each]


def test_a_sweep_has_a_column_with_paired_differences_and_the_real_images_beside(
    registered: str, tmp_path: Path
) -> None:
    settings = all_settings(["runs/a"], ["cfg(1)", "cfg(3)"], ["ddim"], [2])
    shared = Shared(n=20, batch_size=8)
    scoring = evaluator().rewarding(ImageReward.of(registered, model(), kept=True))
    folder = SweepFolder(tmp_path / "sweep")
    list(Sweep(settings, shared, model).measure(folder, scoring, keep_images=True))
    _, points = folder.read()
    each = []
    for point in points:
        run = fl.sample(model(), _conds(20), guidance=point.guidance, seeds=0, steps=2, batch_size=8)
        assert run.images is not None
        each.append(by_hand(run.images, model().encode(run.conds).values["label"]))
        assert point.score.metrics["reward"].value == pytest.approx(float(each[-1].mean()), rel=1e-6)
        assert point.score.protocol.reward == "by_class()"
    pair = each[1] - each[0]
    difference = folder.compare(points[1].setting, points[0].setting)["reward"]
    assert difference.value == pytest.approx(float(pair.mean()), rel=1e-6)
    assert difference.error == pytest.approx(float(pair.std()) / math.sqrt(20), rel=1e-6)
    real, floor = evaluator().held_out, folder.floor
    assert floor is not None
    counted = floor.n * floor.blocks
    assert floor.metrics["reward"].value == pytest.approx(float(by_hand(real.images, real.labels).mean()), abs=0.1)
    assert counted <= len(real)
    with pytest.raises(UsageError, match="reward"):
        list(Sweep(settings, shared, model).measure(folder, evaluator()))


def _conds(n: int) -> list[str]:
    from fairlead.measure.references import shared_out

    return shared_out(CLASSES, evaluator().reference.labels, n)


def test_a_search_measures_it_and_takes_it_as_objective_or_bound(registered: str, tmp_path: Path) -> None:
    scoring = evaluator().rewarding(ImageReward.of(registered, model()))
    template = Template.of("cfg({scale})", ["scale=1:8"])
    batch = Measurer(model(), scoring, template, Shared(n=40), "ddim", 2, tmp_path / "searched")((2.0,), range(8, 32))
    run = fl.sample(model(), _conds(40)[8:32], guidance="cfg(2)", seeds=range(8, 32), steps=2)
    assert run.images is not None
    assert batch.values["reward"].allclose(by_hand(run.images, model().encode(run.conds).values["label"]))
    assert Goal("reward", maximised("reward")).maximise
    assert str(parse_constraints(["reward >= -1.5"], 2, ["reward"])[0]) == "reward >= -1.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits@test"], "expected two folders of images, REAL and FAKE, or one and --reward; got one"),
        (["digits@test", "--reward", "brightnes(1)"], "'brightnes'; did you mean 'brightness'?"),
        (["digits@test", "--reward", "color('red')"], "needs RGB images"),
        (["digits@test", "--reward", "judged()"], "nothing says what the model was trained on"),
        (["digits@test", "--reward", "brightness(1)", "--metrics", "kid"], "--metrics is for the comparison of two"),
        (["digits@test", "--reward", "brightness(1)", "--out", "x"], "--out is for the comparison of two folders"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(["measure", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("fairlead: ")] == lines[-1:]
    assert message in lines[-1]


def test_what_cannot_be_said_of_images_is_refused(tmp_path: Path) -> None:
    flat = ImageSet(
        ImageData(torch.zeros(3, 1, 8, 8).byte(), torch.zeros(3).long(), ("all",), "x", "", False), False, (), {}, ()
    )
    with pytest.raises(UsageError, match="is of the condition of each image, and there is none"):
        images_rewarded(flat, 'judged(data="digits")', CPU)
    with pytest.raises(UsageError, match="expected one number per image, \\[3\\], got"):
        images_rewarded(flat, lambda x0, t, condition: x0, CPU)
    with pytest.raises(UsageError, match="3 values are not finite"):
        images_rewarded(flat, lambda x0, t, condition: x0.flatten(1).sum(1) / 0, CPU)
    with pytest.raises(UsageError, match="results are kept under its name"):
        ImageReward.of(by_class, model(), kept=True)
