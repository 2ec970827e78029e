"""What ``tuned.json`` keeps: an answer a question, found again by what it answers."""

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.tune.answers import answer_key, choose, question_of, read_answers, save_answer, template_of
from fairlead.tune.recommend import Tuned
from fairlead.tune.template import Template
from tests.tune.test_tuning import row

QUESTION: dict[str, Any] = {
    "objective": "distance_debiased", "constraints": ["accuracy >= 0.99"], "template": "cfg({scale})",
    "sampler": "ddim", "steps": 20, "grid": "trailing", "precision": "fp32", "weights": "w", "judge": "j",
    "ranges": {"scale": [1.0, 8.0]},
}  # fmt: skip


def answer(guidance: str, **changes: Any) -> dict[str, Any]:
    return {"guidance": guidance, **QUESTION, **changes}


def test_a_question_is_objective_constraints_expression_and_protocol() -> None:
    key = answer_key(answer("cfg(1)"))
    assert key == answer_key(answer("cfg(2)", seeds=[7], ranges={"scale": [1, 3]}, images=9))
    assert key == answer_key(answer("cfg(1)", constraints=["accuracy>=0.99"]))
    before = {name: value for name, value in answer("cfg(1)").items() if name != "precision"}
    assert key == answer_key(before)  # of a version that did not say it
    others: dict[str, Any] = {
        "objective": "accuracy", "constraints": [], "template": "pag({scale})", "sampler": "heun", "steps": 10,
        "grid": "karras", "precision": "bf16", "weights": "v", "judge": "k",
    }  # fmt: skip
    keys = {answer_key(answer("cfg(1)", **{name: value})) for name, value in others.items()}
    assert len(keys) == len(others)
    assert key not in keys


def keep(path: Path, guidance: str, **changes: Any) -> None:
    save_answer(path, Tuned(guidance, "best", None, (row(1),), 1, ()), {**QUESTION, **changes})


def test_a_later_answer_replaces_that_to_its_question_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    keep(path, "cfg(1)")
    keep(path, "cfg(2)", constraints=[])
    assert [one["guidance"] for one in read_answers(path)] == ["cfg(2)", "cfg(1)"]
    keep(path, "cfg(1.5)")
    assert [one["guidance"] for one in read_answers(path)] == ["cfg(1.5)", "cfg(2)"]
    # the latest is the file itself, as when there was only one
    assert json.loads(path.read_text())["guidance"] == "cfg(1.5)"


def test_answers_that_are_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    tuned = Tuned("cfg(1)", "best", None, (row(1),), 1, ())
    process = multiprocessing.get_context("fork").Process
    writers = [process(target=save_answer, args=(path, tuned, {**QUESTION, "steps": i})) for i in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert sorted(one["steps"] for one in read_answers(path)) == [1, 2, 3, 4]
    assert [each.name for each in tmp_path.iterdir()] == ["tuned.json"]


def test_a_writer_waits_for_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    with Hold(path, beside=True):
        other = threading.Thread(target=keep, args=(path, "cfg(1)"))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert not path.exists()
    other.join()
    assert read_answers(path)[0]["guidance"] == "cfg(1)"


def test_the_one_that_is_meant_is_chosen_or_all_are_listed(tmp_path: Path) -> None:
    here: dict[str, Any] = {"sampler": "ddim", "steps": 20, "weights": "w"}
    path = Path("runs/a/tuned.json")
    keep(tmp_path / "tuned.json", "cfg(1)")
    keep(tmp_path / "tuned.json", "cfg(2)", constraints=[])
    keep(tmp_path / "tuned.json", "cfg(3)", sampler="heun")
    answers = read_answers(tmp_path / "tuned.json")
    strict = answer("cfg(1)")
    assert choose(answers[1:2], "", path, "heun", 7, "x")["guidance"] == "cfg(2)"  # the only one
    assert choose(answers, "", path, **{**here, "sampler": "heun"})["guidance"] == "cfg(3)"
    assert choose(answers, answer_key(strict), path, **here)["guidance"] == "cfg(1)"
    with pytest.raises(UsageError) as refused:
        choose(answers, "", path, **here)
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("guidance 'tuned': runs/a/tuned.json answers 2 questions; write which is meant: tuned:")
    assert f"tuned:{answer_key(strict)} is cfg(1) ({question_of(strict)})" in line
    assert "cfg(3)" not in line
    with pytest.raises(UsageError, match="holds no such answer; take one of tuned:"):
        choose(answers, "zzz", path, **here)


def test_an_answer_of_an_earlier_version_is_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    old = {"guidance": "cfg(1.4)", "sampler": "ddim", "steps": 20, "objective": "distance_debiased", "constraints": []}
    path.write_text(json.dumps(old))
    assert read_answers(path)[0]["guidance"] == "cfg(1.4)"
    tuned = Tuned("cfg(1.5)", "lowest loss", (1.5, 1.25, 2.0), (row(1.5),), 100, ("a note",))
    save_answer(path, tuned, QUESTION)
    assert [one["guidance"] for one in read_answers(path)] == ["cfg(1.5)", "cfg(1.4)"]
    latest = read_answers(path)[0]
    found, template = Tuned.from_dict(latest), template_of(latest)
    assert (found, template.text) == (tuned, Template.of("cfg({scale})").text)
    assert read_answers(path)[0]["recommendation"] == "Recommended: cfg(1.5), the lowest loss."


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text('{"guidance": ')
    with pytest.raises(UsageError, match=r"is damaged .*; remove it and run `fairlead tune` again"):
        keep(path, "cfg(1)")
    assert path.read_text() == '{"guidance": '
    path.unlink()
    keep(path, "cfg(1)")
