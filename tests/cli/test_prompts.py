"""sweep and tune by prompts alone, of a pipeline and of a run: CLIP by hand, what the page shows, bad input."""

import math
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fairlead as fl
from fairlead.cli import main
from fairlead.core import registry
from fairlead.core.errors import UsageError
from fairlead.measure.comparison import text_score
from fairlead.measure.extractors import Extractor, TextFeatures, extractor
from fairlead.sample.run import Plan
from fairlead.tune.answers import question_of, read_answers
from fairlead.tune.setting import Setting
from fairlead.tune.sweep_folder import SweepFolder
from tests.measure.test_extractors import CLIP
from tests.measure.tiny_clip import tiny_clip
from tests.pipelines import made

PROMPTS = ["a red square", "a green square", "blue"]
N = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, a CLIP, a file of prompts, a folder of real images."""
    place = tmp_path_factory.mktemp("prompts")
    made.sd(network=made.unet(sample_size=8)).save_pretrained(place / "pipe")
    tiny_clip(place / "clip", CLIP)
    (place / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    noise = torch.randint(0, 256, (60, 12, 14, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (place / "real").mkdir()
    for i, image in enumerate(noise):
        Image.fromarray(image.numpy()).save(place / "real" / f"{i:02}.png")
    return place


def command(verb: str, place: Path, *more: str, model: str = "pipe") -> list[str]:
    return [verb, str(place / model), "--clip", f"clip:{place / 'clip'}", "--steps", "2", *more]


@pytest.fixture(scope="module")
def sweep(place: Path) -> Path:
    out = place / "sweep"
    given = ["--prompts", str(place / "prompts.txt"), "--scales", "1", "2", "6", "--n", str(N), "--keep-images"]
    assert main([*command("sweep", place, *given), "--out", str(out)]) == 0
    return out


def test_a_sweep_measures_what_clip_says_of_its_images(sweep: Path, place: Path) -> None:
    folder, clip = SweepFolder(sweep), extractor(f"clip:{place / 'clip'}", device="cpu")
    asked = [PROMPTS[i % 3] for i in range(N)]
    about, points = folder.read()
    assert (about["classes"], about["prompts"]) == (PROMPTS, PROMPTS * 4)
    for point in points:
        images = load_file(sweep / "settings" / folder.key(point.setting) / "images.safetensors")["images"]
        by_hand = text_score(clip.features(images), asked, clip)
        assert point.score.metrics["cosine"].value == pytest.approx(by_hand.cosine.value, abs=1e-9)
        assert set(point.score.metrics) == {"cosine", "diversity", "saturation"}
    assert folder.reference is None
    run = fl.sample(str(place / "pipe"), asked, guidance="cfg(6)", seeds=range(N), steps=2)
    assert run.images is not None
    assert torch.equal(images, run.images)
    change, each = points[2].differences or {}, []
    for point in (points[2], points[0]):
        each.append(folder.samples(folder.key(point.setting)).values["cosine"])
    paired = each[0] - each[1]
    within = sum(4 * float(paired[i::3].var()) for i in range(3))
    assert change["cosine"].value == pytest.approx(float(paired.mean()), abs=1e-12)
    assert change["cosine"].error == pytest.approx(math.sqrt(within) / N, abs=1e-12)


def test_the_page_has_a_row_of_pictures_for_each_prompt_and_says_the_interval(sweep: Path) -> None:
    page = (sweep / "report.html").read_text()
    assert "The same noise under each setting, prompt by prompt" in page
    assert "no real images" in page
    assert "Held-out real images have" not in page
    _, points = SweepFolder(sweep).read()
    best = fl.report(sweep).choice.point
    assert best is not None
    if best.differences is not None:
        change = best.differences["cosine"]
        low = abs(change.value) - 1.959964 * change.error
        assert f"95 % interval {low:.3g} to" in page
        assert "paired over prompts and seeds" in page
    pages = import_module("fairlead.report.prompt_page")
    drawn: list[Any] = []

    def note(*given: Any) -> bytes:
        drawn.append(given)
        return b"\x89PNG\r\n\x1a\n" + bytes(20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "image_grid", note)
        pages.prompt_pictures(points, ["a", "b", "c"], points, SweepFolder(sweep).read()[0])
    ((images, rows, heads),) = drawn
    assert rows == PROMPTS
    assert [head.split()[0] for head in heads] == ["a", "b", "c"]
    for column, point in enumerate(points):
        assert torch.equal(images[:, column], point.examples[:3])


def test_conditions_of_a_text_model_are_prompts_and_the_same_file_goes_on(
    sweep: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (sweep / "sweep.jsonl").read_bytes()
    monkeypatch.setattr(Plan, "frames", lambda *_: pytest.fail("images would be sampled"))
    rest = ["--scales", "1", "2", "6", "--n", str(N), "--out", str(sweep)]
    assert main([*command("sweep", place, *rest), "--cond", *PROMPTS]) == 0
    assert (sweep / "sweep.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main([*command("sweep", place, *rest), "--cond", *PROMPTS[::-1]]) == 2
    assert "holds a sweep that was measured in another way (prompts: [" in capsys.readouterr().err


def test_distance_stands_against_the_cosine_where_both_are_measured(place: Path, sweep: Path) -> None:
    out = place / "far"
    given = ["--prompts", str(place / "prompts.txt"), "--features", "random", "--data", str(place / "real")]
    assert main([*command("sweep", place, *given), "--scales", "1", "6", "--n", str(N), "--out", str(out)]) == 0
    folder = SweepFolder(out)
    assert folder.reference is not None
    assert (folder.reference.n, folder.reference.d) == (54, 64)  # a tenth is held out
    for point in folder.read()[1]:
        assert point.score.protocol.features.startswith("random:")
        assert point.score.metrics["distance_debiased"].value > 0
        same = SweepFolder(sweep).samples(SweepFolder(sweep).key(point.setting)).values["cosine"]
        assert torch.equal(folder.samples(folder.key(point.setting)).values["cosine"], same)
    change = folder.compare(
        Setting(str(place / "pipe"), "cfg(6)", "ddim", 2), Setting(str(place / "pipe"), "cfg(1)", "ddim", 2)
    )
    assert change["distance_debiased"].paired
    page = (out / "report.html").read_text()
    assert "Debiased distance against CLIP cosine" in page
    assert "Held-out real images have a debiased distance of" in page


TUNE = ["--budget", "60", "--report", str(N)]


@pytest.fixture(scope="module")
def tuned(place: Path) -> Path:
    out = place / "tuned"
    assert main([*command("tune", place, "--prompts", str(place / "prompts.txt"), *TUNE), "--out", str(out)]) == 0
    return out


def test_the_search_is_for_the_cosine_where_there_are_no_real_images(tuned: Path, place: Path) -> None:
    (answer,) = read_answers(tuned / "tuned.json")
    assert answer["objective"] == "cosine"
    assert answer["best"]["low"] <= answer["best"]["value"] <= answer["best"]["high"]
    assert "on the same 3 prompts and seeds" in answer["notes"][-1]
    assert read_answers(place / "pipe" / "tuned.json")[0]["guidance"] == answer["guidance"]
    shown = [row["metrics"]["cosine"][0] for row in answer["settings"]]
    assert len(shown) >= 5
    page = (tuned / "report" / "report.html").read_text()
    assert "It was chosen on the seeds of the search" in page
    assert "prompt by prompt" in page
    _, points = SweepFolder(tuned / "report").read()
    assert {point.score.protocol.seeds for point in points} == {f"1000000..{1000000 + N - 1}"}


def test_distance_and_cosine_are_objective_or_constraint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--prompts", str(place / "prompts.txt"), "--features", "random", "--data", str(place / "real"), *TUNE]
    far = [*command("tune", place, *given), "--report", "0", "--out", str(place / "both")]
    assert main([*far, "--constraint", "cosine >= -1"]) == 0
    assert main([*far, "--objective", "cosine", "--constraint", "distance_debiased <= 1000"]) == 0
    answers = read_answers(place / "both" / "tuned.json")
    assert [answer["objective"] for answer in answers] == ["cosine", "distance_debiased"]
    for answer, rule in zip(answers, ("distance_debiased <= 1000", "cosine >= -1"), strict=True):
        assert f"those with {rule}; surely so: {rule}" in answer["why"]
        assert {"cosine", "distance_debiased", "saturation"} == set(answer["settings"][0]["metrics"])
    assert len({answer["key"] for answer in answers}) == 2
    assert re.search(r"cosine of cfg\(\{scale\}\) with .*, 3 prompts #[0-9a-f]{12}, ddim", question_of(answers[0]))
    capsys.readouterr()
    assert main([*far, "--constraint", "cosine >= 0.99"]) == 2
    assert re.search(r"no setting of 'cfg\(\{scale\}\)' satisfies cosine >= 0.99; nearest is", capsys.readouterr().err)


def test_a_run_of_our_own_is_measured_by_prompts_too(place: Path) -> None:
    run = ["train", "--recipe", "scenes", "--data", "scenes(n=200)", "--text-read", "1", "--text-sketch", "1"]
    run += ["--steps", "1", "--channels", "8", "--batch-size", "4", "--out", str(place / "run")]
    assert main(run) == 0
    given = ["--prompts", str(place / "red.csv"), "--scales", "1", "3", "--n", "8", "--out", str(place / "own")]
    (place / "red.csv").write_text('prompt\n"a red seven"\n"a small green one, on white"\n')
    assert main(command("sweep", place, *given, model="run")) == 0
    about, points = SweepFolder(place / "own").read()
    assert about["classes"] == ["a red seven", "a small green one, on white"]
    run_images = fl.sample(str(place / "run"), about["classes"] * 4, guidance="cfg(3)", seeds=range(8), steps=2).images
    assert run_images is not None
    assert torch.equal(points[1].examples, run_images[[0, 1, 2, 3, 4, 5, 6, 7]])


def test_in_python_prompts_may_be_a_list(sweep: Path, place: Path) -> None:
    given: dict[str, Any] = {"scales": [1, 2, 6], "n": N, "steps": 2, "clip": f"clip:{place / 'clip'}"}
    found = fl.sweep(str(place / "pipe"), sweep, prompts=[f" {prompt}\n" for prompt in PROMPTS], **given)
    assert found is not None
    assert [point.score.metrics for point in found.points] == [p.score.metrics for p in SweepFolder(sweep).read()[1]]
    bad: list[Any] = [([], "empty list"), (["a", 3], "expected prompts as text"), (["a", " "], "prompts as text")]
    for wrong, message in bad:
        with pytest.raises(UsageError, match=message):
            fl.sweep(str(place / "pipe"), place / "wrong", prompts=wrong, **given)
        with pytest.raises(UsageError, match=message):
            fl.tune(str(place / "pipe"), place / "wrong", prompts=wrong)


def test_registered_features_that_embed_text_read_the_prompts(
    place: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the mean colour of an image and the colours that prompts name."""
    colours = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

    def read(texts: Sequence[str]) -> TextFeatures:
        named = [next(colours[word] for word in text.split() if word in colours) for text in texts]
        return TextFeatures(torch.tensor(named), 0, "colours")

    def hue(argument: str, data: object, device: object) -> Extractor:
        return Extractor("hue", "hue@0", 3, lambda images: images.float().mean(dim=(2, 3)), texts=read)

    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in registry.GROUPS})
    fl.register("hue", hue, kind="extractor")
    given: dict[str, Any] = {"scales": [6], "n": N, "steps": 2, "prompts": place / "prompts.txt"}
    found = fl.sweep(str(place / "pipe"), place / "hue", features="hue", **given)
    assert found is not None
    (point,), folder = found.points, SweepFolder(sweep)
    images = load_file(sweep / "settings" / folder.key(point.setting) / "images.safetensors")["images"]
    means = images.double().mean(dim=(2, 3))
    own = (means / means.norm(dim=1, keepdim=True))[torch.arange(N), torch.arange(N) % 3]
    assert point.score.metrics["cosine"].value == pytest.approx(float(own.mean()), abs=1e-6)
    assert point.score.protocol.text == "colours, hue@0"


BAD = [
    ("sweep", ["--prompts", "EMPTY"], "the file holds no prompt; write one per line"),
    ("sweep", ["--prompts", "nowhere.txt"], "cannot be read (no such file or directory)"),
    ("sweep", ["--prompts", "PROMPTS", "--cond", "blue"], "prompts and conditions are both given, 'blue' first"),
    ("sweep", ["--prompts", "PROMPTS", "--n", "3"], "n = 3 images are too few to score; expected at least 4"),
    ("sweep", ["--prompts", "PROMPTS", "--features", "dinov4"], "unknown extractor 'dinov4'; did you mean 'dinov2'?"),
    ("sweep", ["--prompts", "PROMPTS", "--clip", "random"], "features 'random' embed no text"),
    ("sweep", ["--prompts", "PROMPTS", "--data", "nowhere"], "unknown data 'nowhere'"),
    ("sweep", [], "clip reads prompts, and none are given"),
    ("tune", ["--prompts", "EMPTY"], "the file holds no prompt; write one per line"),
    ("tune", ["--prompts", "PROMPTS", "--clip", "random"], "features 'random' embed no text"),
    ("tune", ["--prompts", "PROMPTS", "--objective", "accuracy"], "prompts alone are given, and no judge is trained"),
    ("tune", ["--prompts", "PROMPTS", "--objective", "distance_debiased"], "it needs real images; pass data"),
    (
        "tune",
        ["--prompts", "PROMPTS", "--constraint", "accuracy >= 1"],
        "known: cosine, saturation, rows, rows_per_step",
    ),
    ("tune", [], "clip reads prompts, and none are given"),
]


@pytest.mark.parametrize(("verb", "given", "message"), BAD, ids=[f"{verb} {' '.join(given)}" for verb, given, _ in BAD])
def test_bad_input_is_one_line_before_anything_is_sampled(
    verb: str,
    given: list[str],
    message: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Plan, "frames", lambda *_: pytest.fail("images would be sampled"))
    (tmp_path / "EMPTY").write_text("\n \n")
    names = {"PROMPTS": str(place / "prompts.txt"), "EMPTY": str(tmp_path / "EMPTY")}
    words = command(verb, place, *(names.get(word, word) for word in given))
    if "--clip" in given:
        del words[2:4]
    assert main([*words, "--out", str(tmp_path / "o")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("fairlead: ")
    assert message in line
    assert not (tmp_path / "o" / "sweep.json").exists()


def test_prompts_for_a_model_of_classes_are_refused(
    tiny_run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--prompts", str(place / "prompts.txt"), "--clip", f"clip:{place / 'clip'}", "--out", str(tmp_path / "o")]
    for verb in ("sweep", "tune"):
        capsys.readouterr()
        assert main([verb, str(tiny_run), *asked]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line == (
            "fairlead: prompts: this model is conditioned on label, not on text; leave them out, its classes need none"
        )
        assert not (tmp_path / "o").exists()
    assert main(["tune", str(tiny_run), "--objective", "cosine", "--out", str(tmp_path / "o")]) == 2
    assert "the cosine needs prompts, pass a file of them" in capsys.readouterr().err


def test_features_are_those_that_are_named_also_beside_a_judge(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = import_module("fairlead.measure.judge")
    monkeypatch.setattr(
        judge, "recipe_for", lambda data, role: judge.ClassifierRecipe(seed=len(role), steps=2, width=4)
    )
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "o"
    given = ["--features", "random", "--scales", "1", "2", "--n", "30", "--steps", "1", "--out", str(out)]
    assert main(["sweep", str(tiny_run), *given]) == 0
    for point in SweepFolder(out).read()[1]:
        assert point.score.protocol.features == extractor("random").name
        assert "accuracy" in point.score.metrics
    assert SweepFolder(out).reference is not None
