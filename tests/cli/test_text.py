"""A model that reads text, from the command line: prompts work wherever class names do, and what it cannot read is one
line."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from fairlead.cli import main
from fairlead.data.hub import load_data
from fairlead.models.load import load

DATA = ["--data", "scenes(n=100)", "--steps", "3", "--channels", "8", "--batch-size", "16"]
READ = ["--text-read", "2", "--text-sketch", "2"]
PROMPT = "a small red seven at the top left on a white background"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    assert main(["train", "--recipe", "scenes", *DATA, *READ, "--out", str(folder / "text")]) == 0
    conditions = ["--conditions", "text", "label", "ink", "--drops", "ink", "0.3", "--drop-all", "0.1"]
    assert main(["train", "--recipe", "scenes", *DATA, *READ, *conditions, "--out", str(folder / "three")]) == 0
    shown = ["--conditions", "image", "label", "--image", "superres(factor=2)"]
    assert main(["train", "--recipe", "scenes", *DATA, *shown, "--out", str(folder / "shown")]) == 0
    return folder


def conds(folder: Path) -> list[str | None]:
    found: list[str | None] = json.loads((folder / "run.json").read_text())["conds"]
    return found


def test_a_prompt_works_where_a_class_name_does(runs, tmp_path):
    out = tmp_path / "images"
    assert (
        main(["sample", str(runs / "text"), "--cond", PROMPT, "7", "--n", "2", "--steps", "2", "--out", str(out)]) == 0
    )
    assert conds(out) == [PROMPT, PROMPT, "7", "7"]
    with Image.open(out / "00000.png") as image:
        assert json.loads(image.text["fairlead"])["cond"] == PROMPT  # type: ignore[attr-defined]
        assert image.size == (28, 28)
    why = ["explain", str(runs / "text"), "--cond", PROMPT, "--guidance", 'cfg(3, negative="a blue one")']
    assert main([*why, "--steps", "2", "--out", str(tmp_path / "why")]) == 0


def test_the_way_between_two_prompts_has_no_classes_to_recognise(runs, tmp_path, capsys, monkeypatch):
    class Judging:
        """Trained judges take a minute: this one has classes, and features."""

        class judge:
            data = load_data("scenes(n=100)")

        class extractor:
            @staticmethod
            def features(images):
                return images.flatten(1)

        @staticmethod
        def described():
            return {}

    monkeypatch.setattr(import_module("fairlead.report.interpolations"), "evaluator_for", lambda *_, **__: Judging)
    way = ["interpolate", str(runs / "text"), "--cond", PROMPT, "a blue one", "--n", "1", "--frames", "3"]
    assert main([*way, "--steps", "2", "--out", str(tmp_path / "way")]) == 0
    found = json.loads((tmp_path / "way" / "interpolation.json").read_text())
    assert found["ends"] == [PROMPT, "a blue one"]
    assert found["recognised"] == {}
    assert "seen as" not in capsys.readouterr().out
    one_null = ["--cond", "label=seven; text=a red seven", "label=seven", "--out", str(tmp_path / "half")]
    assert main(["interpolate", str(runs / "three"), *one_null]) == 2
    assert "'text' is null in one of" in capsys.readouterr().err


@pytest.mark.parametrize("condition", ["image", "ink"])
def test_a_preview_of_a_model_without_text_or_label(tmp_path, condition):
    preview = ["--conditions", condition, "--preview-every", "3", "--out", str(tmp_path / "run")]
    assert main(["train", "--recipe", "scenes", *DATA, *preview]) == 0
    assert (tmp_path / "run" / "previews" / "step-000003.png").exists()


def test_doctor_and_sweep_say_that_they_have_no_images_to_show(runs, tmp_path, capsys):
    for command in (["doctor"], ["sweep", "--out", str(tmp_path / "sweep")]):
        assert main([command[0], str(runs / "shown"), *command[1:]]) == 2
        assert "only sample, interpolate and explain take such conditions" in capsys.readouterr().err


def test_several_conditions_are_named_and_each_is_guided_by_itself(runs, tmp_path):
    spec = "label=seven; text=a red digit; ink=red"
    guidance = 'cfg(4, drop="text") + cfg(2, drop=["ink", "label"])'
    sample = ["sample", str(runs / "three"), "--cond", spec, "--guidance", guidance, "--n", "2", "--steps", "2"]
    assert main([*sample, "--out", str(tmp_path / "images")]) == 0
    summary = json.loads((tmp_path / "images" / "run.json").read_text())
    assert summary["conds"] == [spec, spec]
    assert summary["rows"] == 2 * 2 * 3


def test_a_small_image_is_a_condition(runs, tmp_path):
    Image.new("RGB", (14, 14), "red").save(tmp_path / "small.png")
    spec = f"image={tmp_path / 'small.png'}; label=seven"
    sample = ["sample", str(runs / "shown"), "--cond", spec, "--n", "1", "--steps", "2", "--out", str(tmp_path / "big")]
    assert main(sample) == 0
    condition = load(runs / "shown").encode([spec])
    assert condition.keep["image"].tolist() == [True]
    assert condition.values["image"][0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_info_and_doctor_say_what_it_is_told(runs, capsys):
    assert main(["info", str(runs / "three")]) == 0
    said = capsys.readouterr().out
    assert (
        "label, dropped with probability 0.1; text, dropped with probability 0.1; ink, dropped with probability 0.3"
        in said
    )
    assert "all at once with probability 0.1; text by words (" in said
    assert main(["doctor", str(runs / "text"), "--guidance", "cfg(3)", "--steps", "2"]) in (0, 1)
    assert "another prompt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("text", ["--cond", "a mauve seven"], "unknown word in the prompt 'a mauve seven': 'mauve'"),
        ("text", ["--cond", "sieben, größer"], "unknown word in the prompt 'sieben, größer': 'sieben'"),
        ("text", ["--cond", "seven " * 10_000], "has 10000 words, this text encoder reads"),
        ("text", ["--cond", "@portrait"], "unknown word in the prompt"),
        ("text", ["--cond", "?!"], "prompt '?!' has no word that could be read"),
        ("text", ["--cond", "all"], "--cond all: this model has no classes; give one, e.g. --cond"),
        ("text", ["--cond", PROMPT, "--guidance", 'cfg(3, drop="ink")'], "drops 'ink', the model has text"),
        ("text", ["--cond", PROMPT, "--guidance", "icg(2)"], "draws random classes, and this model has no classes"),
        ("three", ["--cond", "label=seven; pose=left"], "unknown condition in 'label=seven; pose=left': 'pose'"),
        ("three", ["--cond", "ink=mauve"], "unknown ink 'mauve'"),
        ("three", ["--cond", "label=seven; a red digit"], "expected every part as NAME=..., separated by ';'"),
        ("shown", ["--cond", "image=nowhere.png"], "nowhere.png"),
    ],
)
def test_what_it_cannot_read_is_one_line(runs, tmp_path, capsys, run, arguments, message):
    assert main(["sample", str(runs / run), *arguments, "--steps", "2", "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "x").exists()


def test_an_empty_prompt_is_no_condition(runs, tmp_path):
    """The same image to the bit as without any."""
    for name, cond in (("empty", ["--cond", ""]), ("none", [])):
        sample = ["sample", str(runs / "text"), *cond, "--n", "1", "--steps", "2", "--out", str(tmp_path / name)]
        assert main(sample) == 0
    pixels = [Image.open(tmp_path / name / "00000.png").tobytes() for name in ("empty", "none")]
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "digits", "--conditions", "text"], "data 'digits' has no captions to train text on"),
        (["--recipe", "digits", "--conditions", "ink"], "unknown condition of data 'digits' 'ink'"),
        (
            ["--recipe", "digits", "--text", "words"],
            "--text: the network is not conditioned on text; add text",
        ),
        (["--recipe", "digits", "--image", "inpaint"], "--image: the network is not conditioned on an image"),
        (["--recipe", "digits", "--drops", "text", "0.1"], "unknown condition to drop 'text' (known: label)"),
        (["--recipe", "scenes", *DATA[:2], "--text", "clip"], "expected a source, clip:FOLDER"),
        (["--recipe", "scenes", *DATA[:2], "--text", "word"], "unknown text encoder 'word'; did you mean 'words'?"),
        (["--recipe", "digits", "--conditions", "image", "--image", "superres(factor=3)"], "cannot be divided by 3"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, capsys, arguments, message):
    assert main(["train", *arguments, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
