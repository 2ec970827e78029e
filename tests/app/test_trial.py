"""What a setting of the page samples is what its command and its Python sample; nothing outside of the folders is
read."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.app.combined import mixture, way
from fairlead.app.forming import forming
from fairlead.app.library import Library, Limits
from fairlead.app.trial import Trial, picture, with_negative
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.guide.expression import to_guidance
from fairlead.sample.trace import Trace
from tests.pipelines import made

TRIAL = Trial("demo/model", "cfg(3)", ("seven", "two"), negative="one", n=2, seed=5, steps=3)


def finished(trial: Trial, library: Library) -> fl.Run:
    *_, last = forming({"": trial.plan(library)})
    assert last[""].run is not None
    return last[""].run


def test_the_command_samples_the_same_bits(library: Library, tmp_path: Path) -> None:
    plan = TRIAL.plan(library)
    words = shlex.split(TRIAL.command(plan))
    assert words[:1] == ["fairlead"]
    assert main([*words[1:-1], str(tmp_path / "samples")]) == 0
    written = [np.array(Image.open(tmp_path / "samples" / f"{i:05d}.png")) for i in range(4)]
    images = finished(TRIAL, library).images
    assert images is not None
    assert np.array_equal(np.stack(written), images[:, 0].numpy())


@pytest.mark.parametrize("trial", [TRIAL, Trial("demo/model", "none", n=3, steps=2)])
def test_the_script_samples_the_same_bits(trial: Trial, library: Library, tmp_path: Path, monkeypatch) -> None:
    script = trial.python(trial.plan(library)).replace("samples", str(tmp_path / "samples"))
    values: dict = {}
    exec(script, values)
    assert torch.equal(values["run"].x0, finished(trial, library).x0)


def test_the_picture_says_how_to_make_it_again(library: Library, tmp_path: Path) -> None:
    run = finished(TRIAL, library)
    (tmp_path / "a.png").write_bytes(picture(run, columns=2))
    said = json.loads(Image.open(tmp_path / "a.png").text["fairlead"])  # type: ignore[attr-defined]
    assert said["guidance"] == 'cfg(3, negative="one")'
    assert (said["conds"], said["seeds"]) == (["seven", "seven", "two", "two"], [5, 6, 5, 6])


def test_two_settings_form_in_lockstep_and_count_apart(library: Library) -> None:
    plans = {"Left": Trial("demo/model", "none", ("two",), n=2, steps=3).plan(library)}
    plans["Right"] = Trial("demo/model", "cfg(3)", ("two",), n=2, steps=3).plan(library)
    states = [*forming(plans)]
    assert [[side.step for side in state.values()] for state in states] == [[0, 0], [1, 1], [2, 2], [3, 3], [3, 3]]
    left, right = states[-1].values()
    assert (left.tracing.cost.rows, right.tracing.cost.rows) == (6, 12)
    assert right.tracing.rows == [4, 4, 4]
    for side, plan in zip((left, right), plans.values(), strict=True):
        assert side.run is not None
        assert torch.equal(side.run.x0, plan.run().x0)
        whole = Trace.of(plan)
        for name, values in whole.step.items():
            assert torch.equal(side.trace.step[name].nan_to_num(-1), values.nan_to_num(-1)), name


def test_a_broken_side_says_why_and_the_other_goes_on(library: Library) -> None:
    plans = {"Left": Trial("demo/model", "cfg(1e6) + cfg(1e6)", ("two",), n=1, sampler="euler", steps=40).plan(library)}
    plans["Right"] = Trial("demo/model", "cfg(2)", ("two",), n=1, steps=2).plan(library)
    *_, last = forming(plans)
    assert last["Right"].run is not None
    if last["Left"].run is None:  # 1e12 in float32 need not overflow on every machine
        assert "not finite" in last["Left"].broken


def test_the_negative_goes_to_every_term_that_takes_one() -> None:
    given = to_guidance('apg(cfg(6)) + pag(2) + cfg(2, negative="two") | clip()')
    assert str(with_negative(given, "one")) == (
        'apg(cfg(6, negative="one")) + pag(2) + cfg(2, negative="two") | clip()'
    )
    with pytest.raises(UsageError, match=r"no term of pag\(2\) takes one"):
        with_negative(to_guidance("pag(2)"), "one")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 0}, "images: expected an integer of at least 1"),
        ({"n": 40}, "80 images: the playground takes 64"),
        ({"steps": 251}, "251 steps: the playground takes 250"),
        ({"seed": -1}, "seed: expected"),
        ({"model": "demo/other"}, "unknown model 'demo/other'"),
        ({"conds": ("x" * 3000,)}, "a text of 3,000 characters"),
        ({"conds": ("eleven",), "negative": ""}, "eleven"),
        ({"guidance": "cgf(3)"}, "did you mean 'cfg'"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(changed: dict, said: str, library: Library) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")) as caught:
        Trial(**{**vars(TRIAL), **changed}).plan(library)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "guidance",
    ['auto(2, weak="/etc/passwd")', 'auto(2, weak="demo/../../x@step3")', 'auto(2, weak="owner/name")',
     'energy(match("/etc/hostname"), 2)', 'classifier(2, "~")', 'auto(2, weak="demo/link")'],
)  # fmt: skip
def test_nothing_outside_of_the_folders_is_opened(guidance: str, library: Library, demo: Path) -> None:
    if not (demo / "link").is_symlink():
        (demo / "link").symlink_to("/etc")
    with pytest.raises(UsageError, match="is not below the folders that the playground was started with"):
        Trial("demo/model", guidance, ("two",), n=1, steps=2).plan(library)


def test_what_is_below_the_folders_is_opened(library: Library) -> None:
    assert finished(Trial("demo/model", 'auto(1.5, weak="demo/model")', ("two",), n=1, steps=2), library).cost.rows == 4


def test_a_library_finds_runs_and_sweeps_and_no_step_of_a_run(library: Library, demo: Path) -> None:
    assert library.models == (str(demo / "model"),)
    assert library.sweeps == (str(demo / "sweep"),)
    assert Library.of([str(demo / "model")]).models == (str(demo / "model"),)
    assert Library.of([f"{demo / 'model'}@step40"]).models == (f"{demo / 'model'}@step40",)
    assert Library.of([]).models == ()


@pytest.mark.parametrize("place", ["nowhere", "demo/sweep/settings"])
def test_a_place_without_anything_is_refused(place: str, library: Library) -> None:
    with pytest.raises(UsageError, match="expected a training run, a pipeline, or a folder with runs or sweeps"):
        Library.of([place])


def test_large_images_are_refused(demo: Path) -> None:
    with pytest.raises(UsageError, match="images of 8 x 8 are more than the 63 pixels"):
        Library.of([str(demo)], Limits(pixels=63)).model(str(demo / "model"))


def test_a_mixture_is_compose_of_what_has_a_weight(library: Library) -> None:
    text = mixture([("two", 2.0), ("", 3.0), ("one", -1.5), ("six", 0.0)])
    assert text == 'compose({"two": 2, "one": -1.5})'
    run = finished(Trial("demo/model", text, n=1, steps=2), library)
    assert torch.equal(run.x0, fl.sample("demo/model", guidance=text, steps=2).x0)
    for parts, said in (([("two", 0.0)], "at least one"), ([("two", 1.0), ("two", 2.0)], "named twice")):
        with pytest.raises(UsageError, match=said):
            mixture(parts)


def test_the_way_is_that_of_interpolate(library: Library) -> None:
    plan = way(library, Trial("demo/model", "cfg(2)", ("two", "six"), n=2, seed=3, steps=2), frames=3)
    expected = fl.interpolate("demo/model", "two", "six", n=2, frames=3, guidance="cfg(2)", seed=3, steps=2)
    assert torch.equal(plan.run().x0, expected.run.x0)
    with pytest.raises(UsageError, match="takes 64 images at once"):
        way(library, Trial("demo/model", "cfg(2)", ("two", "six"), n=16), frames=9)


def test_a_pipeline_is_a_model_like_any_other(tmp_path: Path) -> None:
    made.sd().save_pretrained(tmp_path / "pipeline")
    library = Library.of([str(tmp_path)])
    assert library.models == (str(tmp_path / "pipeline"),)
    trial = Trial(library.models[0], "cfg(3)", ("a red seven",), negative="blue", n=1, seed=2, steps=2)
    *_, last = forming({"": trial.plan(library)})
    run = fl.sample(library.models[0], "a red seven", guidance='cfg(3, negative="blue")', seeds=[2], steps=2)
    assert last[""].run is not None
    assert last[""].images is not None
    assert run.images is not None
    assert torch.equal(last[""].images, run.images)
