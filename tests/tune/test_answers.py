"""What ``tuned.json`` keeps: an answer a question, found again by what it answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fairlead.core.errors import UsageError
from fairlead.tune.answers import answers_of, choose, joined, key_of, said
from fairlead.tune.template import Template
from fairlead.tune.tuning import Tuned, read_answers, read_tuned, save, tuned_of
from tests.tune.test_tuning import row

QUESTION: dict[str, Any] = {
    "objective": "distance_debiased", "constraints": ["accuracy >= 0.99"], "template": "cfg({scale})",
    "sampler": "ddim", "steps": 20, "grid": "trailing", "precision": "fp32", "weights": "w", "judge": "j",
    "ranges": {"scale": [1.0, 8.0]},
}  # fmt: skip


def answer(guidance: str, **changes: Any) -> dict[str, Any]:
    return {"guidance": guidance, **QUESTION, **changes}


def test_a_question_is_objective_constraints_expression_and_protocol() -> None:
    key = key_of(answer("cfg(1)"))
    assert key == key_of(answer("cfg(2)", seeds=[7], ranges={"scale": [1, 3]}, images=9))
    assert key == key_of(answer("cfg(1)", constraints=["accuracy>=0.99"]))
    before = {name: value for name, value in answer("cfg(1)").items() if name != "precision"}
    assert key == key_of(before)  # of a version that did not say it
    others: dict[str, Any] = {
        "objective": "accuracy", "constraints": [], "template": "pag({scale})", "sampler": "heun", "steps": 10,
        "grid": "karras", "precision": "bf16", "weights": "v", "judge": "k",
    }  # fmt: skip
    keys = {key_of(answer("cfg(1)", **{name: value})) for name, value in others.items()}
    assert len(keys) == len(others)
    assert key not in keys


def test_a_later_answer_replaces_that_to_its_question_and_no_other() -> None:
    first, second = answer("cfg(1)"), answer("cfg(2)", constraints=[])
    file = joined(second, answers_of(joined(first, [])))
    assert [one["guidance"] for one in answers_of(file)] == ["cfg(2)", "cfg(1)"]
    file = joined(answer("cfg(1.5)"), answers_of(file))
    assert [one["guidance"] for one in answers_of(file)] == ["cfg(1.5)", "cfg(2)"]
    assert file["guidance"] == "cfg(1.5)"  # the latest is the file itself, as when there was only one


def test_the_one_that_is_meant_is_chosen_or_all_are_listed() -> None:
    here: dict[str, Any] = {"sampler": "ddim", "steps": 20, "weights": "w"}
    path = Path("runs/a/tuned.json")
    strict, loose, heun = answer("cfg(1)"), answer("cfg(2)", constraints=[]), answer("cfg(3)", sampler="heun")
    answers = answers_of(joined(heun, answers_of(joined(loose, [strict]))))
    assert choose(answers[1:2], "", path, "heun", 7, "x")["guidance"] == "cfg(2)"  # the only one
    assert choose(answers, "", path, **{**here, "sampler": "heun"})["guidance"] == "cfg(3)"
    assert choose(answers, key_of(strict), path, **here)["guidance"] == "cfg(1)"
    with pytest.raises(UsageError) as refused:
        choose(answers, "", path, **here)
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("guidance 'tuned': runs/a/tuned.json answers 2 questions; write which is meant: tuned:")
    assert f"tuned:{key_of(strict)} is cfg(1) ({said(strict)})" in line
    assert "cfg(3)" not in line
    with pytest.raises(UsageError, match="holds no such answer; take one of tuned:"):
        choose(answers, "zzz", path, **here)


def test_an_answer_of_an_earlier_version_is_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    old = {"guidance": "cfg(1.4)", "sampler": "ddim", "steps": 20, "objective": "distance_debiased", "constraints": []}
    path.write_text(json.dumps(old))
    assert read_tuned(tmp_path)["guidance"] == "cfg(1.4)"
    tuned = Tuned("cfg(1.5)", "lowest loss", (1.5, 1.25, 2.0), (row(1.5),), 100, ("a note",))
    save(path, tuned, QUESTION)
    assert [one["guidance"] for one in read_answers(path)] == ["cfg(1.5)", "cfg(1.4)"]
    found, template = tuned_of(read_answers(path)[0])
    assert (found, template.text) == (tuned, Template.of("cfg({scale})").text)
    assert read_answers(path)[0]["recommendation"] == "Recommended: cfg(1.5), the lowest loss."


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text('{"guidance": ')
    with pytest.raises(UsageError, match=r"is damaged .*; remove it and run `fairlead tune` again"):
        save(path, Tuned("cfg(1)", "best", None, (row(1),), 1, ()), QUESTION)
    assert path.read_text() == '{"guidance": '
    path.unlink()
    save(path, Tuned("cfg(1)", "best", None, (row(1),), 1, ()), QUESTION)
