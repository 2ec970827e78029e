"""Hostile images and metadata files: each is refused in one line that a terminal can show, or read as what it is."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fairlead.core.errors import UsageError
from fairlead.core.printable import has_control
from fairlead.data.decode import FORMATS, decode_images
from fairlead.data.degrade import Inpaint, SuperResolution
from fairlead.data.hub import load_data
from fairlead.measure.image_sets import read_images
from tests.data.hostile import EITHER, GOOD, READ, REFUSED, SIDE, encoded, hostile_images, hostile_metadata, write_image

IMAGES = {name: (content, expected) for name, content, expected in hostile_images(0)}
METADATA = {name: (file, content, expected) for name, file, content, expected in hostile_metadata(0)}


@pytest.fixture(autouse=True)
def _no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    monkeypatch.setattr(subprocess, "Popen", started)


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """("refused", message) or ("read", what was read); any other error is one."""
    try:
        return READ, read()
    except UsageError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 1200
        return REFUSED, message


def of_class_folder(folder: Path, content: bytes) -> Any:
    for split in ("train", "test"):
        write_image(folder / split / "cat" / "0.png", content)
    return load_data(str(folder), size=SIDE)


def of_parquet(folder: Path, content: bytes) -> Any:
    image = pa.array([{"bytes": content, "path": "0.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    for split in ("train", "test"):
        parquet.write_table(pa.table({"image": image, "label": [1]}), folder / f"{split}.parquet")
    return load_data(str(folder), size=SIDE)


def of_flat_folder(folder: Path, content: bytes) -> Any:
    for name in ("0.jpg", "1.bmp"):
        write_image(folder / name, content)
    return read_images(str(folder), resize=SIDE).data


WAYS = {"class folder": of_class_folder, "parquet": of_parquet, "flat folder": of_flat_folder}


def check_image(way: str, name: str, folder: Path) -> None:
    content, expected = IMAGES[name]
    found, said = outcome(lambda: WAYS[way](folder, content))
    if expected != EITHER:
        assert found == expected, (name, said)
    if found == READ:
        # the oracle: Pillow itself, given the same formats
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            assert picture.format in (*GOOD, "MPO")
        assert said.shape[1:] == (SIDE, SIDE)
        assert said.images[0].equal(decode_images([("0", content)], SIDE, "oracle")[0])


def check_metadata(name: str, folder: Path) -> None:
    file, content, expected = METADATA[name]
    for i in range(12):
        write_image(folder / f"{i}.png", encoded("PNG"))
    (folder / file).write_bytes(content)
    found, said = outcome(lambda: load_data(str(folder)))
    if expected != EITHER:
        assert found == expected, (name, said)
    if found == READ:
        assert len(said) + len(load_data(str(folder), "test")) == 12
        assert not any(map(has_control, said.classes))


@pytest.mark.parametrize("name", ["PNG cut", "EPS that never ends", "PNG bomb", "OLE, as MIC and FPX are", "JPEG2000"])
@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_image_is_refused_in_one_line(way: str, name: str, tmp_path: Path) -> None:
    check_image(way, name, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "U+2028 in captions",
        "cut 0",
        "absolute",
        "brackets",
        "half a pair",
        "good csv",
        "open quote",
        "StyleGAN",
    ],
)
def test_hostile_metadata_are_refused_in_one_line_or_read(name: str, tmp_path: Path) -> None:
    check_metadata(name, tmp_path)


def test_image_conditions_open_the_same_formats(tmp_path: Path) -> None:
    for name in ("EPS that never ends", "PNG bomb", "nothing", "PDF"):
        path = tmp_path / "x.png"
        path.write_bytes(IMAGES[name][0])
        for kind in (Inpaint(), SuperResolution(2)):
            assert outcome(partial(kind.read, str(path), (3, SIDE, SIDE)))[0] == REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_all_hostile_images(way: str, tmp_path: Path) -> None:
    for number, name in enumerate(IMAGES):
        (tmp_path / str(number)).mkdir()
        check_image(way, name, tmp_path / str(number))


@pytest.mark.slow
def test_all_hostile_metadata(tmp_path: Path) -> None:
    assert len(IMAGES) + len(METADATA) >= 180
    for number, name in enumerate(METADATA):
        (tmp_path / str(number)).mkdir()
        check_metadata(name, tmp_path / str(number))
