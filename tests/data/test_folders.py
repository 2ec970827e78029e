"""The one reader of folders: what is an image, a class, a split, a label; and that nothing is left out in silence."""

import json
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fairlead.core.errors import UsageError
from fairlead.data import decode
from fairlead.data.hub import load_data
from fairlead.data.own.folders import read_folder
from fairlead.data.own.found import Pictures, Tables
from fairlead.data.own.listing import HIDDEN, split_of_file, split_of_folder
from fairlead.measure.image_sets import read_images


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def save(*paths: Path, colour: bool = False, kind: str = "PNG") -> None:
    """Distinct images, one a path."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = (np.arange(48, dtype=np.uint8) * 5 + i).reshape(4, 4, 3)
        Image.fromarray(levels if colour else levels[..., 0]).save(path, kind)


def class_folders(root: Path, *classes: str, count: int = 4) -> None:
    for name in classes:
        save(*(root / name / f"{i}.png" for i in range(count)))


def table(path: Path, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def pictures_in(*contents: bytes | None, path: str | None = None) -> pa.Array:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([{"bytes": content, "path": path} for content in contents], kind)


def png(i: int = 0) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), i, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def read(folder: Path) -> Pictures:
    found = read_folder(folder)
    assert isinstance(found, Pictures)
    return found


def refused(message: str, folder: Path, **options: object) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_data(str(folder), **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_training_and_measuring_see_the_same_classes(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", "__none__", ".net", ".git", "__MACOSX", ".ipynb_checkpoints", "cat")
    class_folders(tmp_path / "elsewhere", "real")
    os.symlink(tmp_path / "elsewhere" / "real", tmp_path / "set" / "linked")
    os.symlink(tmp_path / "set", tmp_path / "set" / "cat" / "loop")
    trained, held_out = (load_data(str(tmp_path / "set"), split) for split in ("train", "test"))
    measured = read_images(str(tmp_path / "set"))
    assert trained.classes == held_out.classes == measured.data.classes == ("__none__", "cat", "linked")
    assert len(trained) + len(held_out) == len(measured) == 12
    hidden = ".git (4 images), .ipynb_checkpoints (4 images), .net (4 images), __MACOSX (4 images)"
    for notes in (trained.notes, measured.notes):
        assert f"left out of set, hidden: {hidden}; rename what is data" in notes
        assert "left out of set, links to a folder around them: cat/loop" in notes
    assert set(HIDDEN) & {"__MACOSX"}


def test_an_image_is_what_ends_like_one_of_an_opened_format(tmp_path: Path) -> None:
    for ending, kind in {
        "jfif": "JPEG", "JPG": "JPEG", "avif": "AVIF", "webp": "WEBP", "bmp": "BMP", "pgm": "PPM", "TIF": "TIFF"
    }.items():  # fmt: skip
        save(tmp_path / "set" / "c" / f"x.{ending}", kind=kind)
    for ending in ("heic", "svg", "npy"):
        (tmp_path / "set" / "c" / f"y.{ending}").write_bytes(b"y")
    save(tmp_path / "set" / "c" / "IMG_7")
    (tmp_path / "set" / "c" / "notes.md").write_text("")
    (tmp_path / "set" / "a.zip").write_bytes(b"PK")
    (tmp_path / "set" / "c" / "x.json").write_text("{}")
    os.mkfifo(tmp_path / "set" / "c" / "pipe.png")
    trained, measured = load_data(str(tmp_path / "set"), "train"), read_images(str(tmp_path / "set"))
    assert (len(trained) + 1, len(measured)) == (7, 7)
    for notes in (trained.notes, measured.notes):
        assert (
            "left out of set: c/IMG_7, c/notes.md, c/pipe.png, c/x.json, a.zip; 1 are beside images of the same names "
            "and are not read: put labels or captions into a metadata.jsonl; 1 are images whose names do not end so: "
            "rename them; archives are not read: unpack them"
        ) in notes
        assert any("not opened: c/y.heic, c/y.npy, c/y.svg; convert them" in note for note in notes)


def test_many_left_out_files_are_counted_by_ending(tmp_path: Path) -> None:
    save(*(tmp_path / "set" / "c" / f"{i}.png" for i in range(10)))
    for i in range(10):
        (tmp_path / "set" / "c" / f"{i}.json").write_text("{}")
    assert "left out of set: 10 .json, such as c/0.json; 10 are beside images" in read(tmp_path / "set").notes[1]


def test_a_link_to_nothing_and_a_name_that_is_no_text_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", "c")
    os.symlink(tmp_path / "gone.png", tmp_path / "set" / "c" / "x.png")
    refused(r"x\.png is a link to nothing", tmp_path / "set")
    (tmp_path / "set" / "c" / "x.png").unlink()
    save(tmp_path / "set" / "c" / os.fsdecode(b"\xff.png"))
    refused("is not Unicode; rename it", tmp_path / "set")


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nfairlead: done", "a\u202eb", "a\x85b", "a\u2028b"])
def test_class_names_that_no_terminal_can_show_are_refused(name: str, tmp_path: Path) -> None:
    class_folders(tmp_path / "set", name)
    refused(r"the class name 'a\\[xnu].*' has control characters; rename it", tmp_path / "set")
    table(tmp_path / "p" / "train.parquet", image=pictures_in(png()), label=[name])
    refused("has control characters", tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Test", "test"), ("val2017", "validation"), ("VALID", "validation"), ("dev", "validation"),
     ("eval", "test"), ("test_set", "test"), ("test1", None), ("testimonials", None), ("trains", None)],
)  # fmt: skip
def test_names_of_folders_that_are_splits(name: str, split: str | None) -> None:
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [("train-00000-of-00003", "train"), ("Test-00000-of-00001", "test"), ("dev-0", "validation"),
     ("eval_1", "test"), ("testimonials", None), ("latest", None), ("crash-test-dummies", None),
     ("mnist_test", "test"), ("validation0", "validation"), ("data/Train/0000", "train"),
     ("test/train-0", "train"), ("trainset", "train"), ("0000", None), ("validity", None)],
)  # fmt: skip
def test_names_of_parquet_files_that_are_splits(path: str, split: str | None) -> None:
    assert split_of_file(Path(f"{path}.parquet")) == split


def test_parquet_goes_where_its_name_says(tmp_path: Path) -> None:
    for i, name in enumerate(["train-00000-of-00001", "dev-0", "eval-0", "Test-0", "testimonials"]):
        table(tmp_path / f"{name}.parquet", image=pictures_in(png(i)), label=[1])
    split = {name: load_data(str(tmp_path), name).images[:, 0, 0, 0].tolist() for name in ("train", "test", "dev")}
    assert split == {"train": [4, 0], "test": [3, 2], "dev": [1]}
    notes = load_data(str(tmp_path)).notes
    assert "taken for train, as no split is named: testimonials.parquet" in notes
    assert "split train: 2 images; not in it: test 2, validation 1" in notes


def test_folders_called_train_and_test_are_splits_without_classes_too(tmp_path: Path) -> None:
    class_folders(tmp_path / "flat", "Train", "test", "val")
    assert [len(load_data(str(tmp_path / "flat"), split)) for split in ("train", "test", "val")] == [4, 4, 4]
    data = load_data(str(tmp_path / "flat"))
    assert data.classes == ("image",)
    assert "flat: 12 images (train 4, test 4, validation 4), no classes" in data.notes
    measured = read_images(str(tmp_path / "flat"))
    assert (len(measured), measured.labelled) == (4, False)
    assert "split train: 4 images; not in it: test 4, validation 4" in measured.notes
    class_folders(tmp_path / "vehicles", "bus", "train")
    data = load_data(str(tmp_path / "vehicles"))
    assert data.classes == ("bus", "train")
    assert "the folder train is taken for a class, not for a split" in data.notes
    class_folders(tmp_path / "both", "bus", "train", "test")
    refused(r"folders with names of splits \(test, train\) are beside bus; move", tmp_path / "both")
    class_folders(tmp_path / "mixed", "train/cat", "dog")
    refused(r"folders with names of splits \(train\) are beside dog", tmp_path / "mixed")
    class_folders(tmp_path / "half", "train/cat", "test")
    refused("images in it and in its sub-folders", tmp_path / "half")


def test_splits_of_two_spellings_are_one(tmp_path: Path) -> None:
    class_folders(tmp_path, "train/a", "val/a", "valid/a")
    assert len(load_data(str(tmp_path), "validation")) == 8
    refused(r"unknown split 'other' \(known: train, validation, test\)", tmp_path, split="other")


def test_stylegan_folders_have_the_labels_of_their_file(tmp_path: Path) -> None:
    class_folders(tmp_path / "s", "00000", "00001")
    names = [f"0000{k}/{i}.png" for k in range(2) for i in range(4)]
    write = (tmp_path / "s" / "dataset.json").write_text
    write(json.dumps({"labels": [[name, int(name[6]) % 3 + 9] for name in names]}))
    measured = read_images(str(tmp_path / "s"))
    assert measured.data.classes == ("9", "10", "11")
    assert dict(zip(measured.files, measured.data.labels.tolist(), strict=True)) == {
        name: int(name[6]) % 3 for name in names
    }
    assert load_data(str(tmp_path / "s")).classes == ("9", "10", "11")
    write('{"labels": null}')
    assert not read_images(str(tmp_path / "s")).labelled
    bare = load_data(str(tmp_path / "s"))
    assert bare.classes == ("image",)
    assert "s: 8 images, dataset.json: no classes, no captions" in bare.notes
    write('{"other": 1}')
    assert load_data(str(tmp_path / "s")).classes == ("00000", "00001")


def test_layouts_that_are_not_read_are_called_by_name_and_what_to_do_works(tmp_path: Path) -> None:
    save(*(tmp_path / "i" / "00000" / f"00000000{i}.jpg" for i in range(10)), kind="JPEG")
    (tmp_path / "i" / "00000_stats.json").write_text("{}")
    table(tmp_path / "i" / "00000.parquet", url=["u"], caption=["c"])
    refused("00000_stats.json says that img2dataset wrote it.*write a metadata.jsonl of lines such as", tmp_path / "i")
    lines = [{"file_name": f"00000/00000000{i}.jpg", "text": f"caption {i}"} for i in range(10)]
    (tmp_path / "i" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load_data(str(tmp_path / "i"))
    assert (len(data), data.captions[0][:7]) == (9, "caption")
    assert "left out of i: 00000_stats.json, 00000.parquet" in data.notes
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "00000.tar").write_bytes(b"")
    refused("1 tar files such as 00000.tar, as of webdataset, which are not read; unpack them", tmp_path / "w")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "images.zip").write_bytes(b"")
    refused("no images in it; .*left out of z: images.zip; archives are not read: unpack them", tmp_path / "z")
    class_folders(tmp_path / "p", "c")
    table(tmp_path / "p" / "index.parquet", url=["u"], caption=["c"])
    refused(
        "no image column; .*4 image files are in the same folder; to read these, remove the parquet files",
        tmp_path / "p",
    )


def test_metadata_of_labels_alone_are_read(tmp_path: Path) -> None:
    save(*(tmp_path / f"{i}.png" for i in range(6)))
    assert load_data(str(tmp_path)).classes == ("image",)
    lines = [{"file_name": f"{i}.png", "label": "ab"[i % 2]} for i in range(6)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_data(str(tmp_path)).classes == ("a", "b")
    assert read_images(str(tmp_path)).data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "metadata.jsonl").unlink()
    table(tmp_path / "metadata.parquet", file_name=[f"{i}.png" for i in range(6)], label=[7, 10] * 3)
    assert load_data(str(tmp_path)).classes == ("7", "10")
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    refused("has metadata.csv and metadata.parquet; expected one of them", tmp_path)


def csv(folder: Path, *labels: str) -> Path:
    save(*(folder / f"{i}.png" for i in range(len(labels))))
    rows = "".join(f"{i}.png,t{i},{label}\n" for i, label in enumerate(labels))
    (folder / "metadata.csv").write_text("file_name,text,label\n" + rows)
    return folder


def test_labels_of_a_csv_are_what_is_written(tmp_path: Path) -> None:
    assert load_data(str(csv(tmp_path / "text", *["001", "010", "002"] * 4))).classes == ("001", "002", "010")
    assert load_data(str(csv(tmp_path / "numbers", *["10", "9", "1"] * 4))).classes == ("1", "9", "10")
    for name, label in (("empty", ""), ("minus", "-1"), ("blank", " ")):
        folder = csv(tmp_path / name, "0", "1", label, "0", "1", "0")
        refused("1 of 6 rows of split 'train' have no label, first metadata.csv, line 4; fill", folder)
        with pytest.raises(UsageError, match=r"1 of 6 images have no label, first metadata\.csv, line 4"):
            read_images(str(folder))
    pandas = csv(tmp_path / "pandas", "3.0", "10.0", "3.0", "10.0", "3.0", "")
    refused(r"1 of 6 rows .* first metadata\.csv, line 7", pandas)
    assert load_data(str(csv(tmp_path / "pandas", *["3.0", "10.0"] * 4))).classes == ("3", "10")
    scores = load_data(str(csv(tmp_path / "scores", *["0.5", "0.75"] * 3)))
    assert scores.classes == ("image",)
    assert "column 'label' holds '0.5': not taken for labels" in scores.notes


def test_one_odd_value_does_not_drop_a_column(tmp_path: Path) -> None:
    save(*(tmp_path / f"{i}.png" for i in range(6)))

    def written(**odd: object) -> None:
        rows = [{"file_name": f"{i}.png", "text": f"t{i}", "label": i % 2 + 8, "licence": "free"} for i in range(6)]
        rows[3] |= odd
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    written(text=7)
    refused(r"column 'text' holds captions, but 7 in metadata\.jsonl, line 4; expected text", tmp_path)
    written(label="a")
    refused("column 'label' holds both int and str, expected one kind of label", tmp_path)
    for nothing in (None, float("nan"), -1):
        written(label=nothing)
        refused(r"1 of 6 rows .* have no label, first metadata\.jsonl, line 4", tmp_path)
    written(label=8.0)
    data = load_data(str(tmp_path))
    assert (data.classes, len(data.captions)) == (("8", "9"), 5)
    assert "columns not used: licence" in data.notes


def test_missing_labels_of_parquet_are_refused_with_their_row(tmp_path: Path) -> None:
    images = pictures_in(*map(png, range(4)))
    for name, labels in (
        ("null", [0, 1, None, 0]),
        ("minus", [0, 1, -1, 0]),
        ("pandas", [0.0, 1.0, float("nan"), 0.0]),
        ("text", ["a", "b", "", "a"]),
    ):
        table(tmp_path / name / "train.parquet", image=images, label=labels, text=["t"] * 4)
        refused("1 of 4 rows of split 'train' have no label, first train row 2", tmp_path / name)
    table(tmp_path / "whole" / "train.parquet", image=images, label=[3.0, 1.0, 3.0, 1.0])
    assert load_data(str(tmp_path / "whole")).classes == ("1", "3")
    table(tmp_path / "lists" / "train.parquet", image=images, label=[[1]] * 4, text=["t"] * 4)
    assert any("column 'label' holds lists of int64" in note for note in load_data(str(tmp_path / "lists")).notes)


def test_one_image_in_colour_does_not_mirror_a_grey_set(tmp_path: Path) -> None:
    class_folders(tmp_path / "grey", "c", count=20)
    assert not load_data(str(tmp_path / "grey")).flip
    save(tmp_path / "grey" / "c" / "z.png", colour=True)
    parts = [load_data(str(tmp_path / "grey"), split) for split in ("train", "test")]
    assert [(data.flip, data.shape) for data in parts] == [(False, (3, 4, 4))] * 2
    notes = [note for data in parts for note in data.notes]
    assert (
        sum("of 2 images are in colour; --flip True if they may be" in note for note in notes)
        + sum("never mirrored: 1 of 19 images" in note for note in notes)
        == 1
    )
    assert sum("read with three channels, as z.png, which is not in this split" in note for note in notes) == 1
    assert load_data(str(tmp_path / "grey"), flip=True).flip
    assert not read_images(str(tmp_path / "grey")).data.flip
    save(*(tmp_path / "photos" / "c" / f"{i}.png" for i in range(10)), colour=True)
    save(tmp_path / "photos" / "c" / "z.png")
    data = load_data(str(tmp_path / "photos"))
    assert data.flip
    assert any(note.startswith("mirrored at random: ") for note in data.notes)


def test_grey_images_saved_in_colour_are_not_mirrored(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / "c").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / "c" / f"{i}.png")
    assert not load_data(str(tmp_path)).flip


def test_a_row_of_parquet_reads_no_file(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", tmp_path / "p" / "inside.png")
    for path in (tmp_path / "secret.png", tmp_path / "p" / "inside.png", Path("inside.png")):
        table(tmp_path / "p" / "train.parquet", image=pictures_in(*[None] * 4, path=str(path)), label=[0, 1, 0, 1])
        refused(r"train row 0 has the path of a file instead of an image, .*such files are never read", tmp_path / "p")


def test_a_hub_set_reads_the_files_that_were_downloaded_for_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "hub" / "a.png", tmp_path / "secret.png")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    feature = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for name, good in (("hub/a.png", True), ("hub/../secret.png", False), ("secret.png", False)):
        image = {"path": str(tmp_path / name), "bytes": None}
        rows = datasets.Dataset.from_dict({"image": [image], "label": [1]}, features=feature)
        monkeypatch.setattr(datasets, "load_dataset", lambda path, rows=rows: {"train": rows, "test": rows})
        if good:
            assert len(load_data("owner/name")) == 1
        else:
            with pytest.raises(UsageError, match="such files are never read"):
                load_data("owner/name")


def test_metadata_name_only_images_below_their_folder(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", tmp_path / "set" / "a.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "file://secret.png"):
        (tmp_path / "set" / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "t"}))
        refused("the metadata names .*secret.png, which is no image there", tmp_path / "set")
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "./x/../a.png", "text": "t"}\n' * 2)
    data = load_data(str(tmp_path / "set"), "train")
    assert "1 lines name an image that another line names too: it is there once for each" in data.notes


def test_parquet_files_and_images_in_one_folder(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", image=pictures_in(*map(png, range(4))), label=[0, 1] * 2)
    save(tmp_path / "banner.png")
    found = read_folder(tmp_path)
    assert isinstance(found, Tables)
    assert "left out, images beside parquet files: banner.png" in found.notes


def test_more_than_fits_in_memory_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, "c")
    for spec in (str(tmp_path), "digits", "scenes"):
        with pytest.raises(UsageError, match="100,000 pixels a side do not fit in memory; expected at most 11,585"):
            load_data(spec, size=100_000)
        with pytest.raises(UsageError, match="resize: 100,000 pixels a side do not fit in memory"):
            read_images(spec, resize=100_000)
    monkeypatch.setattr(decode, "machine_memory", lambda: 1_000_000)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    refused(r"of 1000x512 take 0\.00 GB on disk, .* has 0\.00 GB; give a smaller size or", tmp_path, size="1000x512")
    with pytest.raises(UsageError, match=r"1,438 images of 64x64 need 11\.8 MB of memory"):
        load_data("digits", size=64)
    with pytest.raises(UsageError, match=r"1,000 images of 28x28 need 4\.7 MB of memory"):
        load_data("scenes(n=1000)")
