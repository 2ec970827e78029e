"""``fairlead measure``: two folders in, a table, sentences and a protocol out."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.data.digits import load_digits
from fairlead.measure.judge import ClassifierRecipe
from tests.measure.test_extractors import CLIP
from tests.measure.tiny_clip import tiny_clip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/ and fake/ with a sub-folder a class, flat/ without."""
    root = tmp_path_factory.mktemp("folders")
    for name, split, count in (("real", "train", 240), ("fake", "test", 100)):
        data = load_digits(split)
        for i in range(count):
            for folder in (root / name / data.classes[int(data.labels[i])], root / f"{name}-flat"):
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(data.images[i, 0].numpy()).save(folder / f"{i:04d}.png")
    return root


def test_two_folders_with_classes(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        import_module("fairlead.measure.judge"),
        "recipe_for",
        lambda data, role: ClassifierRecipe(seed=1, steps=60, width=8),
    )
    command = ["measure", str(folders / "real"), str(folders / "fake"), "--features", "random"]
    assert main([*command, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "numbers.json")]) == 0
    printed = capsys.readouterr().out
    assert "100 fake to 240 real" in printed
    assert "100 real to 120 real" in printed
    for line in (
        "raw Fréchet distance",
        "debiased Fréchet distance",
        "precision",
        "vendi",
        "accuracy",
        "seven",
        "mind: only 100 images",
    ):
        assert line in printed
    assert "FID" not in printed
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == json.loads((tmp_path / "out" / "measure.json").read_text())
    assert numbers["protocol"]["features"] == "random:cnn-d64-s60303@ca43d64070c7/bicubic-64-v1"
    assert (numbers["protocol"]["real_n"], numbers["protocol"]["fake_n"], numbers["protocol"]["block"]) == (
        240,
        100,
        100,
    )
    assert set(numbers["metrics"]["floor"]) == set(numbers["metrics"]["fake"])
    assert len(numbers["classes"]) == 10
    page = (tmp_path / "out" / "measure.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert all(sentence.replace("'", "&#x27;") in page for sentence in numbers["findings"])


def test_the_features_of_a_second_run_are_read(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairlead.measure.extractors import Extractor

    command = ["measure", str(folders / "real-flat"), str(folders / "fake-flat"), "--features", "random"]
    assert main(command) == 0
    first = capsys.readouterr().out

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Extractor, "features", never)
    assert main(command) == 0
    assert capsys.readouterr().out == first


def test_prompts_by_clip(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tiny_clip(tmp_path / "clip-tiny", CLIP)
    files = sorted(path.name for path in (folders / "fake-flat").iterdir())
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"file": name, "prompt": ("red", "blue")[i % 2]}) for i, name in enumerate(files)]
    prompts.write_text("\n".join(lines))
    command = ["measure", str(folders / "real-flat"), str(folders / "fake-flat"), "--features", f"clip:{clip}"]
    assert main([*command, "--prompts", str(prompts), "--metrics", "cmmd", "kid"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the cosine itself, not times 2.5 or 100" in printed
    assert "CLIP cosine to other prompts" in printed
    assert "cmmd" in printed


@pytest.mark.parametrize(
    ("real", "fake", "extra", "message"),
    [
        ("none", "fake", [], "REAL"),
        ("real", "none", [], "FAKE"),
        ("real", "empty", [], "no images in it"),
        ("real", "one", [], "only 1 image"),
        ("real", "broken", [], "broken/0001.png"),
        ("real", "sizes", [], "pass --resize 8"),
        ("real", "fake", ["--features", "vgg"], "unknown extractor 'vgg'"),
        ("real", "fake", ["--features", "dinov2:/no/such"], "is no folder and no hub name"),
        ("real", "fake", ["--metrics", "presicion"], "unknown metric 'presicion'; did you mean 'precision'?"),
        ("real", "fake", ["--metrics", "cmmd", "--features", "random"], "pass --features clip"),
        ("real", "fake", ["--k", "0"], "k: expected at least 1"),
        ("real", "fake", ["--resize", "0"], "expected at least 1 pixel"),
        ("real", "fake", ["--clip", "clip"], "clip is for prompts"),
        ("real", "fake", ["--prompts", "/no/such.csv"], "cannot be read"),
        ("real", "fake", ["--device", "tpu9"], "device 'tpu9' cannot be used"),
    ],
)
def test_bad_input(
    real: str,
    fake: str,
    extra: list[str],
    message: str,
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("empty", "one", "broken", "sizes"):
        (tmp_path / name).mkdir()
    for name, sizes in (("one", [8]), ("broken", [8, 8]), ("sizes", [8, 8, 9])):
        for i, size in enumerate(sizes):
            Image.fromarray(torch.zeros(size, size).byte().numpy()).save(tmp_path / name / f"{i:04d}.png")
    (tmp_path / "broken" / "0001.png").write_bytes(b"no picture")
    paths = [str(folders / name if (folders / name).is_dir() else tmp_path / name) for name in (real, fake)]
    capsys.readouterr()
    assert main(["measure", *paths, *extra]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fairlead: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_the_commands_of_the_page_run(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "measure.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 5
    monkeypatch.chdir(tmp_path)
    for name in ("real", "fake"):
        Path(name).symlink_to(folders / f"{name}-flat")
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "measured" / "measure.html").is_file()
    assert json.loads((tmp_path / "recall.json").read_text())["metrics"]["floor"].keys() == {
        "distance",
        "distance_debiased",
        "recall",
    }
