"""The commands end to end on a tiny run: what they write, and that it says the truth about itself."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.cli import main
from fairlead.data.digits import load_digits
from fairlead.data.images import stratified_order
from fairlead.measure.score import Floor
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import pictured


def test_train_leaves_a_last_checkpoint_snapshots_and_a_preview(tiny_run: Path) -> None:
    steps = {path.name: sorted(part.stem for part in path.glob("*.safetensors")) for path in tiny_run.glob("step-*")}
    whole = ["ema", "raw", "training"]
    assert steps == {"step-000008": ["ema"], "step-000016": ["ema"], "step-000024": whole}
    with Image.open(tiny_run / "previews" / "step-000024.png") as picture:
        picture.verify()


def test_sample_writes_images_that_repeat_from_their_own_metadata(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["sample", str(tiny_run), "--cond", "seven", "3", "--n", "2", "--guidance", "cfg(2)", "--steps", "4"]
    assert main([*command, "--seed", "5", "--out", str(out)]) == 0
    files = sorted(out.glob("0*.png"))
    made = [json.loads(Image.open(path).text["fairlead"]) for path in files]  # type: ignore[attr-defined]
    assert [(entry["cond"], entry["seed"]) for entry in made] == [
        ("seven", 5),
        ("seven", 6),
        ("three", 5),
        ("three", 6),
    ]
    for path, entry in zip(files, made, strict=True):
        again = fl.sample(
            fl.load(entry["model"]["checkpoint"]),
            [entry["cond"]],
            guidance=entry["guidance"],
            seeds=[entry["seed"]],
            sampler=entry["sampler"],
            steps=entry["steps"],
            grid=entry["grid"],
        )
        assert again.images is not None
        stored = torch.tensor(list(Image.open(path).getdata())).reshape(8, 8)
        assert int((stored - again.images[0, 0].int()).abs().max()) <= 1  # another batch size: rounding only
    assert json.loads((out / "run.json").read_text())["rows"] == 4 * 4 * 2


def test_all_conditions_and_no_condition(tiny_run: Path, tmp_path: Path) -> None:
    assert (
        main(["sample", str(tiny_run), "--cond", "all", "--n", "1", "--steps", "2", "--out", str(tmp_path / "a")]) == 0
    )
    assert main(["sample", str(tiny_run), "--n", "3", "--steps", "2", "--out", str(tmp_path / "b")]) == 0
    classes = fl.load(tiny_run).classes
    assert json.loads((tmp_path / "a" / "run.json").read_text())["conds"] == list(classes)
    assert json.loads((tmp_path / "b" / "run.json").read_text())["conds"] == [None, None, None]


@pytest.fixture(scope="module")
def swept(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "s"
    command = ["sweep", str(tiny_run), "--scales", "0", "1", "2", "--n", "60", "--steps", "3", "--out", str(out)]
    assert main(command) == 0
    return out


def test_sweep_stores_scores_with_protocol_and_costs_by_the_formula(swept: Path) -> None:
    about, points = SweepFolder(swept).read()
    assert [point.guidance for point in points] == ["cfg(0)", "cfg(1)", "cfg(2)"]
    assert [point.rows_per_image for point in points] == [3, 3, 6]
    assert len({point.score.protocol.hash for point in points}) == 1
    protocol = points[0].score.protocol
    assert (protocol.n, protocol.block, protocol.seeds) == (60, 60, "0..59")
    assert Floor.from_dict(about["floor"]).n == 60


def test_differences_to_scale_one_are_those_of_the_scores(swept: Path) -> None:
    _, points = SweepFolder(swept).read()
    baseline = points[1]
    assert [point.differences is None for point in points] == [False, True, False]
    for point in (points[0], points[2]):
        assert point.differences is not None
        for name, change in point.differences.items():
            expected = point.score.metrics[name].value - baseline.score.metrics[name].value
            assert change.value == pytest.approx(expected, abs=1e-9), name
        assert point.differences["confidence"].paired
        assert not point.differences["distance"].paired  # 60 samples for 64 features
    page = (swept / "report.html").read_text()
    assert "difference to cfg(1), same seeds" in page
    assert "* not paired" in page


def test_a_sweep_of_one_class_is_compared_with_that_class(tiny_run: Path, tmp_path: Path) -> None:
    from fairlead.data.digits import load_digits

    command = ["sweep", str(tiny_run), "--cond", "7", "--scales", "1", "2", "--n", "5", "--steps", "2"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    about, points = SweepFolder(tmp_path / "s").read()
    data = load_digits("train")
    sevens = data.subset(data.labels == 7)
    protocol = points[0].score.protocol
    assert (protocol.reference_n, protocol.reference) == (len(sevens), f"digits/train#{sevens.fingerprint}")
    assert Floor.from_dict(about["floor"]).metrics["accuracy"].n == int((load_digits("test").labels == 7).sum())
    assert (tmp_path / "s" / "report.html").is_file()


def test_scale_zero_ignores_the_condition(swept: Path) -> None:
    about, points = SweepFolder(swept).read()
    examples = next(point.examples for point in points if point.guidance == "cfg(0)")
    labels = load_digits("train").labels
    picked = pictured(labels[stratified_order(labels, seed=0)[:60]], 40)
    [checkpoint] = about["models"]
    unconditional = fl.sample(fl.load(checkpoint), None, seeds=picked.tolist(), steps=3).images
    assert unconditional is not None
    assert int((unconditional.int() - examples.int()).abs().max()) <= 1


def test_report_is_rebuilt_from_the_folder_alone(swept: Path) -> None:
    first = (swept / "report.html").read_text()
    (swept / "report.html").unlink()
    assert main(["report", str(swept)]) == 0
    assert (swept / "report.html").read_text() == first
    assert "cfg(2)" in first
    assert "http" not in first.replace("http://www.w3.org", "")


def test_the_same_command_measures_nothing_again_and_a_wider_one_adds(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    command = ["sweep", str(tiny_run), "--n", "40", "--steps", "2", "--out", str(out), "--scales", "1"]
    assert main(command) == 0
    assert "1 setting; to do: 40 images, about 80 network rows" in capsys.readouterr().out
    first = (out / "sweep.jsonl").read_text()
    assert main(command) == 0
    assert "1 setting, 1 of them measured; nothing to do" in capsys.readouterr().out
    assert (out / "sweep.jsonl").read_text() == first
    wider = [*command, "2", "--sampler", "ddim", "euler", "--budget", "80 images"]
    wider[1:2] = [str(tiny_run), f"{tiny_run}@step16"]
    assert main(wider) == 0
    printed = capsys.readouterr().out
    assert "8 settings, 1 of them measured; to do: 280 images, about 880 network rows" in printed
    assert "within 80 images: 80 images, about 240 network rows, without 5 of the settings" in printed
    assert "5 of 8 settings are left (200 images, about 640 network rows); the same command continues" in printed
    assert main(wider[:-2]) == 0
    about, points = SweepFolder(out).read()
    assert [(p.setting.checkpoint == str(tiny_run), p.setting.sampler, p.guidance) for p in points] == [
        (own, sampler, guidance)
        for own in (True, False)
        for sampler in ("ddim", "euler")
        for guidance in ("cfg(1)", "cfg(2)")
    ]
    assert len(about["models"]) == 2
    assert main([*command, "--seed", "1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err


def test_info_describes_the_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_run)]) == 0
    printed = capsys.readouterr().out
    assert "step 24 of 24" in printed
    assert "8, 16, 24" in printed
    assert "zero, one, two" in printed
    assert main(["info"]) == 0
    assert "dpmpp_2m_sde" in capsys.readouterr().out


def test_classes_by_name_and_by_index_are_the_same_images(tiny_run: Path) -> None:
    model = fl.load(tiny_run)
    by_name = fl.sample(model, ["seven", "zero"], steps=2, guidance="cfg(2, negative='one')")
    by_index = fl.sample(model, [7, "0"], steps=2, guidance=fl.cfg(2, negative=1))
    assert torch.equal(by_name.x0, by_index.x0)
