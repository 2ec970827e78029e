"""What ``--help`` says, and what is answered to the names that other tools give their options."""

import re
from dataclasses import fields

import pytest

from fairlead.cli import COMMANDS, main
from fairlead.cli.helping import NAMES_ELSEWHERE, TRAINING
from fairlead.train.options import TrainOptions


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out.replace("│", " ")


def options_in(text: str) -> set[str]:
    """The options of the boxes, below the description."""
    return set(re.findall(r"^  --([a-z][\w-]*)", re.sub("^  --help .*$", "", text, flags=re.MULTILINE), re.MULTILINE))


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_of_a_command_are_in_its_help_and_none_is_none(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, name, "--help", "all")
    given = {option.name.replace("_", "-") for option in fields(COMMANDS[name])}
    positional = {given_name for given_name in given if f"\n  {given_name.upper()} " in text}
    assert options_in(text) == given - positional
    assert not re.search(r"\{None|default: None|None\}", text)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if issubclass(command, TrainOptions)])
def test_the_help_of_a_training_is_a_screen_for_each_group(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(capsys, name, "--help")
    groups = re.findall(r"^  --help (\w+)", first, re.MULTILINE)
    found = options_in(first)
    assert len(first.splitlines()) <= 50
    for group in groups:
        text = printed(capsys, name, "--help", group)
        assert len(text.splitlines()) <= 66
        assert options_in(text)
        assert not options_in(text) & found
        found |= options_in(text)
    assert found == options_in(printed(capsys, name, "--help", "all"))


def test_the_names_in_the_groups_are_options() -> None:
    known = {option.name for command in COMMANDS.values() for option in fields(command)}
    assert {name for names in TRAINING.values() for name in names.split()} <= known


@pytest.mark.parametrize(
    ("recipe", "option", "default"),
    [
        ("digits", "steps", "1600"), ("mnist", "steps", "7000"), ("mnist", "optimizer", "muon"),
        ("scenes", "conditions", "text"), ("cifar10", "lr", "0.0005"), ("cifar10", "net", "32x32"),
        ("mnist", "channels", "32"),
    ],
)  # fmt: skip
def test_the_defaults_are_those_of_the_recipe(
    recipe: str, option: str, default: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "train", f"--recipe={recipe}", "--help", "all")
    box = " ".join(line.strip() for line in text.splitlines())
    said = re.search(rf" --{option} .*?\(default: (.*?)\)", box)
    assert said is not None
    assert said[1] == default


def test_a_group_or_recipe_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "nets"]) == 2
    assert "'nets' (known: options, data, network," in capsys.readouterr().err
    assert main(["train", "--recipe", "mnits", "--help"]) == 2
    assert "did you mean 'mnist'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--epochs", "3"], "--epochs is not an option of fairlead train; use --steps: epochs times images"),
        (["train", "--image_size=64"], "--image-size is not an option of fairlead train; use --size"),
        (["sample", "x", "--guidance-scale", "4"], 'use --guidance, as in "cfg(4)"'),
        (["sweep", "x", "--scale", "4"], "use --scales"),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_every_answer_is_an_option_and_no_name_of_ours_is_taken() -> None:
    known = {option.name.replace("_", "-") for command in COMMANDS.values() for option in fields(command)}
    assert {re.split("[:,]", instead)[0] for answers in NAMES_ELSEWHERE.values() for instead in answers} <= known
