"""Images are decoded once, into a mapped file; kills, threads and changed files change nothing of what is read."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.decode import decode_images, decoded_image
from fairlead.data.hub import load_data
from fairlead.data.own import chunks, preparation
from fairlead.data.own.preparation import prepared_images
from fairlead.data.own.rows import FileRows

N = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "_CHUNK", 3 * 5 * 4 * 7)  # seven rows in colour, 21 grey ones
    return tmp_path / "cache"


def files(folder: Path, n: int = N, colour: int = N) -> list[Path]:
    """Images 4x5, from number ``colour`` on in colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        levels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        paths.append(folder / f"{i:03d}.png")
        Image.fromarray(levels if i >= colour else levels[..., 0]).save(paths[-1])
    return paths


def prepare(paths: list[Path], threads: int = 1, **options):
    rows = FileRows(paths, paths[0].parent, "set")
    return prepared_images(rows, ["question"], None, "centre", "set", threads=threads, **options)


@pytest.mark.parametrize("colour", [N, 0, 1, 30])
@pytest.mark.parametrize("threads", [1, 4])
def test_the_store_holds_what_decoding_all_at_once_gives(colour: int, threads: int, tmp_path: Path) -> None:
    paths = files(tmp_path / "set", colour=colour)
    found = prepare(paths, threads)
    assert torch.equal(found.images, decode_images([(str(path), None) for path in paths], None, "set"))
    assert (found.kept.tolist(), found.broken) == (list(range(N)), ())
    assert found.coloured == N - colour
    assert [path.name for path in found.folder.iterdir() if path.suffix in (".part", ".journal")] == []


def test_a_second_start_decodes_nothing_and_a_changed_file_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files(tmp_path / "set")
    first = prepare(paths).images.clone()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "decoded_image", None)  # would be called
        assert torch.equal(prepare(paths).images, first)
    about = paths[3].stat()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "other.png")
    other = (tmp_path / "other.png").read_bytes()
    paths[3].write_bytes(other)
    os.utime(paths[3], ns=(about.st_atime_ns, about.st_mtime_ns))  # as unpacking an archive would leave it
    changed = prepare(paths)
    assert not changed.images[3].any()
    assert torch.equal(changed.images[4:], first[4:])
    assert len(list(changed.folder.glob("*.pixels"))) == 1


def test_a_store_that_was_tampered_with_is_made_anew(tmp_path: Path) -> None:
    paths = files(tmp_path / "set")
    found = prepare(paths)
    (pixels,) = found.folder.glob("*.pixels")
    whole = pixels.read_bytes()
    for damage in (whole[:-1], b"\0" + whole[1:], b""):
        time.sleep(0.01)
        pixels.write_bytes(damage)
        assert prepare(paths).images.numpy().tobytes() == whole
    (found.folder / "index.json").write_text("{")
    assert prepare(paths).images.numpy().tobytes() == whole


def test_what_is_written_to_the_images_stays_in_this_process(tmp_path: Path) -> None:
    paths = files(tmp_path / "set")
    prepare(paths).images.zero_()
    assert prepare(paths).images.any()


@pytest.mark.parametrize("cut", ["journal torn", "pixels lost", "nothing"])
def test_a_stopped_preparation_goes_on_with_what_is_whole(cut, tmp_path, monkeypatch):
    paths = files(tmp_path / "set", colour=0)
    whole = decode_images([(str(path), None) for path in paths], None, "set")
    calls: list[str] = []
    real = decoded_image

    def counted(source, *rest):
        calls.append(Path(source).name)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return real(source, *rest)

    monkeypatch.setattr(chunks, "decoded_image", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(paths)
    (journal,) = (tmp_path / "cache").rglob("*.journal")
    (pixels,) = (tmp_path / "cache").rglob("*.pixels.part")
    done = len([line for line in journal.read_text().split("\n")[1:] if line])
    assert done >= 2
    if cut == "journal torn":
        journal.write_text(journal.read_text()[:-10])
    if cut == "pixels lost":  # by a power cut: the journal says more than the disk has
        with open(pixels, "r+b") as handle:
            handle.seek(0)
            handle.write(bytes(7 * 60))
    calls.clear()

    def noted(source, *rest):
        calls.append(source)
        return real(source, *rest)

    monkeypatch.setattr(chunks, "decoded_image", noted)
    assert torch.equal(prepare(paths).images, whole)
    lost = {"journal torn": 1, "pixels lost": 1, "nothing": 0}[cut]
    assert len(calls) == N - 7 * (done - lost)


def test_a_kill_between_the_last_chunk_and_the_index_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    paths = files(tmp_path / "set", colour=0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(paths)
    monkeypatch.setattr(chunks, "decoded_image", None)
    assert torch.equal(prepare(paths).images, decode_images([(str(path), None) for path in paths], None, "set"))


def test_every_broken_image_is_named_and_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = files(tmp_path / "set", colour=0)
    (tmp_path / "set" / "007.png").write_bytes(b"")
    (tmp_path / "set" / "031.png").write_bytes(paths[31].read_bytes()[:60])
    with pytest.raises(
        UsageError, match=r"cannot read 2 of 36 images: \S*007\.png \(.*\); \S*031\.png \(.*--skip-broken"
    ):
        load_data(str(tmp_path / "set"))
    data = load_data(str(tmp_path / "set"), skip_broken=True)
    kept = [path for path in paths if path.stem not in ("007", "031")]
    everything = decode_images([(str(path), None) for path in kept], None, "set")
    rows = {image.numpy().tobytes() for image in everything}
    assert len(data) == 34
    assert {image.numpy().tobytes() for image in data.images} <= rows
    (note,) = [note for note in data.notes if note.startswith("left out, broken")]
    assert "2 of 36 images" in note
    assert "34 are used" in note
    assert all(name in note for name in ("007.png", "031.png"))
    with pytest.raises(UsageError, match="cannot read 2 of 36"):  # a store without them is no set without them
        load_data(str(tmp_path / "set"))
    command = [
        "train",
        "--data",
        str(tmp_path / "set"),
        "--size",
        "8",
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--channels",
        "8",
    ]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "031.png" in capsys.readouterr().err
    assert main([*command, "--skip-broken", "--out", str(tmp_path / "run")]) == 0
    assert "left out, broken: 2 of 36 images" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/step-000001/model.json").read_text())["train"]["data"]["skip_broken"] is True


def test_many_broken_images_are_named_in_a_file(tmp_path: Path) -> None:
    paths = files(tmp_path / "set")
    for path in paths[5:]:
        path.write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match=r"and 15 more, all named in (\S+)/broken\.txt") as error:
        prepare(paths)
    assert len(str(error.value)) < 4000
    (listed,) = (tmp_path / "cache").rglob("broken.txt")
    assert [line.split("\t")[0] for line in listed.read_text().splitlines()] == [str(path) for path in paths[5:]]
    for path in paths[:5]:
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="cannot read 40 of 40 images"):
        prepare(paths, skip_broken=True)


def test_random_crops_of_a_set_with_broken_images(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full((8, 8 + i), 5 * i, np.uint8)).save(folder / f"{i:02d}.png")
    for i in (0, 11):
        (folder / f"{i:02d}.png").write_bytes(b"")
    rows = FileRows(sorted(folder.iterdir()), folder, "set")
    found = prepared_images(rows, ["crops"], (8, 8), "random", "set", skip_broken=True)
    assert found.crops is not None
    for place, i in enumerate(found.kept.tolist()):
        assert torch.equal(found.crops.whole(place), torch.full((1, 8, 8 + i), 5 * i, dtype=torch.uint8))
        assert int(found.images[place].max()) == 5 * i


def test_without_a_writable_cache_the_images_are_read_all_the_same(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "file" / "cache"))
    paths = files(tmp_path / "set")
    assert torch.equal(prepare(paths).images, decode_images([(str(path), None) for path in paths], None, "set"))


def test_the_fingerprint_is_that_of_the_same_images_in_memory(tmp_path: Path) -> None:
    files(tmp_path / "set", colour=0)
    first, second = load_data(str(tmp_path / "set")), load_data(str(tmp_path / "set"))
    assert "fingerprint" in second.__dict__  # not worked out again
    in_memory = type(first)(first.images.clone(), first.labels, first.classes, first.name, first.split, first.flip)
    assert first.fingerprint == second.fingerprint == in_memory.fingerprint
    assert second.subset(slice(0, 5)).fingerprint == in_memory.subset(slice(0, 5)).fingerprint != first.fingerprint


CHILD = """
import sys
from pathlib import Path
from fairlead.data.hub import load_data
from fairlead.data.own import chunks, preparation
preparation._CHUNK = 420
print("ready", flush=True)
print(load_data(sys.argv[1]).fingerprint, flush=True)
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_same_images(tmp_path: Path) -> None:
    files(tmp_path / "set", 3000, colour=1500)
    rng = np.random.default_rng(1)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "set")], stdout=subprocess.PIPE, text=True)

    for _ in range(12):
        child = start()
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0, 1.5)))
        child.kill()
        child.wait()
    both = [start() for _ in range(2)]  # of two at once one prepares, the other waits
    found = {child.communicate()[0].split()[1] for child in both}
    assert found == {load_data(str(tmp_path / "set")).fingerprint}
    os.environ["FAIRLEAD_CACHE"] = str(tmp_path / "fresh")
    assert found == {load_data(str(tmp_path / "set")).fingerprint}
