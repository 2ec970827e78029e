"""``fairlead tune`` on a tiny run: the answer is where it is looked for, and is used; bad input is one line."""

import html
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fairlead.cli import main
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.metrics import Estimate
from fairlead.sample.run import Plan
from fairlead.tune.answers import question_of, read_answers
from fairlead.tune.sweep_folder import SweepFolder

QUICK = ["--budget", "480", "--report", "40", "--steps", "2"]


@pytest.fixture(scope="module")
def quick_classifiers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        quick = ClassifierRecipe(seed=4, steps=30, width=4, features=6)
        patch.setattr(
            import_module("fairlead.measure.judge"), "recipe_for", lambda data, role: replace(quick, seed=len(role))
        )
        patch.setenv("FAIRLEAD_CACHE", str(tmp_path_factory.mktemp("quick")))
        yield


@pytest.fixture(scope="module")
def tuned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, quick_classifiers: None) -> Path:
    out = tmp_path_factory.mktemp("tune") / "t"
    assert main(["tune", str(tiny_run), "--constraint", "accuracy >= 0", *QUICK, "--out", str(out)]) == 0
    return out


def test_a_reward_is_objective_constraint_and_column(
    tiny_run: Path, tmp_path: Path, quick_classifiers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "t"
    shutil.copytree(tiny_run, run)
    asked = ["--reward", "brightness(0.3)", "--objective", "reward", "--constraint", "reward >= -40"]
    assert main(["tune", str(run), *asked, *QUICK, "--out", str(out)]) == 0
    assert "The reward is highest at scale " in " ".join(capsys.readouterr().out.split())
    answer = json.loads((out / "tuned.json").read_text())
    assert (answer["objective"], answer["reward"]) == ("reward", "brightness(0.3)")
    values = {setting["guidance"]: setting["metrics"]["reward"][0] for setting in answer["settings"]}
    assert values[answer["guidance"]] >= -40
    folder = SweepFolder(out / "report")
    assert folder.floor is not None
    assert all("reward" in found for found in (folder.floor.metrics, *(p.score.metrics for p in folder.read()[1])))
    about = json.loads((run / "tuned.json").read_text())
    assert question_of(about).endswith("with reward >= -40, reward brightness(0.3), ddim, 2 steps")


def test_the_answer_is_in_both_places_and_says_how_it_was_found(tuned: Path, tiny_run: Path) -> None:
    answer = json.loads((tuned / "tuned.json").read_text())
    assert answer == json.loads((tiny_run / "tuned.json").read_text())
    assert answer["guidance"] in [setting["guidance"] for setting in answer["settings"]]
    assert answer["images"] == sum(setting["n"] for setting in answer["settings"]) <= 480
    assert answer["best"]["low"] <= answer["best"]["value"] <= answer["best"]["high"]
    assert (answer["template"], answer["ranges"]) == ("cfg({scale})", {"scale": [1.0, 8.0]})
    assert (answer["objective"], answer["constraints"]) == ("distance_debiased", ["accuracy >= 0"])
    assert (answer["sampler"], answer["steps"], answer["seeds"]) == ("ddim", 2, [0, 1_000_000])


def test_the_report_is_measured_on_seeds_of_its_own(tuned: Path) -> None:
    page = (tuned / "report" / "report.html").read_text()
    answer = json.loads((tuned / "tuned.json").read_text())
    _, points = SweepFolder(tuned / "report").read()
    assert {point.score.protocol.seeds for point in points} == {"1000000..1000039"}
    assert answer["guidance"] in [point.guidance for point in points]
    assert "The search" in page
    assert answer["guidance"] in page


def test_the_same_command_samples_nothing_again(
    tuned: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tuned / "tuned.json").read_text()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("images would be sampled")

    monkeypatch.setattr(Plan, "run", never)
    command = ["tune", str(tiny_run), "--constraint", "accuracy >= 0", *QUICK, "--report", "0", "--out", str(tuned)]
    assert main(command) == 0
    answer, there = json.loads(before), json.loads((tuned / "tuned.json").read_text())
    assert {**answer, "command": ""} == {**there, "command": ""}
    printed = capsys.readouterr().out
    assert f"Recommended: {answer['guidance']}, the " in printed
    front = [setting for setting in answer["settings"] if setting["on_front"]]
    table = printed.partition("not beaten")[2].split("\n\n")[0].splitlines()
    assert [line.split()[:2] for line in table[1:]] == [[each["guidance"], str(each["n"])] for each in front]
    for line, each in zip(table[1:], front, strict=True):
        value, error = each["metrics"]["distance_debiased"]
        assert str(Estimate(value, error, each["n"])) in line


def test_sample_takes_what_was_found_and_says_so(
    tuned: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guidance = json.loads((tuned / "tuned.json").read_text())["guidance"]
    command = ["sample", str(tiny_run), "--cond", "seven", "--n", "1", "--guidance", "tuned"]
    assert main([*command, "--steps", "2", "--out", str(tmp_path / "a")]) == 0
    assert f"tuned: {guidance}\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "a" / "run.json").read_text())["guidance"] == guidance
    assert main([*command, "--steps", "3", "--out", str(tmp_path / "b")]) == 0
    assert f"tuned: {guidance} (found with --steps 2, not 3)\n" in capsys.readouterr().err


def test_answers_to_several_questions_are_kept_and_chosen_by_key(
    tuned: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "t"
    shutil.copytree(tiny_run, run)
    shutil.copytree(tuned, out)
    first = json.loads((out / "tuned.json").read_text())
    command = ["tune", str(run), "--constraint", "accuracy >= 0", "saturation <= 1"]
    assert main([*command, *QUICK, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    second = json.loads((out / "tuned.json").read_text())
    assert second["key"] != first["key"]
    assert f"--guidance tuned:{second['key']} " in printed
    for place in (out, run, out / "report"):
        found = read_answers(place / "tuned.json")
        assert [answer["key"] for answer in found] == [second["key"], first["key"]]
        assert found[1]["settings"] == first["settings"]

    page = (out / "report" / "report.html").read_text()
    box = page.partition('<div class="findings">')[2].partition("</div>")[0]
    assert second["recommendation"] in html.unescape(box)
    assert second["recommendation"] in printed
    assert "<summary>Another search: distance_debiased of cfg({scale}) with accuracy &gt;= 0, ddim" in page
    assert main(["report", str(out / "report")]) == 0
    assert second["recommendation"] in capsys.readouterr().out
    assert (out / "report" / "report.html").read_text() == page

    sample = ["sample", str(run), "--cond", "7", "--n", "1", "--steps", "2"]
    assert main([*sample, "--guidance", "tuned", "--out", str(tmp_path / "none")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(f"tuned:{answer['key']} is {answer['guidance']}" in line for answer in (first, second))
    assert main([*sample, "--guidance", f"tuned:{first['key']}", "--out", str(tmp_path / "a")]) == 0
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    assert about["guidance"] == first["guidance"]
    assert about["tuned"]["key"] == first["key"]
    assert about["tuned"]["question"] == "distance_debiased of cfg({scale}) with accuracy >= 0, ddim, 2 steps"


def test_another_report_in_the_folder_is_refused_before_the_search(
    tuned: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(import_module("fairlead.report.searches"), "find_guidance", never)
    command = ["tune", str(tiny_run), "--constraint", "accuracy >= 0", *QUICK, "--report", "50", "--out", str(tuned)]
    assert main(command) == 2
    assert "n: 40 there, 50 now" in capsys.readouterr().err


BAD = [
    (["--objective", "fid"], "objective 'fid': expected one of distance_debiased, accuracy, confidence, saturation"),
    (["--objective", "distance"], "objective 'distance': the raw distance falls with the number of images"),
    (["--constraint", "distance <= 3"], "constraint 'distance <= 3': the raw distance falls with the number of images"),
    (["--report", "29"], "report = 29 images over 10 conditions are too few to score; expected at least 30"),
    (["--constraint", "acuracy >= 0.9"], "unknown metric 'acuracy'"),
    (["--constraint", "accuracy > 0.9"], "expected METRIC >= NUMBER or METRIC <= NUMBER"),
    (["--guidance", "cfg(3)"], "nothing is open in 'cfg(3)'; write a name in braces"),
    (["--range", "omega=1:2"], "'cfg({scale})' has no {omega}; it has scale"),
    (["--range", "scale=3:2"], "expected LOW below HIGH"),
    (["--budget", "0"], "budget and report: expected numbers of images, got 0 and 40"),
    (["--budget", "40"], "a budget of 40 images is too small; expected some thousands, at least 45"),
    (["--objective", "reward"], "objective 'reward': pass the reward too"),
    (["--reward", "brightnes(1)"], "'brightnes'; did you mean 'brightness'?"),
    (["--reward", "color('red')"], "needs RGB images"),
    (["--sampler", "dddim"], "unknown sampler 'dddim'; did you mean 'ddim'?"),
    (["--precision", "fp8"], "unknown precision 'fp8'"),
]


@pytest.mark.parametrize(("extra", "message"), BAD, ids=[" ".join(extra) for extra, _ in BAD])
def test_bad_input_is_one_line(
    extra: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    quick_classifiers: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert main(["tune", str(tiny_run), *QUICK, "--out", str(tmp_path / "o"), *extra]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairlead: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "o" / "tuned.json").exists()


def test_a_run_that_was_not_tuned_says_what_to_do(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("tuned.json"))
    capsys.readouterr()
    assert main(["sample", str(run), "--guidance", "tuned", "--out", str(tmp_path / "o")]) == 2
    line = capsys.readouterr().err
    assert line == f"fairlead: guidance 'tuned': {run} has no tuned.json; make it with `fairlead tune {run}`\n"
