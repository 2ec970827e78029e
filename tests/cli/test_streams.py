"""Standard streams as other tools treat them: readers that leave, closed and full ones; and the parser in one line."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fairlead
from fairlead.cli import main

FAIRLEAD = f"{sys.executable} -m fairlead"


def shell(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(fairlead.__file__).parents[1]), **more}
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=300)


def test_a_reader_that_leaves_is_no_error() -> None:
    done = shell(f"{FAIRLEAD} info | head -1; echo ${{PIPESTATUS[0]}}")
    first, code = done.stdout.splitlines()
    assert first.startswith(f"fairlead {fairlead.__version__}")
    assert int(code) in (0, 141)  # 0 where all fits into the pipe before head has read its line
    assert done.stderr == ""
    done = shell(f"{FAIRLEAD} info | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    done = shell(f"{FAIRLEAD} info > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("fairlead: ")
    assert "no space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_closed_streams() -> None:
    done = shell(f"{FAIRLEAD} --version >&-; {FAIRLEAD} info no-such-run 2>&-; echo $?")
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from fairlead.cli import main; code = main(['--version']); assert 'torch' not in sys.modules"
    done = shell(f'{sys.executable} -c "{code}"')
    import torch

    assert done.stdout.startswith(f"fairlead {fairlead.__version__} (torch {torch.__version__}")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "fairlead: Expected one of {demo, train,"),
        (["sampl", "x"], "fairlead: Unrecognized options: sampl, x (available subcommands: demo, train,"),
        (["info", "--hepl"], "fairlead: Unrecognized options: --hepl"),
        (["sample", "x", "--out", "o", "--stps", "3"], "did you mean --steps?"),
        (["sample", "x", "--out", "o", "--steps", "many"], "Error parsing --steps: invalid literal for int()"),
        (["sample"], "fairlead: Missing from fairlead sample:"),
        (["sample", "x", "--out", "o", "--" + "s" * 100_000], "fairlead: Unrecognized options: --sss"),
        (["sample", "x", "--out", "nu\0ll"], "fairlead: --out holds a null character"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert len(said) < 1000


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--help"]) == 0
    printed = capsys.readouterr()
    assert "Describe a checkpoint" in printed.out
    assert printed.err == ""


def test_an_error_of_the_file_system_in_a_command_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("fairlead.cli.Info.run", failing)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == (
        "fairlead: cannot open '/some/where': permission denied; check the path, its permissions and the space on its "
        "disk\n"
    )


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    code = """
import sys
class Stopped:
    def find_spec(self, name, path=None, target=None):
        if name == "fairlead.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stopped())
from fairlead.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fairlead: interrupted\n")


def test_the_system_is_described_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert main(["info", "--system"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["fairlead"] == fairlead.__version__
    assert rows["torch"].startswith(version("torch"))
    assert "OMP_WAIT_POLICY=passive" in rows["settings"]
    assert "hf_secret" not in str(rows)
    assert main(["info", "runs/x", "--system"]) == 2
    assert "leave the checkpoint" in capsys.readouterr().err
