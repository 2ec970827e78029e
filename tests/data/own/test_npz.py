"""Arrays of a .npz are mapped: as they lie in the file, or unpacked in pieces; neither is read into memory whole."""

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.hub import load_data
from fairlead.data.own import npz_member
from fairlead.data.own.npz import pixels_of_member
from fairlead.data.own.npz_member import Member
from fairlead.data.own.rows import ArrayRows

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(40) % 3


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path_factory.mktemp("cache")))


def member(path: Path, name: str = "images") -> Member:
    with zipfile.ZipFile(path) as stored:
        return Member.of(path, stored, name, "images")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array", [IMAGES, np.asfortranarray(IMAGES), IMAGES.astype(">f4"), IMAGES[:, 0, 0, 0], IMAGES[:1]]
)
def test_a_member_is_the_array_mapped(save: Any, array: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", first=np.zeros(7), images=array, labels=LABELS)
    one = member(tmp_path / "a.npz")
    assert (one.shape, one.dtype) == (array.shape, array.dtype)
    assert isinstance(one.mapped(), np.memmap)
    assert np.array_equal(one.mapped(), array)
    assert one.mapped() is one.mapped()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["uint8", "float", "first"])
def test_every_layout_gives_the_same_set(save: Any, kind: str, tmp_path: Path) -> None:
    given = {"uint8": IMAGES, "float": IMAGES / 127.5 - 1, "first": IMAGES.transpose(0, 3, 1, 2)}[kind]
    save(tmp_path / "a.npz", x_train=given, y_train=LABELS)
    data = load_data(tmp_path / "a.npz")
    held_out = load_data(tmp_path / "a.npz", "test")
    assert (len(data), len(held_out), data.classes) == (36, 4, ("0", "1", "2"))
    whole = np.stack([*data.images.permute(0, 2, 3, 1).numpy(), *held_out.images.permute(0, 2, 3, 1).numpy()])
    assert {row.tobytes() for row in whole} == {row.tobytes() for row in IMAGES}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_less_memory_than_the_array_is_taken(save: Any, tmp_path: Path) -> None:
    """32 MB of floats; tracemalloc sees what numpy takes, not mapped pages."""
    images = RANDOM.integers(0, 256, (667, 64, 64, 3), dtype=np.uint8)
    save(tmp_path / "a.npz", images=(images / 127.5 - 1).astype(np.float32))
    tracemalloc.start()
    try:
        one = pixels_of_member(member(tmp_path / "a.npz"))
        rows = ArrayRows(lambda: one, tmp_path / "a.npz", "images", torch.arange(667))
        same = all(np.array_equal(rows.read(i, i + 1)[0][1], images[i]) for i in range(667))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert same
    assert peak < 8e6


def test_a_second_start_unpacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    first = load_data(tmp_path / "a.npz").fingerprint

    def never(self: Member) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(npz_member.Member, "mapped", never)
    assert load_data(tmp_path / "a.npz").fingerprint == first


def test_what_is_damaged_is_named_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"objects.npz cannot be read as a .npz of numpy \(an array of Python objects"):
        load_data(tmp_path / "objects.npz")
    np.savez_compressed(tmp_path / "torn.npz", images=RANDOM.integers(0, 256, (99, 32, 32), dtype=np.uint8))
    whole = (tmp_path / "torn.npz").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "torn.npz").write_bytes(whole[:middle] + bytes(99) + whole[middle + 99 :])
    with pytest.raises(UsageError, match=r"torn.npz, array 'images' cannot be read \(.*\)") as caught:
        load_data(tmp_path / "torn.npz")
    assert "\n" not in str(caught.value)
    np.savez(tmp_path / "range.npz", images=np.full((9, 8, 8), 3.0))
    with pytest.raises(UsageError, match="array 'images': holds numbers from 3 to 3, expected images"):
        load_data(tmp_path / "range.npz")
