"""Files appear whole, with the mode of the umask, and what is durable is on the disk before it has its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fairlead.core import files
from fairlead.core.files import replacing, settle
from fairlead.diffusers.exported_pipeline import _whole
from fairlead.train.checkpoint import prune, save_checkpoint
from tests.train.test_checkpoint import ABOUT, weights


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_follow_the_umask_also_of_tensors(tmp_path: Path, umask: int) -> None:
    wanted = 0o666 & ~umask
    with replacing(tmp_path / "a.json") as partial:
        partial.write_text("{}")
    with replacing(tmp_path / "a.safetensors") as partial:
        save_file({"a": torch.zeros(2)}, partial)
    save_checkpoint(tmp_path / "run", 2, ABOUT, {"ema": weights(), "raw": weights()})
    save_checkpoint(tmp_path / "run", 4, ABOUT, {"ema": weights(), "raw": weights()})
    prune(tmp_path / "run", 4, 2)

    def write(folder: Path) -> None:
        folder.mkdir()
        save_file({"a": torch.zeros(2)}, folder / "inside.safetensors")

    _whole(tmp_path / "pipeline", write)
    found = {str(path.relative_to(tmp_path)): mode(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert len(found) == 8
    assert set(found.values()) == {wanted}, {name: oct(value) for name, value in found.items()}


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """fsync and rename, in order, by the name of the file."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def note_replace(source: Path, target: Path) -> None:
        done.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return done


def test_bytes_then_the_name_then_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = recorded(monkeypatch)
    with replacing(tmp_path / "a.json") as partial:
        partial.write_text("{}")
    assert [what for what, _ in done] == ["fsync", "rename", "fsync"]
    assert done[0][1].startswith(".a.json.")
    assert done[1:] == [("rename", "a.json"), ("fsync", tmp_path.name)]
    done.clear()
    with replacing(tmp_path / "a.png", durable=False) as partial:
        partial.write_bytes(b"")
    assert done == [("rename", "a.png")]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = recorded(monkeypatch)
    rename = Path.rename

    def note(path: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note)
    save_checkpoint(tmp_path, 3, ABOUT, {"ema": weights()})
    at = done.index(("rename", "step-000003"))
    assert {name for what, name in done[:at]} == {"ema.safetensors", "model.json", ".step-000003.partial"}
    assert done[at + 1 :] == [("fsync", tmp_path.name)]


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def fail() -> None:
        with replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before"}


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    with replacing(tmp_path / ("a" * 255)) as partial:
        partial.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_where_a_folder_cannot_be_synced_its_files_still_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "a").write_text("x")
    settle(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        settle(tmp_path)


def test_every_file_is_written_through_one_place() -> None:
    """A writer that goes by another way would have neither the mode nor the guarantee."""
    source = Path(files.__file__).parent.parent
    ways = (".write_text(", ".write_bytes(", "save_file(", ".savefig(", 'open("w', '"wb")')
    # inside a folder that is renamed; made by whoever comes first, or not; parts of a store, which its index publishes
    elsewhere = ("checkpoint.py", "hold.py", "preparation.py", "store.py")
    found = []
    for path in sorted(source.rglob("*.py")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            near = "\n".join(lines[max(0, number - 6) : number + 1])
            through = "replacing(" in near or "stream" in near or "partial /" in near or path.name in elsewhere
            if any(way in line for way in ways) and not through and not line.startswith(("from", "import")):
                found.append(f"{path.relative_to(source)}:{number + 1}: {line.strip()}")
    assert found == []
