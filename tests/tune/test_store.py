"""The files of a sweep: what is stored is read back; what is foreign, damaged, earlier or cannot be written is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.score import Floor
from fairlead.tune.setting import Images, Setting
from fairlead.tune.sweep_folder import SweepFolder
from tests.tune.made import evaluator, files, floor

SHARED = {"n": 30, "seed": 0, "conds": []}
SETTINGS = {
    key: Setting("runs/a", guidance) for key, guidance in (("k0", "cfg(0)"), ("k1", "cfg(1)"), ("k2", "cfg(2)"))
}


def started(path: Path, **changes: Any) -> SweepFolder:
    folder = SweepFolder(path)
    given: dict[str, Any] = {
        "shared": SHARED,
        "measured_with": {"judge": "j"},
        "models": {"runs/a": {"weights_hash": "w", "step": 7}},
        "settings": SETTINGS,
        "classes": ("zero", "one", "two"),
        "prompts": (),
        "reference": evaluator().moments,
        "floor": floor(),
        "command": "fairlead sweep",
    }
    folder.open(**{**given, **changes})
    return folder


def images(seed: int, n: int = 30) -> Images:
    draw = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=draw)
    return Images(pictures, torch.rand(n, generator=draw, dtype=torch.float64), 40 * n, 1.5)


def measure(folder: SweepFolder, key: str, judge: Evaluator | None = None, **options: Any) -> Any:
    made = images(int(key[1:]))
    labels = torch.arange(30) % 3
    score = evaluator().score(made.images, labels, None, range(30), saturation=made.saturation)
    return score, folder.add(key, score, made, made.images[:3], **options)


def test_what_is_stored_is_read_back_in_the_order_of_the_settings(tmp_path: Path) -> None:
    folder = started(tmp_path / "s")
    scores = {key: measure(folder, key)[0] for key in ("k2", "k1", "k0")}
    about, points = SweepFolder(tmp_path / "s").read()
    assert [point.setting for point in points] == list(SETTINGS.values())
    assert [point.score.metrics for point in points] == [scores[key].metrics for key in SETTINGS]
    assert [(point.rows_per_image, point.ms_per_image) for point in points] == [(40, 50)] * 3
    assert all(torch.equal(p.examples, images(i).images[:3]) for i, p in enumerate(points))
    assert about["shared"] == SHARED
    assert Floor.from_dict(about["floor"]) == folder.floor == floor()


def test_differences_are_those_of_the_scores_whatever_was_measured_first(tmp_path: Path) -> None:
    folder = started(tmp_path)
    first = measure(folder, "k2")
    assert first[1].baseline is None  # it is not measured yet
    scores = {"k2": first[0], **{key: measure(folder, key)[0] for key in ("k0", "k1")}}
    _, points = folder.read()
    assert [point.baseline for point in points] == [SETTINGS["k1"], None, SETTINGS["k1"]]
    for point, key in ((points[0], "k0"), (points[2], "k2")):
        assert point.differences == scores[key].compare(scores["k1"])
    assert folder.compare(SETTINGS["k2"], SETTINGS["k0"]) == scores["k2"].compare(scores["k0"])
    assert folder.compare(SETTINGS["k2"], SETTINGS["k0"])["saturation"].paired


def test_a_new_baseline_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    folder = started(tmp_path, settings={key: SETTINGS[key] for key in ("k0", "k2")})
    scores = {key: measure(folder, key)[0] for key in ("k0", "k2")}
    assert [point.baseline for point in folder.read()[1]] == [None, SETTINGS["k0"]]
    started(tmp_path, command="fairlead sweep more")
    scores["k1"] = measure(folder, "k1")[0]
    about, points = folder.read()
    assert [point.baseline for point in points] == [SETTINGS["k1"], None, SETTINGS["k1"]]
    assert points[0].differences == scores["k0"].compare(scores["k1"])
    assert about["commands"] == ["fairlead sweep", "fairlead sweep more"]


def test_batches_are_joined_and_dropped_once_measured(tmp_path: Path) -> None:
    folder = started(tmp_path)
    parts = [images(5, 16), images(6, 14)]
    for index, part in enumerate(parts):
        assert not folder.has_batch("k1", index)
        folder.add_batch("k1", index, part)
        assert folder.has_batch("k1", index)
    whole = folder.batches("k1", 2)
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.saturation, torch.cat([part.saturation for part in parts]))
    assert (whole.rows, whole.seconds) == (1200, 3.0)
    measure(folder, "k1")
    assert files(tmp_path / "settings") == ["k1/samples.safetensors"]
    measure(folder, "k2", keep_images=True)
    assert files(tmp_path / "settings/k2") == ["images.safetensors", "samples.safetensors"]


def test_half_a_file_is_no_batch_and_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.add_batch("k1", 0, images(1))
    path = tmp_path / "settings" / "k1" / "batch-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert not folder.has_batch("k1", 0)
    (tmp_path / "settings" / "k1" / ".batch-0001.safetensors.x7").write_bytes(b"half")
    (tmp_path / ".sweep.json.x7").write_bytes(b"half")
    (tmp_path / ".precious.x7").write_bytes(b"keep")
    started(tmp_path)
    assert files(tmp_path, ".*") == [".precious.x7"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": {**SHARED, "n": 60}}, "n: 30 there, 60 now"),
        ({"shared": {**SHARED, "conds": ("one",), "seed": 1}}, "seed: 0 there, 1 now; conds: [] there, ['one'] now"),
        ({"measured_with": {"judge": "k"}}, "judge: 'j' there, 'k' now"),
        ({"models": {"runs/a": {"weights_hash": "v", "step": 9}}}, "name the step, e.g. runs/a@step7"),
        ({"settings": {"k9": SETTINGS["k1"]}}, "what 'cfg(1)' names is not what it was"),
    ],
)
def test_another_question_is_refused_and_changes_nothing(changes: Any, message: str, tmp_path: Path) -> None:
    started(tmp_path)
    before = (tmp_path / "sweep.json").read_text()
    with pytest.raises(UsageError) as caught:
        started(tmp_path, **changes)
    assert message in str(caught.value)
    assert (tmp_path / "sweep.json").read_text() == before
    if "shared" in changes:
        with pytest.raises(UsageError):
            SweepFolder(tmp_path).check(changes["shared"])


def test_folders_that_hold_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no sweep"):
        SweepFolder(tmp_path).read()
    SweepFolder(tmp_path).check(SHARED)
    folder = started(tmp_path / "s")
    with pytest.raises(UsageError, match="holds no measured setting yet"):
        folder.read()
    measure(folder, "k1")
    with pytest.raises(UsageError, match=r"cfg\(2\).* is not measured"):
        folder.compare(SETTINGS["k1"], SETTINGS["k2"])
    (tmp_path / "s" / "sweep.jsonl").write_text('{"guidance": "cfg(1)"}\n')
    with pytest.raises(UsageError, match="is damaged"):
        folder.read()


@pytest.mark.parametrize("name", ["floor", "settings", "classes", "commands", "models", "shared", "measured_with"])
def test_a_partial_or_foreign_description_is_damaged(name: str, tmp_path: Path) -> None:
    folder = started(tmp_path)
    measure(folder, "k1")
    whole = json.loads((tmp_path / "sweep.json").read_text())
    without = {key: value for key, value in whole.items() if key != name}
    for text in (json.dumps(without), json.dumps({**whole, name: 3}), "{}", "[]"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UsageError, match="is damaged"):
            folder.read()


def test_a_number_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    folder = started(tmp_path)
    measure(folder, "k1")
    for name in ("sweep.json", "sweep.jsonl"):
        text = (tmp_path / name).read_text()
        for changed in (text.replace('"n": 30', '"n": 31'), "[" * 100_000, text.replace("cfg(1)", "cfg(9)"), "\x00"):
            assert changed != text
            (tmp_path / name).write_text(changed)
            with pytest.raises(UsageError, match="is damaged"):
                folder.read()
        (tmp_path / name).write_text(text)
    _, (point,) = folder.read()
    assert point.guidance == "cfg(1)"


def test_files_without_a_seal_are_those_of_the_first_version(tmp_path: Path) -> None:
    folder = started(tmp_path)
    measure(folder, "k1")
    for name in ("sweep.json", "sweep.jsonl"):
        about = json.loads((tmp_path / name).read_text())
        del about["seal"]
        (tmp_path / name).write_text(json.dumps(about) + "\n")
    _, (point,) = folder.read()
    assert point.guidance == "cfg(1)"


def test_a_sweep_of_an_earlier_version_is_named_as_such(tmp_path: Path) -> None:
    earlier = {"model": {}, "classes": [], "settings": {"n": 500}, "floor": {}, "command": "fairlead sweep runs/a"}
    (tmp_path / "sweep.json").write_text(json.dumps(earlier))
    (tmp_path / "sweep.jsonl").write_text('{"guidance": "cfg(1)"}\n')
    for use in (SweepFolder(tmp_path).read, lambda: SweepFolder(tmp_path).check(SHARED)):
        with pytest.raises(UsageError, match=r"earlier version of fairlead.*another folder: fairlead sweep runs/a"):
            use()


def test_a_full_disk_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path)
    measure(folder, "k1")
    write = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        write(self, text[:-20], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device; what was measured before is kept"):
        measure(folder, "k2")
    monkeypatch.undo()
    assert [point.guidance for point in folder.read()[1]] == ["cfg(1)"]
    measure(folder, "k2")
    assert [point.guidance for point in folder.read()[1]] == ["cfg(1)", "cfg(2)"]
