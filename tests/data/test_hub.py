"""Local folders written here, with known pixels and labels; the hub only as unreachable (conftest sets it offline)."""

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.hub import load_data, load_mnist
from fairlead.data.own.tables import read_rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pixels(i: int, colour: bool = False) -> np.ndarray:
    shape = (4, 5, 3) if colour else (4, 5)
    return ((np.arange(np.prod(shape)) * 7 + i) % 256).astype(np.uint8).reshape(shape)


def write_parquet(path: Path, labels: list, label_feature=None, colour: bool = False, start: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(pixels(start + i, colour)) for i in range(len(labels))]
    features = {"image": datasets.Image(), "label": label_feature or datasets.Value("int64")}
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=datasets.Features(features))
    rows.to_parquet(path)


def write_images(root: Path, count: int = 2, colour: bool = False, **classes: int) -> None:
    """``count`` images per class; image i of class with offset k has pixels(k + i)."""
    for name, offset in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(pixels(offset + i, colour)).save(root / name / f"{i}_test_shot.png")


def fails(message: str, spec: object, **options) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_data(str(spec), **options)
    assert "\n" not in str(error.value)


def test_parquet_returns_the_pixels_and_labels_written(tmp_path):
    names = datasets.ClassLabel(names=[str(i) for i in range(10)])
    write_parquet(tmp_path / "digits/train.parquet", [3, 1, 4], names)
    write_parquet(tmp_path / "digits/test-00000-of-00001.parquet", [1, 5], names, start=50)
    train, test = (load_data(str(tmp_path / "digits"), split) for split in ("train", "test"))
    assert train.images[:, 0].tolist() == [pixels(i).tolist() for i in range(3)]
    assert test.images[:, 0].tolist() == [pixels(50 + i).tolist() for i in range(2)]
    assert (train.labels.tolist(), test.labels.tolist()) == ([3, 1, 4], [1, 5])
    assert train.classes == load_digits().classes
    assert (train.name, train.split, train.flip) == ("digits", "train", False)
    assert (test.split, load_data(str(tmp_path / "digits"), flip=True).flip) == ("test", True)


def test_parquet_in_several_files_and_split_folders(tmp_path):
    for part, start in (("train/0000", 0), ("train/0001", 2), ("test/0000", 4)):
        write_parquet(tmp_path / f"data/{part}.parquet", [1, 0], start=start)
    assert load_data(str(tmp_path)).images[:, 0].tolist() == [pixels(i).tolist() for i in range(4)]
    assert load_data(str(tmp_path), "test").images[:, 0].tolist() == [pixels(4).tolist(), pixels(5).tolist()]


@pytest.mark.parametrize(
    ("values", "feature", "classes"),
    [
        (["dog", "cat", "dog"], datasets.Value("string"), ("cat", "dog")),
        ([20, 3, 20], datasets.Value("int64"), ("3", "20")),
    ],
)
def test_plain_label_columns_become_sorted_classes_shared_by_all_splits(tmp_path, values, feature, classes):
    write_parquet(tmp_path / "train.parquet", values, feature, colour=True)
    write_parquet(tmp_path / "test.parquet", values[:1], feature, colour=True)
    train, test = load_data(str(tmp_path)), load_data(str(tmp_path), "test")
    assert train.classes == test.classes == classes
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 1], [1])
    assert torch.equal(train.images[2], torch.from_numpy(pixels(2, colour=True)).permute(2, 0, 1))
    assert train.flip


def test_image_folder_with_and_without_splits(tmp_path):
    write_images(tmp_path / "flat", colour=True, dog=10, cat=20)
    flat = load_data(str(tmp_path / "flat"), limit=100)
    write_images(tmp_path / "split [2]/train", cat=20, dog=10)
    write_images(tmp_path / "split [2]/test", count=1, dog=30)
    train, test = (load_data(str(tmp_path / "split [2]"), split) for split in ("train", "test"))
    assert flat.classes == train.classes == test.classes == ("cat", "dog")
    assert train.images[:, 0].tolist() == [pixels(i).tolist() for i in (20, 21, 10, 11)]
    assert flat.images[0].permute(1, 2, 0).tolist() == pixels(20, colour=True).tolist()
    assert train.labels.tolist() == flat.labels.tolist() == [0, 0, 1, 1]
    assert (test.images[:, 0].tolist(), test.labels.tolist()) == ([pixels(30).tolist()], [1])
    assert (flat.flip, train.flip, flat.name) == (True, False, "flat")


def test_a_set_without_test_is_split_90_to_10_disjoint_and_stratified(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0] * 40 + [1] * 20)
    train, test = load_data(str(tmp_path)), load_data(str(tmp_path), "test")
    first = [part.images[:, 0, 0, 0].tolist() for part in (train, test)]
    assert sorted(first[0] + first[1]) == list(range(60))
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([36, 18], [4, 2])
    assert load_data(str(tmp_path), "test").fingerprint == test.fingerprint


def test_limit_is_spread_over_the_classes_and_nested(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0] * 10 + [1] * 10)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    kept = [set(load_data(str(tmp_path), limit=n).images[:, 0, 0, 0].tolist()) for n in (2, 4, 20, 99)]
    assert load_data(str(tmp_path), limit=4).labels.tolist() == [0, 0, 1, 1]
    assert kept[0] < kept[1] < kept[2] == kept[3]
    assert load_data("digits", limit=20).labels.bincount().tolist() == [2] * 10


def test_size_resizes_a_set_of_differing_sizes(tmp_path):
    write_images(tmp_path / "a", cat=0)
    Image.fromarray(np.full((6, 9), 33, dtype=np.uint8)).save(tmp_path / "a/cat/2.png")
    fails(
        r"0_test_shot\.png is 4x5, .*2\.png is 6x9, height x width\); give a size",
        tmp_path / "a",
        limit=3,
        split="train",
    )
    data = load_data(str(tmp_path / "a"), size=4)
    assert data.shape == (1, 4, 4)
    assert load_data("digits", size=16, limit=3).shape == (1, 16, 16)


def test_short_names_read_through_the_registry():
    assert load_data("digits", "test").fingerprint == load_digits("test").fingerprint


def test_mnist_reads_its_hub_name_and_spells_out_the_digits(tmp_path, monkeypatch):
    write_parquet(tmp_path / "train.parquet", [7], datasets.ClassLabel(names=[str(i) for i in range(10)]))
    file = str(tmp_path / "train.parquet")
    rows = datasets.load_dataset("parquet", data_files={"train": [file], "test": [file]})
    asked: list[str] = []

    def load(path: str) -> datasets.DatasetDict:
        asked.append(path)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = load_mnist("test")
    assert asked == ["ylecun/mnist"]
    assert (data.name, data.classes[int(data.labels[0])], data.images[0, 0].tolist()) == (
        "mnist",
        "seven",
        pixels(0).tolist(),
    )


def test_unknown_names_list_the_known_ones(tmp_path):
    fails(
        r"unknown data 'digit'; did you mean 'digits'\? \(known: digits, mnist, cifar10, scenes\); or give an existing",
        "digit",
    )
    fails("unknown data '.*/nothing'", tmp_path / "nothing")
    (tmp_path / "file.parquet").touch()
    fails("the datasets library cannot read it", tmp_path / "file.parquet")
    (tmp_path / "set.zip").touch()
    fails(
        "is a file; expected a folder, or a file of .csv, .jsonl, .parquet or .npz; unpack arch", tmp_path / "set.zip"
    )


def test_an_unreachable_hub_is_one_line():
    fails("data 'nobody/nothing': no local folder of that name, and the hub cannot be reached", "nobody/nothing")


def test_a_missing_hub_set_is_one_line(monkeypatch):
    def missing(path: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset\n'nobody/nothing' doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    fails(r"no local folder and no data set the hub lets you read; .*digits, mnist, cifar10", "nobody/nothing")


def test_broken_parquet_is_one_line(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"not parquet")
    fails(rf"{re.escape(str(tmp_path))}': the datasets library cannot read it \(.*magic bytes", tmp_path)


def test_missing_columns_are_named(tmp_path):
    datasets.Dataset.from_dict({"label": [1], "size": [2]}).to_parquet(tmp_path / "a.parquet")
    fails("no image column; its columns are label, size", tmp_path)
    image = datasets.Features({"image": datasets.Image(), "width": datasets.Value("float32")})
    rows = {"image": [Image.fromarray(pixels(0))], "width": [1.0]}
    datasets.Dataset.from_dict(rows, features=image).to_parquet(tmp_path / "a.parquet")
    fails("no label column; its columns are image, width", tmp_path)


def test_ambiguous_label_columns_are_named(tmp_path):
    features = {"image": datasets.Image(), "id": datasets.Value("int64"), "kind": datasets.Value("string")}
    rows = {"image": [Image.fromarray(pixels(0))], "id": [1], "kind": ["cat"]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "a.parquet")
    fails(r"2 columns could be the label \(id, kind\); say which with --label-column", tmp_path)


def test_missing_labels_are_counted(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1], datasets.ClassLabel(names=["a", "b"]))
    write_parquet(tmp_path / "test.parquet", [-1, -1], datasets.ClassLabel(names=["a", "b"]))
    fails("2 of 2 rows of split 'test' have no label", tmp_path, split="test")
    assert load_data(str(tmp_path)).labels.tolist() == [0, 1]


def test_a_broken_image_is_named_by_file_or_by_row(tmp_path):
    write_images(tmp_path / "a/train", cat=0)
    write_images(tmp_path / "a/test", cat=0)
    broken = tmp_path / "a/train/cat/1_test_shot.png"
    broken.write_bytes(b"not a picture")
    fails(rf"cannot read image {re.escape(str(broken))} \(UnidentifiedImageError", tmp_path / "a")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"path": "x.png", "bytes": b"junk"}, None], "label": [0, 0]}
    for first in (0, 1):
        part = datasets.Dataset.from_dict(rows, features=features).select([first])
        part.to_parquet(tmp_path / "train.parquet")
        part.to_parquet(tmp_path / "test.parquet")
        reason = r" \(x\.png\) \(UnidentifiedImageError" if first == 0 else r" \(there is none\)"
        fails(r"cannot read image train row 0" + reason, tmp_path)


def test_folders_without_classes_or_images_are_explained(tmp_path):
    fails("no parquet files and no images in .*; expected train.parquet, images, or one sub-folder", tmp_path)
    Image.fromarray(pixels(0)).save(tmp_path / "loose.png")
    assert load_data(str(tmp_path)).classes == ("image",)
    write_images(tmp_path / "deep/cat", tabby=0)
    fails(r"no label for .*cat/tabby/0_test_shot\.png", tmp_path / "deep")


def test_splits_that_do_not_exist_are_errors(tmp_path):
    write_parquet(tmp_path / "a/train.parquet", [0, 1])
    fails(r"unknown split 'dev' \(known: train, test\)", tmp_path / "a", split="dev")
    fails("split 'test' is empty; add images", tmp_path / "a", split="test")
    write_parquet(tmp_path / "b/test.parquet", [0, 1])
    fails(r"unknown split 'train' \(known: test\)", tmp_path / "b")


def test_a_single_class_and_a_class_called_train_are_classes(tmp_path):
    write_images(tmp_path, count=6, train=0)
    data = load_data(str(tmp_path))
    assert (data.classes, len(data) + len(load_data(str(tmp_path), "test"))) == (("train",), 6)


@pytest.mark.parametrize(
    ("option", "expected"), [("size", "a size, .*, whole numbers from 1"), ("limit", "limit of at least 1")]
)
def test_size_and_limit_must_be_positive(option, expected):
    fails(f"expected {expected}, got 0", "digits", **{option: 0})


def test_the_progress_bars_of_datasets_are_left_as_they_were(tmp_path, capsys):
    write_parquet(tmp_path / "train.parquet", [0] * 10)
    capsys.readouterr()
    load_data(str(tmp_path))
    assert capsys.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_scenes_are_made_from_a_local_folder_of_digits(tmp_path):
    for digit in range(10):
        write_images(tmp_path / "own", 4, False, **{str(digit): digit})
    data = load_data(f"scenes(source={str(tmp_path / 'own')!r}, n=20)")
    assert (len(data), data.shape, data.classes) == (20, (3, 28, 28), load_digits().classes)
    assert load_data(data.name).fingerprint == data.fingerprint
    with pytest.raises(UsageError, match="split 'test', has no image of"):
        load_data(data.name, "test")


@pytest.mark.parametrize("body", [b"\xff" * 20, b"\x15\x02\x19" * 7, b""])
def test_a_table_that_is_no_parquet_inside_is_one_line(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metadata.parquet"
    path.write_bytes(b"PAR1" + body + len(body).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UsageError, match=r"metadata.parquet: cannot be read \(") as caught:
        read_rows(path, "metadata")
    assert "\n" not in str(caught.value)
