"""What the commands say of a folder, and that nothing of it reaches the terminal as a control character."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fairlead.cli import main

ESCAPE = "\x1b[31m\u202e"


def save(folder: Path, count: int = 6, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((8, 8), 9 * i, np.uint8)).save(folder / f"{i}.png", **options)
    return folder


def train(folder: Path, out: Path) -> int:
    settings = ["--steps", "1", "--channels", "8", "--batch-size", "4"]
    return main(["train", "--data", str(folder), "--out", str(out), *settings])


def test_the_header_of_a_training_says_what_was_read_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "set" / "cat")
    save(tmp_path / "set" / ".net")
    (tmp_path / "set" / "cat" / f"{ESCAPE}.txt").write_text("")
    assert train(tmp_path / "set", tmp_path / "run") == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[1:7] == [
        "  7 files: 5 images used, 1 not in split train, 0 broken, 1 no images of the set",
        "  set: 6 images, 1 classes by folder",
        "  left out of set: cat/\\x1b[31m\\u202e.txt",
        "  left out of set, hidden: .net (6 images); rename what is data",
        "  split train: 5 images; not in it: 1 of train",
        "  held out: a fixed tenth of every class, 1 of 6 images",
    ]


@pytest.mark.parametrize("what", ["folder", "class", "file", "label", "column", "caption", "condition"])
def test_names_of_others_do_not_reach_the_terminal(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    name = f"{ESCAPE}a\nfairlead: done"
    folder = tmp_path / (name if what == "folder" else "set")
    note = PngInfo()
    note.add_itxt("fairlead", json.dumps({"cond": name if what == "condition" else "b"}))
    save(folder / (name if what == "class" else "cat"), pnginfo=note)
    if what == "file":
        (folder / "cat" / f"{name}.png").write_bytes(b"broken")
    if what in ("label", "column", "caption"):
        line = {"label": name if what == "label" else "x", name if what == "column" else "text": name}
        rows = [json.dumps({"file_name": f"cat/{i}.png", **line}) for i in range(6)]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    save(tmp_path / "real")
    assert train(folder, tmp_path / "run") in (0, 2)
    measured = str(folder / "cat") if what == "condition" else str(folder)
    assert main(["measure", str(tmp_path / "real"), measured, "--features", "random"]) in (0, 2)
    said = "".join(capfd.readouterr())
    assert said
    assert not set(said) & {"\x1b", "\u202e"}
    assert not any(line.startswith("fairlead: done") for line in said.split("\n"))


def test_a_name_in_a_checkpoint_stays_in_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "set" / "cat")
    assert train(tmp_path / "set", tmp_path / "run") == 0
    for path in (tmp_path / "run").rglob("model.json"):
        path.write_text(path.read_text().replace('"cat"', json.dumps(f"{ESCAPE}\nfairlead: done")))
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run")]) in (0, 2)
    said = "".join(capsys.readouterr())
    assert not set(said) & {"\x1b", "\u202e"}
    assert not any(line.startswith("fairlead: done") for line in said.split("\n"))


def test_a_program_is_not_started_for_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that says it is PostScript would make Pillow run the first `gs` of the path."""
    save(tmp_path / "set" / "cat")
    (tmp_path / "set" / "cat" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{} loop\n")
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{program.parent}:{path}"
    try:
        assert train(tmp_path / "set", tmp_path / "run") == 2
        assert main(["measure", str(tmp_path / "set"), str(tmp_path / "set")]) == 2
    finally:
        os.environ["PATH"] = path
    assert not (tmp_path / "started").exists()
    assert "none of PNG, JPEG" in capsys.readouterr().err
