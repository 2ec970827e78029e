"""Folders and files as laboratories have them: columns of any name, arrays, captions beside images, tables, splits."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.core.strict_json import sealed
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.train.checkpoint import find_checkpoint

N = 10
SHAPE = (4, 6)
QUICK = ["--size", "8", "--steps", "1", "--batch-size", "2", "--channels", "8"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def grey(i: int) -> np.ndarray:
    return np.full(SHAPE, 3 * i + 1, np.uint8)


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(i)).save(folder / name)


def seen(data: ImageData) -> list[int]:
    """Which of the images ``grey(i)`` are in a set."""
    return ((data.images[:, 0, 0, 0].long() - 1) // 3).tolist()


def labelled(data: ImageData) -> dict[int, str]:
    return {i: data.classes[label] for i, label in zip(seen(data), data.labels.tolist(), strict=True)}


def both(spec: Path, **options: Any) -> dict[int, str]:
    """Labels of the training and the held-out images."""
    parts = [load_data(str(spec), split, **options) for split in ("train", "test")]
    return labelled(parts[0]) | labelled(parts[1])


def refused(message: str, spec: Path, **options: Any) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_data(str(spec), **options)
    assert "\n" not in str(error.value)


def test_a_flat_folder_is_a_set_without_classes_and_trains_unconditionally(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "bildér"
    pictures(folder, *(f"{i}.png" for i in range(40)))
    train, test = load_data(str(folder)), load_data(str(folder), "test")
    assert sorted(seen(train) + seen(test)) == list(range(40))
    assert (train.classes, len(test)) == (("image",), 4)
    assert "held out: a fixed tenth of every class, 4 of 40 images" in train.notes
    assert main(["train", "--data", str(folder), *QUICK, "--out", str(tmp_path / "run")]) == 0
    header = capsys.readouterr().out
    assert "36 images 1x8x8 of bildér, 1 classes, conditioned on nothing" in header
    assert "never mirrored: the images are grey; --flip True if they may be" in header
    assert json.loads((tmp_path / "run/step-000001/model.json").read_text())["net"]["classes"] == 0


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved splits"])
def test_columns_of_any_name_can_be_named(kind: str, tmp_path: Path) -> None:
    features = datasets.Features(
        {"scan": datasets.Image(), "mask": datasets.Image(), "finding": datasets.Value("string"),
         "id": datasets.Value("int64"), "report": datasets.Value("string")}
    )  # fmt: skip
    rows = {
        "scan": [Image.fromarray(grey(i)) for i in range(N)],
        "mask": [Image.fromarray(grey(0)) for _ in range(N)],
        "finding": ["aé" if i < 7 else "b" for i in range(N)],
        "id": list(range(N)),
        "report": [f"scan {i}" for i in range(N)],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    if kind == "parquet":
        (tmp_path / "set").mkdir()
        table.to_parquet(tmp_path / "set" / "rows.parquet")
    elif kind == "saved":
        table.save_to_disk(tmp_path / "set")
    else:
        datasets.DatasetDict({"train": table.select(range(8)), "val": table.select([8, 9])}).save_to_disk(
            tmp_path / "set"
        )
    named: dict[str, Any] = {"image_column": "scan", "label_column": "finding"}
    assert both(tmp_path / "set", **named) == {i: "aé" if i < 7 else "b" for i in range(N)}
    data = load_data(str(tmp_path / "set"), caption_column="report", **named)
    assert data.captions == tuple(f"scan {i}" for i in seen(data))
    assert ("held out: validation, 2 images" in data.notes) == (kind == "saved splits")
    refused(r"2 columns could be the image \(scan, mask\); say which with --image-column", tmp_path / "set")
    refused("unknown column of images 'scam'; did you mean 'scan'", tmp_path / "set", image_column="scam")
    refused("column 'report' holds string, expected images", tmp_path / "set", image_column="report")
    refused("column 'mask' holds .*, expected labels", tmp_path / "set", image_column="scan", label_column="mask")
    command = ["train", "--data", str(tmp_path / "set"), "--image-column", "scan", "--label-column", "finding", *QUICK]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "run/step-000001/model.json").read_text())["train"]["data"]
    assert {"image_column": "scan", "label_column": "finding"}.items() <= stored.items()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_beside_images_is_given_by_its_name(ending: str, tmp_path: Path) -> None:
    pictures(tmp_path, *(f"scans/{i}.png" for i in range(N)))
    rows = [{"scan": f"scans/{i}.png", "finding": "ab"[i % 2]} for i in range(N - 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if ending == "csv":
        text = "scan,finding\n" + "".join(f"{row['scan']},{row['finding']}\n" for row in rows)
    (tmp_path / f"labels.{ending}").write_text(text)
    table = tmp_path / f"labels.{ending}"
    named: dict[str, Any] = {"image_column": "scan", "label_column": "finding"}
    assert both(table, **named) == {i: "ab"[i % 2] for i in range(N - 1)}
    assert f"left out, images that labels.{ending} does not name: 1" in load_data(str(table), **named).notes
    refused("expected the name of an image in a column file_name; .*name it with --image-column", table)
    refused(
        "unknown column of labels 'findings'; did you mean 'finding'", table, **{**named, "label_column": "findings"}
    )
    folder = load_data(str(tmp_path))  # the table is not metadata.csv: the folders count, and that is said
    assert folder.classes == ("scans",)
    assert any(f"to go by labels.{ending}, give it in place of the folder" in note for note in folder.notes)
    refused("--label-column finding: it has no metadata", tmp_path, label_column="finding")


def test_metadata_has_columns_of_any_name_too(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{i}.png" for i in range(N)))
    lines = "".join(f"{i}.png,{i % 3},{i},a scan {i}\n" for i in range(N))
    (tmp_path / "metadata.csv").write_text("scan,grade,label,note\n" + lines)
    data = load_data(str(tmp_path), image_column="scan", label_column="grade", caption_column="note")
    assert labelled(data) == {i: "012"[i % 3] for i in seen(data)}
    assert data.captions == tuple(f"a scan {i}" for i in seen(data))


ARRAY = np.stack([grey(i) for i in range(N)])
LABELS = np.array([0, 1] * 5)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"images": ARRAY, "labels": LABELS}, {}),
        ({"arr_0": ARRAY[..., None], "arr_1": LABELS.astype(np.float32)}, {}),
        ({"x": ARRAY[:, None], "y": LABELS[:, None]}, {}),
        ({"x": ARRAY / 127.5 - 1, "y": np.array(["p", "q"] * 5)}, {}),
        (
            {"voxels": ARRAY, "grade": LABELS, "labels": LABELS[::-1]},
            {"image_column": "voxels", "label_column": "grade"},
        ),
    ],
    ids=["names", "savez", "channels first", "floats", "named"],
)
def test_arrays_in_an_npz_are_a_set(arrays: dict[str, Any], named: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    for spec in (tmp_path / "set.npz", tmp_path):
        found = both(spec, **named)
        assert sorted(found) == list(range(N))
        assert {i: found[i] == found[0] for i in found} == {i: i % 2 == 0 for i in range(N)}


def test_an_npz_may_hold_its_splits(tmp_path):
    parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 10)}
    arrays: dict[str, Any] = {f"{name}_images": ARRAY[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": LABELS[part] for name, part in parts.items()}
    np.savez(tmp_path / "medical.npz", **arrays)
    found = [seen(load_data(str(tmp_path / "medical.npz"), split)) for split in ("train", "test", "validation")]
    assert found == [[0, 1, 2, 3, 4, 5], [8, 9], [6, 7]]
    np.savez_compressed(
        tmp_path / "keras.npz", x_train=ARRAY[:8], y_train=LABELS[:8], x_test=ARRAY[8:], y_test=LABELS[8:]
    )
    assert seen(load_data(str(tmp_path / "keras.npz"), "test")) == [8, 9]
    for name, part in (("train", slice(0, 7)), ("test", slice(7, 10))):
        (tmp_path / "two").mkdir(exist_ok=True)
        np.savez(tmp_path / "two" / f"{name}.npz", images=ARRAY[part])
    assert seen(load_data(str(tmp_path / "two"), "test")) == [7, 8, 9]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"voxels": ARRAY},
            r"none of the arrays of set.npz \(voxels\) is called like images; name it with --image",
        ),
        ({"x": ARRAY.astype(np.int64)}, "array 'x': holds int64, expected images"),
        ({"x": ARRAY.astype(np.float32)}, "holds numbers from 1 to 28, expected images"),
        ({"x": ARRAY[0]}, r"has the shape \[4, 6\], expected images"),
        ({"x": ARRAY, "y": LABELS[:3]}, "10 images in 'x' and 3 labels in 'y'; expected as many"),
        ({"x": np.array([{}], dtype=object)}, "cannot be read as a .npz of numpy"),
    ],
)
def test_arrays_that_are_no_set_are_one_line(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    refused(message, tmp_path / "set.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:100])
    refused("torn.npz cannot be read as a .npz", tmp_path / "torn.npz")


def test_texts_beside_images_are_captions(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{'ab'[i % 2]}/{i}.png" for i in range(N)))
    for i in range(N):
        (tmp_path / "ab"[i % 2] / f"{i}.txt").write_text(f" ein Bild,\n Nummer {i}é\n")
    data = load_data(str(tmp_path))
    assert data.captions == tuple(f"ein Bild, Nummer {i}é" for i in seen(data))
    assert labelled(data) == {i: "ab"[i % 2] for i in seen(data)}
    assert f"{tmp_path.name}: 10 images, 2 classes by folder, captions by the .txt beside each image" in data.notes
    (tmp_path / "a" / "0.txt").unlink()
    refused("9 of 10 images have a caption beside them, a/0.txt is missing; add it, or move the texts away", tmp_path)
    (tmp_path / "a" / "0.txt").write_text(" \n")
    refused("a/0.txt is empty, expected the caption of its image", tmp_path)


@pytest.mark.parametrize(
    ("folders", "train", "held_out"),
    [
        (("Training", "TEST", "val"), "Training", "test"),
        (("train", "validation"), "train", "validation"),
        (("TRAIN_SET", "dev"), "TRAIN_SET", "validation"),
    ],
)
def test_what_is_held_out_is_test_or_validation(
    folders: tuple[str, ...], train: str, held_out: str, tmp_path: Path
) -> None:
    pictures(tmp_path, *(f"{folder}/{'ab'[i % 2]}/{i}.png" for folder in folders for i in range(4)))
    data, out = load_data(str(tmp_path)), load_data(str(tmp_path), "test")
    assert (len(data), len(out)) == (4, 4)
    assert f"held out: {held_out}, 4 images" in data.notes


def test_class_folders_behind_links_count(tmp_path: Path) -> None:
    pictures(tmp_path / "disk", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)))
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        os.symlink(tmp_path / "disk" / name, tmp_path / "set" / name)
    os.symlink(tmp_path / "disk" / "cat" / "0.png", tmp_path / "set" / "dog" / "linked.png")
    data = load_data(str(tmp_path / "set"))
    assert (data.classes, len(data) + len(load_data(str(tmp_path / "set"), "test"))) == (("cat", "dog"), 11)


def test_runs_of_before_have_their_column_of_captions(tmp_path: Path) -> None:
    pictures(tmp_path / "set", *(f"{i}.png" for i in range(N)))
    lines = [{"file_name": f"{i}.png", "said": f"scan {i % 2}"} for i in range(N)]
    (tmp_path / "set" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = tmp_path / "run"
    command = ["train", "--data", str(tmp_path / "set"), "--caption-column", "said", "--conditions", "text", *QUICK]
    assert main([*command, "--out", str(run)]) == 0
    path = run / "step-000001" / "model.json"
    about = json.loads(path.read_text())
    about.pop("seal", None)
    about["train"]["data"]["captions"] = about["train"]["data"].pop("caption_column")
    path.write_text(json.dumps(sealed(about)))
    given = find_checkpoint(run).about["train"]["data"]
    assert torch.equal(load_data(**given).labels, torch.zeros(9, dtype=torch.int64))
    assert load_data(**given).captions[0].startswith("scan")
