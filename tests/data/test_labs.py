"""Found when folders were tried as labs have them: small classes, accents, a column asked for twice, other arrays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.data.hub import load_data
from fairlead.measure.image_sets import read_images
from tests.data.test_folders import class_folders, refused


def test_a_class_too_small_for_a_tenth_is_said_to_have_nothing_held_out(tmp_path: Path) -> None:
    for name, n in (("many", 40), ("few", 3), ("two", 2)):
        (tmp_path / name).mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    train, test = load_data(str(tmp_path)), load_data(str(tmp_path), "test")
    lacking = sum(count == 0 for count in test.labels.bincount(minlength=3).tolist())
    assert lacking == 2
    said = "held out: a fixed tenth of every class, 4 of 45 images; none of 2 classes, with too few images"
    assert said in train.notes


@pytest.mark.parametrize(("there", "written"), [("e\u0301.png", "\u00e9.png"), ("\u00e9.png", "e\u0301.png")])
def test_a_name_with_an_accent_is_found_however_it_is_written(there: str, written: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / there)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{written},x\nb.png,y\n", encoding="utf-8")
    measured = read_images(str(tmp_path))
    found = dict(zip(measured.files, measured.data.labels.tolist(), strict=True))
    assert found == {there: measured.data.classes.index("x"), "b.png": measured.data.classes.index("y")}


def test_a_column_is_asked_for_once(tmp_path: Path) -> None:
    class_folders(tmp_path, "a", "b")
    refused(
        "label_column and caption_column are both 'text'; a column is one of them", tmp_path, label_column="text",
        caption_column="text",
    )  # fmt: skip


def test_an_array_that_is_not_named_is_no_broken_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", pictures_of=np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError) as caught:
        load_data(str(tmp_path / "odd.npz"))
    assert "is called like images; name it with --image-column" in str(caught.value)
    assert "cannot be read" not in str(caught.value)


def test_rows_are_counted_as_files_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 8, 8, 3), np.uint8), labels=np.arange(40) % 2)
    assert load_data(str(tmp_path / "a.npz")).notes[0] == "40 rows: 36 images used, 4 not in split train, 0 broken"


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    class_folders(tmp_path, "a")
    (tmp_path / "a" / "none.png").write_bytes(b"")
    refused(r"none\.png \(the file is empty\)", tmp_path)


def test_measure_names_its_own_option_for_a_size(tmp_path: Path) -> None:
    for i, side in enumerate((8, 9, 8, 9)):
        folder = tmp_path / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side)).save(folder / f"{i}.png")
    with pytest.raises(UsageError, match="pass --resize") as caught:
        read_images(f"{tmp_path}@train")
    assert "--size" not in str(caught.value)
