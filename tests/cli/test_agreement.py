"""Agreement with prompts in sweep, tune and report, of a run that reads text and of a pipeline: what a judge makes of
the images by hand, and a bound that a setting has to keep."""

import json
import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fairlead.cli import main
from fairlead.data.scenes.captions import VALUES, read_caption
from fairlead.data.scenes.scene_set import load_scenes
from fairlead.measure.agreement import AGREEMENT, asked_for, metric_of
from fairlead.measure.attributes import JudgeRecipe, cached_attribute_judge
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.references import spread
from fairlead.tune.sweep_folder import SweepFolder
from tests.pipelines import made

DATA = "scenes(n=1000)"
N = 48
QUICK = JudgeRecipe(
    whole=ClassifierRecipe(seed=1, steps=60, width=8, features=16, batch=32, shift=0),
    digits=ClassifierRecipe(seed=2, steps=5, width=4, features=8, batch=32, shift=1),
    members=1,
)
TUNE = ["--budget", "240", "--steps", "1", "--report", "0"]


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    few = ClassifierRecipe(seed=4, steps=20, width=4, features=6, batch=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            import_module("fairlead.measure.judge"), "recipe_for", lambda data, role: replace(few, seed=len(role))
        )
        patch.setattr(import_module("fairlead.measure.attributes"), "RECIPE", QUICK)
        patch.setenv("FAIRLEAD_CACHE", str(tmp_path_factory.mktemp("quick")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "run"
    train = [
        "train",
        "--recipe",
        "scenes",
        "--data",
        DATA,
        "--text-read",
        "2",
        "--text-sketch",
        "2",
        "--steps",
        "2",
        "--channels",
        "8",
        "--batch-size",
        "8",
    ]
    assert main([*train, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def sweep(run: Path) -> Path:
    out = run.parent / "sweep"
    command = ["sweep", str(run), "--scales", "1", "40", "--n", str(N), "--steps", "1", "--keep-images"]
    assert main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "p"
    made.sd(network=made.unet(sample_size=28)).save_pretrained(folder)
    return folder


def by_hand(images: torch.Tensor, captions: list[str]) -> dict[str, list[float]]:
    """Hits of the judge, attribute by attribute, over the captions that say it."""
    seen = cached_attribute_judge(load_scenes(n=1000)).judge(images)
    wanted = [read_caption(caption) for caption in captions]
    right = [{name: seen[name][i] == VALUES[name].index(v) for name, v in w.items()} for i, w in enumerate(wanted)]
    each = {metric_of(name): [float(r[name]) for r in right if name in r] for name in VALUES}
    return {"agreement": [float(all(r.values())) for r in right], **each}


def test_a_sweep_measures_what_the_judge_makes_of_its_images(sweep: Path) -> None:
    folder, test = SweepFolder(sweep), load_scenes("test", n=1000)
    index = spread(test.labels, N).tolist()
    for point in folder.read()[1]:
        images = load_file(sweep / "settings" / folder.key(point.setting) / "images.safetensors")["images"]
        expected = by_hand(images, [test.captions[i] for i in index])
        found = point.score.metrics
        assert {name for name, hits in expected.items() if hits} == {name for name in AGREEMENT if name in found}
        for name, hits in expected.items():
            assert found[name].value == pytest.approx(sum(hits) / len(hits))
            assert found[name].n == len(hits)
            assert found[name].error > 0
        assert point.score.protocol.attributes == cached_attribute_judge(load_scenes(n=1000)).name
        assert point.score.protocol.asked


def test_real_images_are_held_to_what_their_own_captions_say(sweep: Path) -> None:
    test, floor = load_scenes("test", n=1000), SweepFolder(sweep).floor
    assert floor is not None
    for name, hits in by_hand(test.images, list(test.captions)).items():
        assert floor.metrics[name].value == pytest.approx(sum(hits) / len(hits))
        assert floor.metrics[name].n == len(hits)


def test_differences_are_paired_over_the_prompts_that_say_it(sweep: Path) -> None:
    plain, guided = SweepFolder(sweep).read()[1]
    assert guided.differences is not None
    values = [SweepFolder(sweep).samples(SweepFolder(sweep).key(p.setting)).values for p in (guided, plain)]
    for name in ("agreement_background", "agreement_second_ink"):
        each = values[0][name] - values[1][name]
        each = each[~each.isnan()]
        change = guided.differences[name]
        assert (change.n, change.paired) == (len(each), True)
        assert change.value == pytest.approx(float(each.mean()))
        assert change.error == pytest.approx(float(each.std()) / math.sqrt(len(each)))


def test_the_page_has_the_shares_and_the_prompts(sweep: Path) -> None:
    page, about = (sweep / "report.html").read_text(), json.loads((sweep / "sweep.json").read_text())
    assert "Agreement with the prompt" in page
    test = load_scenes("test", n=1000)
    assert set(about["prompts"]) <= set(test.captions)
    point = SweepFolder(sweep).read()[1][1]
    for name in ("agreement", "agreement_background", "agreement_size"):
        assert f"<td>{point.score.metrics[name]}</td>" in page
    assert "images asked for it" in page
    assert "protocol: attributes" in page


def test_a_bound_on_agreement_decides_what_is_recommended(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = ["--constraint", "agreement_count >= 0.5"]
    assert main(["tune", str(run), *TUNE, *bound, "--out", str(tmp_path / "t")]) == 0
    answer = json.loads((tmp_path / "t" / "tuned.json").read_text())
    settings = {one["guidance"]: one["metrics"] for one in answer["settings"]}
    assert settings[answer["guidance"]]["agreement_count"][0] >= 0.5
    assert answer["attributes"] == cached_attribute_judge(load_scenes(n=1000)).name
    capsys.readouterr()
    assert main(["tune", str(run), *TUNE, "--constraint", "agreement >= 1", "--out", str(tmp_path / "u")]) == 2
    assert "satisfies agreement >= 1; nearest is" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pipeline_is_measured_and_tuned_on_the_prompts_of_a_data_set(pipeline: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = ["sweep", str(pipeline), "--data", DATA, "--scales", "1", "--n", str(N), "--steps", "1", "--keep-images"]
    assert main([*command, "--out", str(out)]) == 0
    folder, test = SweepFolder(out), load_scenes("test", n=1000)
    (point,) = folder.read()[1]
    images = load_file(out / "settings" / folder.key(point.setting) / "images.safetensors")["images"]
    expected = by_hand(images, [test.captions[i] for i in spread(test.labels, N).tolist()])
    for name, hits in expected.items():
        assert point.score.metrics[name].value == pytest.approx(sum(hits) / len(hits))
    bound = ["--constraint", "agreement_size >= 0"]
    budget = ["--budget", "160", "--steps", "1", "--report", "0"]
    assert main(["tune", str(pipeline), "--data", DATA, *budget, *bound, "--out", str(tmp_path / "t")]) == 0
    tuned = json.loads((pipeline / "tuned.json").read_text())
    sample = ["sample", str(pipeline), "--cond", "a red cat", "--n", "1", "--steps", "1", "--guidance", "tuned"]
    assert main([*sample, "--out", str(tmp_path / "i")]) == 0
    assert json.loads((tmp_path / "i" / "run.json").read_text())["guidance"] == tuned["guidance"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "PIPELINE", "--n", "48"], "does not say where its data is; pass --data"),
        (["sweep", "PIPELINE", "--n", "48", "--data", "digits"], "images are [1, 28, 28], the model's are [3, 28, 28]"),
        (["tune", "RUN", *TUNE, "--constraint", "agreement_pose >= 1"], "unknown metric 'agreement_pose'"),
        (["tune", "RUN", *TUNE, "--objective", "agreed"], "saturation, agreement"),
        (["tune", "DIGITS", *TUNE, "--constraint", "agreement >= 1"], "this model is conditioned on a label only"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    arguments: list[str],
    message: str,
    run: Path,
    pipeline: Path,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": str(run), "PIPELINE": str(pipeline), "DIGITS": str(tiny_run)}
    capsys.readouterr()
    assert main([*(places.get(one, one) for one in arguments), "--out", str(tmp_path / "o")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairlead: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "o" / "sweep.json").exists()


def test_what_samples_are_asked_for_is_what_their_conditions_say() -> None:
    data = load_scenes("test", n=200)
    by_label = asked_for(("label", "ink"), data)
    assert set(by_label) == {"digit", "ink"}
    assert torch.equal(by_label["digit"].labels, data.labels)
    by_text = asked_for(("text",), data)
    for name, attribute in by_text.items():
        says = [VALUES[name].index(v) if (v := read_caption(c).get(name)) else -1 for c in data.captions]
        assert attribute.labels.tolist() == says
        known = attribute.labels >= 0
        assert torch.equal(attribute.labels[known], data.attributes[name].labels[known])
    both = asked_for(("text", "ink"), data)
    assert torch.equal(both["ink"].labels, data.attributes["ink"].labels)
    assert int((by_text["ink"].labels < 0).sum()) > 0
    assert not asked_for(("image",), data)
