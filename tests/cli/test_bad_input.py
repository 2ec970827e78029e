"""Wrong input: one clear line on standard error, exit code 2, nothing written, nothing lost."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairlead.cli import main

TINY = ["--channels", "8", "--batch-size", "32", "--warmup", "2"]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as exit:  # the parser's own refusals
        code = int(exit.code or 0)
    printed = capsys.readouterr()
    assert code == 2, printed
    assert "Traceback" not in printed.err
    return printed.err


SAMPLE = [
    (["--cond", "sevn"], "unknown class 'sevn' (known: zero, one"),
    (["--cond", "10"], "class index 10 is out of range: expected 0 to 9"),
    (["--cond", "-1"], "class index -1 is out of range"),
    (["--cond", "7", "--guidance", "cgf(4)"], "unknown guidance 'cgf'; did you mean 'cfg'?"),
    (["--cond", "7", "--guidance", "cfg(high)"], "'high' is not a value"),
    (["--cond", "7", "--guidance", "cfg('4')"], "expected scale to be a finite number"),
    (["--cond", "7", "--guidance", "cfg(4).during(sigma=(2, 1))"], "interval sigma=(2, 1) is empty"),
    (["--cond", "7", "--guidance", "cfg(4, negative='sevn')"], "unknown class 'sevn'"),
    (["--guidance", "cfg(4)"], "steers towards the run's condition, but none was given"),
    (["--cond", "7", "--guidance", "compose({'one': 2})"], "replaces the run's condition"),
    (["--cond", "7", "--guidance", "cfg([1, 2, 3])"], "has scales for 3 samples, the run has 2"),
    (["--cond", "7", "--sampler", "dddim"], "unknown sampler 'dddim'; did you mean 'ddim'?"),
    (["--cond", "7", "--sampler", "ddim(eta=2)"], "eta"),
    (["--cond", "7", "--grid", "even"], "unknown grid 'even'"),
    (["--cond", "7", "--steps", "0"], "steps"),
    (["--cond", "7", "--n", "0"], "expected at least 1"),
    (["--cond", "7", "--precision", "fp8"], "unknown precision 'fp8'"),
    (["--cond", "7", "--weights", "best"], "unknown weights 'best'"),
    (["--cond", "7", "--device", "tpu9"], "device 'tpu9' cannot be used"),
    (["--cond", "7", "--seed", "-1"], "seed"),
]


@pytest.mark.parametrize(("extra", "message"), SAMPLE, ids=[" ".join(extra) for extra, _ in SAMPLE])
def test_sample(
    extra: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, ["sample", str(tiny_run), "--n", "2", "--out", str(tmp_path / "o"), *extra])
    assert line.startswith("fairlead: ")
    assert line.count("\n") == 1
    assert message in line
    assert not (tmp_path / "o").exists()


TRAIN = [
    (["--data", "digitz"], "unknown data 'digitz'; did you mean 'digits'?"),
    (["--data", "/no/such/folder"], "/no/such/folder"),
    (["--recipe", "minst"], "unknown recipe 'minst'; did you mean 'mnist'?"),
    (["--net", "16x16"], "unknown network preset '16x16'"),
    (["--objective", "epsilon"], "unknown objective 'epsilon'"),
    (["--schedule", "cosine"], "unknown schedule 'cosine'; did you mean 'vp_cosine'?"),
    (["--schedule", "flow", "--objective", "eps"], "alpha is 0 at t = 1"),
    (["--conditioning", "film"], "unknown conditioning 'film'"),
    (["--drop", "1.5"], "drop: expected a number from 0 to 1"),
    (["--steps", "0"], "steps: expected at least 1"),
    (["--lr", "-1"], "lr: expected a positive number"),
    (["--net", "lesson-mnist", "--conditioning", "add"], "takes no 'conditioning'"),
    (["--channels", "-8"], "channels: expected at least 1, got -8"),
    (["--channels", "0"], "channels: expected at least 1, got 0"),
    (["--net", "lesson-mnist", "--channels", "12"], "num_channels (12) must be divisible by"),
    (["--size", "9"], "no network preset fits images of 9x9; pass --size 8x8"),
    (["--tracker", "tensorbored"], "tensorbored"),
]


@pytest.mark.parametrize(("extra", "message"), TRAIN, ids=[" ".join(extra) for extra, _ in TRAIN])
def test_train(extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, ["train", "--steps", "2", "--out", str(tmp_path / "o"), *extra])
    assert line.startswith("fairlead: ")
    assert line.count("\n") == 1
    assert message in line
    assert not list(tmp_path.glob("o/step-*"))


def test_the_help_of_train_lists_exactly_the_known_names_and_imports_no_torch() -> None:
    from fairlead.core.prediction import Objective
    from fairlead.nets.build import PRESETS
    from fairlead.nets.unet import Conditioning
    from fairlead.train.config import RECIPES, TrainPrecision, Weighting

    code = "import sys; from fairlead.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help", "all"], capture_output=True, text=True, check=True
    )
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    expected: dict[str, Iterable[str]] = {
        "recipe": RECIPES, "net": PRESETS, "objective": get_args(Objective), "weighting": get_args(Weighting),
        "precision": get_args(TrainPrecision), "conditioning": get_args(Conditioning),
    }  # fmt: skip
    for option, known in expected.items():
        described = re.split(r"--[a-z]", text.split(f" --{option} ")[-1])[0].split("(default")[0]
        listed = re.sub(r"\(.*?\)", "", described.split(" ", 1)[1].split(": ")[-1])
        assert set(re.findall(r"[\w-]+", listed)) - {"or"} == set(known), option


def test_a_number_that_is_none_is_refused_by_the_parser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--steps" in refused(capsys, ["train", "--steps", "many", "--out", str(tmp_path / "o")])
    assert "--scales" in refused(capsys, ["sweep", "run", "--scales", "1", "x", "--out", str(tmp_path / "o")])


def test_checkpoints_that_are_none(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(spec: Path | str) -> str:
        return refused(capsys, ["sample", str(spec), "--cond", "7", "--out", str(tmp_path / "o")])

    pickled = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, pickled)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_file({"a": torch.zeros(1)}, foreign / "model.safetensors")
    torn = tmp_path / "torn"
    torn.mkdir()
    source = tiny_run / "step-000024"
    (torn / "model.json").write_bytes((source / "model.json").read_bytes())
    (torn / "ema.safetensors").write_bytes((source / "ema.safetensors").read_bytes()[:-100])

    assert "does not exist" in line(tmp_path / "nothing")
    assert "pickled ones (.pt, .pth, .ckpt) are never loaded" in line(pickled)
    assert "holds no checkpoint of fairlead" in line(foreign)
    assert "is damaged" in line(torn)
    assert "it has steps 8, 16, 24" in line(f"{tiny_run}@step9")
    assert "has no raw weights" in refused(
        capsys, ["sample", f"{tiny_run}@step8", "--weights", "raw", "--cond", "7", "--out", str(tmp_path / "o")]
    )


def test_an_image_folder_with_a_broken_file_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("cats", "dogs"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), i).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "dogs" / "2.png").write_bytes(b"not a picture")
    line = refused(capsys, ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "o")])
    assert "dogs/2.png" in line
    assert line.count("\n") == 1


def test_an_existing_run_is_not_overwritten(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tiny_run / "step-000024" / "model.json").read_bytes()
    assert "already holds a run (step 24)" in refused(capsys, ["train", "--out", str(tiny_run)])
    changed = refused(capsys, ["train", "--out", str(tiny_run), "--resume", "--lr", "0.5"])
    assert "cannot resume" in changed
    assert "lr was" in changed
    assert (tiny_run / "step-000024" / "model.json").read_bytes() == before


def test_a_full_disk_while_saving_leaves_what_was_there(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    real = Image.Image.save
    saved: list[Path] = []

    def full(self: Image.Image, path: Path, **options: Any) -> None:
        if len(saved) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        saved.append(path)
        real(self, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    line = refused(capsys, ["sample", str(tiny_run), "--n", "4", "--steps", "1", "--out", str(tmp_path / "o")])
    assert "No space left on device" in line
    assert "2 of 4 are written" in line
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["00000.png", "00001.png"]


def test_ctrl_c_saves_a_whole_checkpoint_and_resume_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys, torch; torch.set_num_threads(1); from fairlead.cli import main; sys.exit(main())",
    ]
    options = ["train", "--steps", "40", "--precision", "fp32", *TINY]
    cut, whole = tmp_path / "cut", tmp_path / "whole"

    process = subprocess.Popen(
        [*command, *options, "--checkpoint-every", "2", "--out", str(cut)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(cut.glob("step-*/model.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "go on with --resume" in printed
    assert "Traceback" not in printed
    (stopped,) = cut.glob("step-*")
    assert 2 <= int(stopped.name.removeprefix("step-")) < 40

    assert main([*options, "--checkpoint-every", "40", "--out", str(cut), "--resume"]) == 0
    assert main([*options, "--checkpoint-every", "40", "--out", str(whole)]) == 0
    for part in ("ema", "raw", "training"):
        resumed, straight = (load_file(run / "step-000040" / f"{part}.safetensors") for run in (cut, whole))
        assert resumed.keys() == straight.keys()
        assert all(torch.equal(resumed[name], straight[name]) for name in resumed), part
