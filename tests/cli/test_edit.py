"""``fairlead edit``: what it writes and prints is what ``fl.edit`` gives; bad input is one line and leaves nothing."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.cli import main

FIRST = ["--images", "digits@test", "--n", "2", "--cond", "three", "--steps", "3"]


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ([], {}),
        (
            ["--method", "negative", "--source", "seven", "one", "--guidance", "cfg(2)"],
            {"method": "negative", "source": ["seven", "one"], "guidance": "cfg(2)"},
        ),
    ],
)
def test_what_it_writes(
    more: list[str], options: dict, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["edit", str(tiny_run), *FIRST, *more, "--out", str(out)]) == 0
    found = fl.edit(tiny_run, "digits@test", "three", n=2, steps=3, **options)
    assert capsys.readouterr().out == f"{found}; {out / 'grid.png'}\n"
    assert found.images is not None
    for i, image in enumerate(found.images):
        with Image.open(out / f"{i:05d}.png") as written:
            assert list(written.getdata()) == image[0].flatten().tolist()


def test_a_mask_from_a_file(tiny_run: Path, tmp_path: Path) -> None:
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[4:] = 255
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    out = tmp_path / "out"
    assert main(["edit", str(tiny_run), *FIRST, "--mask", str(tmp_path / "mask.png"), "--out", str(out)]) == 0
    before = fl.load_data("digits", "test").images[:2]
    for i, image in enumerate(before):
        with Image.open(out / f"{i:05d}.png") as written:
            assert list(written.getdata())[:32] == image[0, :4].flatten().tolist()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strength", "1.2"], "strength: expected a number above 0"),
        (["--mask", "nowhere.png"], "mask nowhere.png: cannot be read"),
        (["--method", "inversion", "--resample", "2"], "resample: method 'inversion' does not read it"),
        (["--method", "swap"], "unknown method 'swap'"),
        (["--images", "nowhere"], "no file or folder 'nowhere'"),
        (["--source", "one"], "source: method 'sdedit' does not read it"),
        (["--inverted", "nowhere"], "inversion: no file 'nowhere'"),
    ],
)
def test_what_is_wrong_is_one_line(
    more: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = FIRST[2:] if "--images" in more else FIRST
    assert main(["edit", str(tiny_run), *first, *more, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main(["edit", str(tiny_run), "--cond", "three", "--out", "out"]) == 2
    assert "--images: expected images to edit" in capsys.readouterr().err
