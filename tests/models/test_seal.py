"""model.json is not believed: it carries a seal, and without one it is checked against itself and the weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import Note, UsageError
from fairlead.core.strict_json import SEAL, sealed
from fairlead.models.load import load, seal
from fairlead.train.checkpoint import FORMAT, UNSEALED, find_checkpoint, prune, steps_of
from fairlead.train.loop import Training
from tests.models.damage import no_more_memory_than
from tests.models.kinds import digits, run_of
from tests.train.tiny import same_bits, tensors_of, tiny_config, trained


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sealed")
    run_of("model", place)
    run_of("text", place)
    return place


def copied(sound: Path, tmp_path: Path, kind: str = "model") -> Path:
    return shutil.copytree(sound / kind / "step-000002", tmp_path / kind / "step-000002")


def described(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return about


def written(folder: Path, about: dict[str, Any], how: str) -> None:
    """As somebody with an editor leaves it; with a seal that fits; as version 0.1.0 wrote it."""
    if how == "resealed":
        about = sealed(about)
    elif how == "of 0.1.0":
        about = {**{key: value for key, value in about.items() if key != SEAL}, "format": UNSEALED}
    (folder / "model.json").write_text(json.dumps(about, indent=1))


def both(about: dict[str, Any], **change: Any) -> list[None]:
    """The network is described twice."""
    return [part["net"].update(change) for part in (about, about["train"])]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a name less": (lambda a: a["data"]["classes"].pop(0), "classes: 9 names, the network has embeddings of 10"),
    "a name more": (lambda a: a["data"]["classes"].append("ten"), "classes: 11 names, the network has .* of 10"),
    "equal names": (lambda a: a["data"]["classes"].__setitem__(3, "two"), "classes: 'two' is there twice"),
    "another objective": (lambda a: a.update(objective="x0"), "objective is 'x0', the training had 'v'"),
    "another schedule": (lambda a: a.update(schedule={"name": "flow", "shift": 1.0}), "name is 'flow'"),
    "its parameter": (lambda a: a["schedule"].update(s=0.5), "s is 0.5, the training had 0.008"),
    "another shape": (lambda a: a["data"].update(shape=[1, 16, 16]), r"images are \[1, 16, 16\], the network is made"),
    "another size": (lambda a: a["net"].update(size=16), "net: size is 16, the training had 8"),
    "another count": (lambda a: a.update(parameters=32_680), "says 32,680 parameters, the network has 32,681"),
    "another precision": (lambda a: a.update(precision="bf16"), "precision is 'bf16', the training had 'fp32'"),
    "another step": (lambda a: a.update(step=4), "the folder holds step 4; rename it to step-000004"),
    "other classes and embeddings": (
        lambda a: [a["data"]["classes"].pop(), both(a, classes=9)],
        r"its weights do not fit its description \(size mismatch for label.table",
    ),
    "wider": (
        lambda a: both(a, channels=10**9),
        "a network of more than 32,681 numbers",
    ),
    "deeper": (lambda a: both(a, blocks=900), "a network of more than 32,681 numbers"),
    "hidden text": (lambda a: both(a, text={"width": 10**9, "length": 10**9}), "the network reads a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("how", ["by hand", "resealed", "of 0.1.0"])
def test_a_description_that_was_changed(sound: Path, tmp_path: Path, name: str, how: str) -> None:
    folder = copied(sound, tmp_path)
    change, message = CHANGES[name]
    about = described(folder)
    change(about)
    written(folder, about, how)
    if how == "by hand":
        message = rf"model.json was changed after it was written .*fairlead info {folder} --seal"
    with warnings.catch_warnings(), no_more_memory_than(2):
        warnings.simplefilter("ignore", Note)
        with pytest.raises(UsageError, match=message) as caught:
            load(folder)
    assert "\n" not in str(caught.value)


def test_names_in_another_order_are_not_the_runs(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path)
    about = described(folder)
    about["data"]["classes"].reverse()
    written(folder, about, "by hand")
    with pytest.raises(UsageError, match="was changed after it was written"):
        load(folder.parent)


def test_spaces_and_the_order_of_keys_are_no_change(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path)
    about = described(folder)
    (folder / "model.json").write_text(json.dumps(dict(reversed(about.items())), separators=(",", ":")))
    assert load(folder).classes == load(sound / "model").classes


def test_a_seal_cannot_be_left_out(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path)
    about = described(folder)
    assert about["format"] == FORMAT
    del about[SEAL]
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match=r"not a whole description by fairlead .*'seal' is missing"):
        load(folder)


@pytest.mark.parametrize("part", ["ema", "raw"])
def test_weights_of_another_run_or_part(sound: Path, tmp_path: Path, part: str) -> None:
    folder = copied(sound, tmp_path)
    other = sound / ("text" if part == "ema" else "model") / "step-000002" / "raw.safetensors"
    shutil.copy(other, folder / "ema.safetensors")
    with pytest.raises(UsageError, match=r"ema.safetensors is damaged: its bytes are not those that were saved"):
        load(folder)


def test_a_word_less_in_the_vocabulary_moves_all_after_it(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path, "text")
    about = described(folder)
    about["train"]["text"]["vocabulary"].pop(0)
    written(folder, about, "resealed")
    with pytest.raises(UsageError, match="text: the encoder's vocabulary is 7, the network's 8"):
        load(folder)


def test_classes_are_renamed_on_purpose(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(sound, tmp_path)
    about = described(folder)
    about["data"]["classes"][7] = "sept"
    written(folder, about, "by hand")
    assert main(["info", str(folder)]) == 2
    assert f"`fairlead info {folder} --seal`" in capsys.readouterr().err
    assert main(["info", str(folder.parent), "--seal"]) == 0
    assert "six, sept, eight" in capsys.readouterr().out
    assert load(folder).classes[7] == "sept"
    about["data"]["classes"].pop()
    written(folder, about, "by hand")
    with pytest.raises(UsageError, match="9 names, the network has embeddings of 10"):
        seal(folder)
    assert main(["info", "--seal"]) == 2


def test_a_checkpoint_of_the_first_version_loads_and_one_line_says_so(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(sound, tmp_path)
    written(folder, described(folder), "of 0.1.0")
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"fairlead: checkpoint {folder} was written by version 0.1.0")
    assert said.count("\n") == 1
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    old, new = load(folder, device="cpu"), load(sound / "model", device="cpu")
    assert torch.equal(old.denoiser(x, t, old.encode([3, 4])).x0, new.denoiser(x, t, new.encode([3, 4])).x0)
    assert main(["info", str(folder), "--seal"]) == 0
    assert described(folder)["format"] == FORMAT
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_in_python_it_is_one_line_too(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path)
    written(folder, described(folder), "of 0.1.0")
    code = f"import fairlead as fl; fl.load({str(folder)!r}); fl.load({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert "was written by version 0.1.0" in done.stderr


def test_a_run_of_the_first_version_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = tiny_config(checkpoint_every=3, snapshot_every=2)
    trained(config, tmp_path / "old", until=4)
    for step in steps_of(tmp_path / "old"):
        folder = tmp_path / "old" / f"step-{step:06d}"
        written(folder, described(folder), "of 0.1.0")
    with pytest.warns(Note, match="version 0.1.0") as said:
        trained(config, tmp_path / "old", resume=True)
    assert len([one for one in said if issubclass(one.category, Note)]) == 1
    trained(config, tmp_path / "straight")
    assert same_bits(tensors_of(tmp_path / "old"), tensors_of(tmp_path / "straight"))
    assert described(tmp_path / "old" / "step-000002")["format"] == UNSEALED  # what is not known is not sealed


def test_a_snapshot_keeps_its_seal(tmp_path: Path) -> None:
    trained(tiny_config(checkpoint_every=2, snapshot_every=2), tmp_path, until=2)
    prune(tmp_path, 4, 2)
    assert find_checkpoint(tmp_path).about["files"].keys() == {"ema"}


def test_resuming_a_state_that_does_not_fit(sound: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from fairlead.train.checkpoint import file_hash

    folder = copied(sound, tmp_path)
    path = folder / "training.safetensors"
    state = {name: value.clone() for name, value in load_file(path).items()}  # those may be mapped from the file
    config = tiny_config(steps=2, data={"spec": "digits"})
    for change, message in (
        ({"999.step": torch.zeros(())}, "'999.step' belongs to no parameter"),
        ({"0.exp_avg": torch.zeros(3)}, r"'0.exp_avg' is torch.float32 \[3\]"),
        ({"x": torch.zeros(())}, "'x' belongs to no parameter"),
    ):
        save_file({**state, **change}, path)
        about = described(folder)
        about["files"]["training"] = file_hash(path)
        written(folder, about, "resealed")
        with pytest.raises(UsageError, match=f"cannot resume .*training.safetensors is damaged .*{message}"):
            Training(digits(), config, folder.parent, resume=True)


def test_a_cache_file_in_the_place_of_another_is_computed_anew(tmp_path: Path) -> None:
    from fairlead.data.tensor_cache import cached

    def made(value: float) -> torch.Tensor:
        return cached("text", [value], (2,), torch.float32, lambda: torch.full((2,), value), tmp_path)

    made(1.0), made(2.0)
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    shutil.copy(first, second)
    assert made(2.0).tolist() == [2.0, 2.0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(bytes(data))
    assert made(1.0).tolist() == [1.0, 1.0]


def test_the_scale_of_an_autoencoder_is_the_measured_one(tmp_path: Path) -> None:
    from fairlead.diffusers.autoencoder import load_autoencoder

    run = run_of("autoencoder", tmp_path)
    config = json.loads((run / "config.json").read_text())
    wide = {**config, "block_out_channels": [10**9, 10**9]}
    for change, message in (
        ({**config, "scaling_factor": 2.0}, "its scale is .* by autoencoder.json and 2.0 by config.json"),
        (wide, "cannot be loaded .*a network of more than"),
    ):
        (run / "config.json").write_text(json.dumps(change))
        with no_more_memory_than(2), pytest.raises(UsageError, match=message):
            load_autoencoder(run)
    (run / "config.json").write_text(json.dumps(config))
    about = json.loads((run / "autoencoder.json").read_text())
    (run / "autoencoder.json").write_text(json.dumps({**about, "scale": 3.0}))
    with pytest.raises(UsageError, match=r"autoencoder.json is damaged .*changed after it was written"):
        load_autoencoder(run)


def test_nothing_is_sampled_of_a_run_that_was_changed(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(sound, tmp_path)
    about = described(folder)
    about["data"]["classes"].pop(0)
    written(folder, about, "of 0.1.0")
    assert main(["sample", str(folder), "--cond", "seven", "--out", str(tmp_path / "made")]) == 2
    assert "classes: 9 names, the network has embeddings of 10" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert fl.sample(load(sound / "model"), ["seven"], steps=1).images is not None
