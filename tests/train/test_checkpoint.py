"""Checkpoints: whole or not at all, and every wrong path refused in one line."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.core.strict_json import sealed
from fairlead.train import checkpoint as module
from fairlead.train.checkpoint import FORMAT, find_checkpoint, prune, save_checkpoint, steps_of
from tests.train.tiny import same_bits, tensors_of, tiny_config, trained

CONFIG = tiny_config(steps=3, drop=0)
ABOUT = json.loads(json.dumps({
    "fairlead": "0", "torch": "2", "net": CONFIG.net, "schedule": VPCosine().config(), "objective": "v",
    "precision": "fp32", "parameters": 9,
    "data": {
        "name": "d", "split": "train", "n": 5, "fingerprint": "f", "shape": [1, 8, 8],
        "classes": [str(i) for i in range(10)],
    },
    "train": CONFIG.to_json(),
}))  # fmt: skip


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), value), "conv": torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last)}


def bytes_under(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a whole checkpoint at step 3 of a run."""
    parts = {"ema": weights(), "raw": weights(), "training": {"0.step": torch.tensor(3.0)}}
    return save_checkpoint(tmp_path / "run", 3, ABOUT, parts)


def test_what_is_saved_is_what_is_read(tmp_path):
    parts = {"ema": weights(1.0), "raw": weights(2.0), "training": {"0.step": torch.tensor(5.0)}}
    folder = save_checkpoint(tmp_path / "run", 12, ABOUT, parts)
    found = find_checkpoint(tmp_path / "run")
    assert (found.folder, found.step) == (folder, 12)
    assert found.about == {"format": FORMAT, **ABOUT, "step": 12, "files": found.about["files"]}
    for part, tensors in parts.items():
        assert same_bits(found.tensors(part), tensors)
        digest = hashlib.sha256((folder / f"{part}.safetensors").read_bytes()).hexdigest()
        assert found.about["files"][part] == digest[:16]
    assert sorted(path.name for path in folder.iterdir()) == [
        "ema.safetensors", "model.json", "raw.safetensors", "training.safetensors",
    ]  # fmt: skip


def test_a_step_is_found_by_run_by_number_and_by_folder(tmp_path):
    run = tmp_path / "run"
    for step in (2, 10, 1_000_000):
        save_checkpoint(run, step, ABOUT, {"ema": weights(step)})
    assert steps_of(run) == [2, 10, 1_000_000]
    specs = {run: 1_000_000, f"{run}@step10": 10, f"{run}@10": 10, f"{run}@step-10": 10, run / "step-000002": 2}
    for spec, step in specs.items():
        assert find_checkpoint(spec).step == step
        assert find_checkpoint(spec).tensors("ema")["w"][0] == step


def test_prune_keeps_the_last_and_the_snapshots(tmp_path):
    for step in (2, 3, 4, 5, 6, 7):
        save_checkpoint(tmp_path, step, ABOUT, {"ema": weights()})
    prune(tmp_path, keep=7, snapshot_every=3)
    assert steps_of(tmp_path) == [3, 6, 7]
    prune(tmp_path, keep=7, snapshot_every=0)
    assert steps_of(tmp_path) == [7]


def test_what_prune_cannot_remove_stays_whole_and_goes_at_the_next_save(tmp_path, monkeypatch):
    """Step 4 has just been saved: a full disk or a missing permission must not end the run there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for step in (2, 3, 4):
        save_checkpoint(tmp_path, step, ABOUT, {"ema": weights(), "raw": weights()})
    before = bytes_under(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        patch.setattr(module, "replacing", refuse)
        prune(tmp_path, keep=4, snapshot_every=2)
    assert bytes_under(tmp_path) == before

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", refuse)
        prune(tmp_path, keep=4, snapshot_every=2)
    assert steps_of(tmp_path) == [2, 4]

    save_checkpoint(tmp_path, 5, ABOUT, {"ema": weights(), "raw": weights()})
    prune(tmp_path, keep=5, snapshot_every=2)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors")} == {
        "step-000002/ema.safetensors", "step-000004/ema.safetensors",
        "step-000005/ema.safetensors", "step-000005/raw.safetensors",
    }  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 3


def full_disk_at(call: int, monkeypatch) -> None:
    """The given call of save_file writes half of its bytes and fails as a full disk does."""
    calls = []

    def save(tensors, path):
        calls.append(path)
        save_file(tensors, path)
        if len(calls) == call:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", save)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_disk_that_fills_up_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch, call):
    config = tiny_config(checkpoint_every=3)
    trained(config, tmp_path / "run", until=3)
    before = bytes_under(tmp_path)
    with monkeypatch.context() as patch:
        full_disk_at(call, patch)
        message = (
            "cannot write checkpoint .*step-000006: .*No space left on device; the last whole checkpoint is step 3; "
        )
        with pytest.raises(UsageError, match=message + "free some space and use --resume"):
            trained(config, tmp_path / "run", resume=True)
    assert bytes_under(tmp_path) == before
    trained(config, tmp_path / "run", resume=True)
    trained(config, tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))


def test_a_disk_full_from_the_start_says_that_nothing_was_written(tmp_path, monkeypatch):
    full_disk_at(1, monkeypatch)
    with pytest.raises(UsageError, match="device; there is no whole checkpoint yet; free some space and start again"):
        trained(tiny_config(), tmp_path / "run")
    assert bytes_under(tmp_path) == {}


def test_a_disk_full_after_a_snapshot_does_not_advise_to_resume(tmp_path, monkeypatch):
    full_disk_at(2, monkeypatch)
    with pytest.raises(UsageError, match=r"step-000006: .*; there is no whole checkpoint yet; free"):
        trained(tiny_config(snapshot_every=4), tmp_path / "run")
    assert steps_of(tmp_path / "run") == [4]


def test_where_a_folder_cannot_be_made_the_reason_is_given(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write checkpoint .*run/step-000003: .*(Not a directory|File exists)"):
        save_checkpoint(tmp_path / "run", 3, ABOUT, {"ema": weights()})


def test_a_failure_between_the_two_renames_puts_the_old_one_back(saved, monkeypatch):
    before, rename = bytes_under(saved), Path.rename

    def fail(path, target):
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(UsageError, match="Input/output error; the last whole checkpoint is step 3"):
            save_checkpoint(saved.parent, 3, ABOUT, {"ema": weights(9.0)})
    assert bytes_under(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["step-000003"]


def test_the_leftovers_of_a_killed_process_are_ignored_and_cleaned(saved):
    run = saved.parent
    for leftover in (".step-000004.partial", ".step-000003.replaced"):
        shutil.copytree(saved, run / leftover)
    (run / ".step-000004.partial" / "ema.safetensors").write_bytes(b"half")
    assert steps_of(run) == [3]
    assert find_checkpoint(run).folder == saved
    save_checkpoint(run, 5, ABOUT, {"ema": weights()})
    assert sorted(path.name for path in run.iterdir()) == ["step-000003", "step-000005"]


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no checkpoint '.*nothing': the path does not exist; train one with"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"no checkpoint '.*nothing': the path does not exist"):
        find_checkpoint(f"{tmp_path}/nothing@step3")


@pytest.mark.parametrize("name", ["model.pt", "weights.safetensors"])
def test_a_single_file_is_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(
        UsageError, match=r"is a single file: .* pickled ones \(.pt, .pth, .ckpt\) are never loaded; pass"
    ):
        find_checkpoint(tmp_path / name)


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "photos" / "model.safetensors")
    (tmp_path / "photos" / "step-000005").mkdir()
    with pytest.raises(UsageError, match=r"'.*photos' holds no checkpoint of fairlead \(no step-\*/model.json\)"):
        find_checkpoint(tmp_path / "photos")


@pytest.mark.parametrize("at", ["step4", "4", "last", "step"])
def test_a_step_that_is_not_there_lists_those_that_are(saved, at):
    save_checkpoint(saved.parent, 8, ABOUT, {"ema": weights()})
    with pytest.raises(UsageError, match=f"has no checkpoint '{at}'; it has steps 3, 8"):
        find_checkpoint(f"{saved.parent}@{at}")


def test_a_step_of_a_step_is_refused(saved):
    with pytest.raises(UsageError, match="is one checkpoint already, 'step3' cannot select a step of it"):
        find_checkpoint(f"{saved}@step3")


def rewrite(folder: Path, **changes: object) -> None:
    about = json.loads((folder / "model.json").read_text())
    about.update(changes)
    about = {key: value for key, value in about.items() if value is not None}
    (folder / "model.json").write_text(json.dumps(sealed(about)))


@pytest.mark.parametrize(
    "key",
    [
        "format", "step", "files", "net", "schedule", "objective", "data", "train", "fairlead", "torch", "precision",
        "parameters",
    ],
)  # fmt: skip
def test_a_description_without_a_key_names_it(saved, key):
    rewrite(saved, **{key: None})
    with pytest.raises(UsageError, match=f"model.json is not a whole description by fairlead .*'{key}'"):
        find_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"raw": "0"}}, "'ema'"),
        ({"data": {**ABOUT["data"], "classes": None}}, "'classes' is None"),
        ({"data": {"name": "d", "split": "s", "n": 1, "fingerprint": "f", "shape": [1]}}, "'classes'"),
        ({"data": {**ABOUT["data"], "n": "many"}}, "'n' is 'many'"),
        ({"train": {"steps": 3}}, "'drop'"),
        ({"train": {"drop": 0.1}}, "'steps'"),
        ({"step": "three"}, "'step' is 'three'"),
    ],
)
def test_a_description_with_a_hole_inside_names_it(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(UsageError, match=f"model.json is not a whole description by fairlead .*{message}"):
        find_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 1', '{"model_type": "unet"}'])
def test_a_description_that_is_none_is_refused(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(UsageError, match=r"model.json is not a whole description by fairlead"):
        find_checkpoint(saved)


def test_another_format_is_refused_before_its_keys_are_missed(saved):
    rewrite(saved, format=FORMAT + 1, net=None)
    message = f"has format {FORMAT + 1}, this version reads {FORMAT}; install the version that wrote it"
    with pytest.raises(UsageError, match=message):
        find_checkpoint(saved)


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        del data[len(data) // 2 :]
    elif kind == "flipped":
        data[-3] ^= 0x10
    elif kind == "foreign":
        data = bytearray(b"PK\x03\x04 not safetensors")
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["truncated", "flipped", "foreign"])
def test_one_wrong_bit_in_the_weights_is_found(saved, kind):
    damage(saved / "ema.safetensors", kind)
    with pytest.raises(UsageError, match=r"checkpoint file .*ema.safetensors is damaged: its bytes are not those"):
        find_checkpoint(saved).tensors("ema")
    assert torch.equal(find_checkpoint(saved).tensors("raw")["w"], torch.ones(3))


def test_weights_whose_hash_was_forged_are_still_parsed_safely(saved):
    damage(saved / "ema.safetensors", "foreign")
    rewrite(saved, files={"ema": module.file_hash(saved / "ema.safetensors")})
    with pytest.raises(UsageError, match=r"checkpoint file .*ema.safetensors cannot be read"):
        find_checkpoint(saved).tensors("ema")


def test_missing_weights_are_named(saved):
    (saved / "ema.safetensors").unlink()
    with pytest.raises(UsageError, match=r"checkpoint file .*ema.safetensors cannot be read .*No such file"):
        find_checkpoint(saved).tensors("ema")


def test_weights_are_saved_in_the_layout_of_the_format(saved):
    """safetensors holds rows-first bytes; channels-last weights come back equal."""
    assert load_file(saved / "ema.safetensors")["conv"].is_contiguous()
