"""``fairlead doctor``: an answer a question, exit code 1 if one is FAIL, 2 if it cannot be asked."""

import json
from pathlib import Path

import pytest

from fairlead.cli import main
from fairlead.data.digits import load_digits
from tests.measure.test_doctor import QUESTIONS, settings
from tests.train.tiny import tiny_config, trained


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("healthy") / "run"
    trained(tiny_config(**settings()), out, data=load_digits())
    return out


def asked(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = main(["doctor", *arguments])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    return code, lines


def test_a_healthy_model_passes_with_exit_code_0(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "findings.json"
    code, lines = asked(capsys, [str(healthy), "--guidance", "cfg(2)", "--steps", "5", "--json", str(out)])
    assert code == 0
    assert [line.split(":")[0] for line in lines] == [f"PASS  {question}" for question in QUESTIONS]
    stored = json.loads(out.read_text())
    assert [finding["question"] for finding in stored] == QUESTIONS
    assert stored[3]["numbers"]["rows_a_sample"] == 10


def test_a_guidance_that_does_nothing_fails_with_exit_code_1(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = asked(capsys, [str(healthy), "--guidance", "cfg(1)", "--steps", "5"])
    assert code == 1
    assert [line.split(":")[0] for line in lines if not line.startswith("PASS")] == ["FAIL  guidance"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--guidance", "cgf(4)"], "unknown guidance 'cgf'; did you mean 'cfg'?"),
        (["--grid", "even"], "unknown grid 'even'"),
        (["--sampler", "dddim", "--guidance", "cfg(2)"], "unknown sampler 'dddim'; did you mean 'ddim'?"),
        (["--cond", "sevn", "--guidance", "cfg(2)"], "unknown class 'sevn'"),
        (["--steps", "0"], "steps 0"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--weights", "best"], "unknown weights 'best'"),
    ],
)
def test_bad_input(extra: list[str], message: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["doctor", str(tiny_run), *extra]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fairlead: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
