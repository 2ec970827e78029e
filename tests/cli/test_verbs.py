"""Every command has its verb in Python: the same arguments, the same defaults, the same result."""

import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

import fairlead as fl
from fairlead.cli import COMMANDS, main
from fairlead.cli.typed_options import joined

VERBS: dict[str, Callable[..., Any]] = {
    "measure": fl.measure, "sweep": fl.sweep, "tune": fl.tune, "report": fl.report, "explain": fl.explain,
    "interpolate": fl.interpolate, "doctor": fl.doctor, "edit": fl.edit,
    "distill": fl.distill,
}  # fmt: skip
RENAMED = {("interpolate", "cond"): ("a", "b")}
OTHER_VERB = {("measure", "fake")}  # without it, the command is fl.reward_of


def plain(value: Any) -> Any:
    """One value stands for a tuple of it, and None for what a path is loaded with."""
    if isinstance(value, tuple) and len(value) == 1:
        return value[0]
    return None if value in ("ema", "auto", "none", ()) else value


@pytest.mark.parametrize("name", VERBS)
def test_options_are_arguments_with_the_same_defaults(name: str) -> None:
    arguments = inspect.signature(VERBS[name]).parameters
    for option in fields(COMMANDS[name]):
        mine = RENAMED.get((name, option.name), (option.name,))
        assert set(mine) <= set(arguments), f"fl.{name} has no {option.name}"
        if option.default is not MISSING and (name, option.name) not in OTHER_VERB:
            assert plain(arguments[mine[0]].default) == plain(option.default), option.name


def test_folders_do_not_take_the_place_of_verbs() -> None:
    for folder, module in (("measure", "metrics"), ("tune", "search"), ("report", "page"), ("sample", "run")):
        import_module(f"fairlead.{folder}.{module}")
        assert inspect.isfunction(getattr(fl, folder))


def test_measure_is_the_command(tmp_path: Path) -> None:
    assert main(["measure", "digits", "digits@test", "--features", "random", "--json", str(tmp_path / "a.json")]) == 0
    fl.measure("digits", "digits@test", features="random", json=tmp_path / "b.json")
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert b.pop("command") == ""
    assert a.pop("command").startswith("fairlead ")
    assert a == b


def test_explain_and_doctor_take_a_path_and_a_loaded_model(tiny_run: Path, tmp_path: Path) -> None:
    model = fl.load(str(tiny_run))
    one = fl.explain(tiny_run, "seven", guidance="cfg(2)", seeds=[0], steps=2, out=tmp_path / "why")
    two = fl.explain(model, "seven", guidance=fl.cfg(2), seeds=[0], steps=2)
    assert one.table() == two.table()
    assert (tmp_path / "why" / "explain.html").is_file()
    assert list(map(str, fl.doctor(str(tiny_run), "cfg(2)", steps=2))) == list(
        map(str, fl.doctor(model, "cfg(2)", steps=2))
    )


WRONG: list[tuple[Callable[[Any, Any], Any], str]] = [
    (
        lambda run, out: fl.sweep(cast(Any, fl.load(run)), out),
        "sweep: expected the path of a training run or pipeline, got Model",
    ),
    (lambda run, out: fl.tune(cast(Any, 3), out), "tune: expected the path of a training run or pipeline, got int"),
    (lambda run, out: fl.sweep(run, out, guidance="cgf(2)"), "did you mean 'cfg'"),
    (lambda run, out: fl.tune(run, out, objective="fid"), "objective 'fid': expected one of distance_debiased"),
    (lambda run, out: fl.explain(fl.load(run), guidance="cfg(2)", weights="raw"), "this model is loaded already"),
    (lambda run, out: fl.explain(run, guidance="tuned"), "has no tuned.json; make it with `fairlead tune"),
    (lambda run, out: fl.interpolate(run, "seven", "one", guidance="tuned"), "has no tuned.json"),
    (lambda run, out: fl.doctor(cast(Any, 3)), "model: expected one from fl.load"),
    (lambda run, out: fl.measure("digits", "digits", metrics="fid"), "unknown metric 'fid'"),
    (lambda run, out: fl.measure("digits", "digits", k=0), "k: expected at least 1"),
    (lambda run, out: fl.report(out), "holds no sweep"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_a_usage_error(call: Any, message: str, tiny_run: Path, tmp_path: Path) -> None:
    if "tuned.json" in message:
        (tiny_run / "tuned.json").unlink(missing_ok=True)
    with pytest.raises(fl.UsageError) as refused:
        call(str(tiny_run), tmp_path / "o")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("tune", ["RUN", "--constraint", "a", "--out", "o", "--constraint", "b"], "RUN --constraint a b --out o"),
        ("sweep", ["--scales", "1", "2", "--scales=-3", "--steps", "4", "--n", "5"], "--scales 1 2 -3 --steps 4 --n 5"),
        ("sweep", ["--keep_images", "--cond", "a", "--cond", "b"], "--keep_images --cond a b"),
        ("tune", ["--steps", "4", "--steps", "5"], "--steps 4 --steps 5"),
        ("interpolate", ["--cond", "a", "b"], "--cond a b"),
    ],
)
def test_options_with_several_values_may_be_repeated(name: str, given: list[str], expected: str) -> None:
    assert " ".join(joined(given, COMMANDS[name])) == expected


def test_both_of_two_constraints_are_kept(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--constraint", "accuracy >= 0.5", "--constraint", "acuracy >= 0.5"]
    assert main(["tune", str(tiny_run), *rules, "--out", str(tmp_path / "a")]) == 2
    assert "unknown metric 'acuracy'" in capsys.readouterr().err
    assert main(["tune", str(tiny_run), *rules[2:], *rules[:2], "--out", str(tmp_path / "b")]) == 2
    assert "unknown metric 'acuracy'" in capsys.readouterr().err
