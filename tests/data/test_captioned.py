"""Captions from parquet columns and from the metadata of image folders: what was written is read, what is missing is
one line; several captions of an image are drawn from, the same ones for the same seed."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.nets.build import net_config
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training

TEXTS = ["a red cat", "two dogs", "a green square", "größer: 7"]
LISTS = [["a red cat", "one cat"], ["two dogs"], ["a green square", "a square", "something green"], ["größer: 7"]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(i: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), 10 * i, dtype=np.uint8))


def parquet(folder: Path, **columns: list[Any]) -> str:
    """The same rows as both splits."""
    folder.mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    rows = datasets.Dataset.from_dict({"image": [picture(i) for i in range(count)], **columns})
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def images(folder: Path, lines: dict[str, Any], column: str = "text", form: str = "jsonl", **more: Any) -> str:
    """Images by their names below the folder, and the metadata of those whose line is not None."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(lines):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / name)
    rows = [{"file_name": name, column: text, **more} for name, text in lines.items() if text is not None]
    if form == "csv":
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def by_picture(*parts: ImageData) -> dict[int, tuple[str, ...]]:
    return {int(data.images[i].max()) // 10: data.sentences(i) for data in parts for i in range(len(data))}


def fails(message: str, spec: str, **options: Any) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_data(spec, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["text", "caption", "captions", "prompt"])
def test_a_column_of_a_known_name_is_the_caption_and_one_class_is_left(tmp_path: Path, column: str) -> None:
    data = load_data(parquet(tmp_path / "p", id=[7, 8, 9, 10], **{column: [*TEXTS]}))
    assert data.captions == tuple(TEXTS)
    assert (data.more, data.classes, data.labels.tolist()) == ((), ("image",), [0] * 4)


def test_another_column_is_named_and_labels_stay_labels(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "p", text=TEXTS, said=LISTS, label=["b", "a", "b", "a"])
    assert load_data(folder).captions == tuple(TEXTS)
    data = load_data(folder, "test", caption_column="said")
    assert [data.sentences(i) for i in range(4)] == [tuple(own) for own in LISTS]
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [1, 0, 1, 0])
    assert not data.flip  # in colour, but a caption may say where something stands
    part = data.subset(torch.tensor([2, 0]))
    assert [part.sentences(i) for i in range(2)] == [tuple(LISTS[2]), tuple(LISTS[0])]
    assert len({load_data(folder, caption_column=name).fingerprint for name in ("text", "said")}) == 2


def test_a_hub_set_has_captions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {split: f"{parquet(tmp_path / 'p', said=LISTS)}/{split}.parquet" for split in ("train", "test")}
    rows = datasets.load_dataset("parquet", data_files=parts)
    monkeypatch.setattr(datasets, "load_dataset", lambda path: {"owner/name": rows}[path])
    assert by_picture(load_data("owner/name", caption_column="said")) == {i: tuple(own) for i, own in enumerate(LISTS)}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_image_folder_with_metadata_has_captions(tmp_path: Path, form: str) -> None:
    lines = dict(zip(["a.png", "deep/b.png", "deep/er/c.png"], TEXTS, strict=False))
    images(tmp_path / "g" / "train", lines, form=form)
    images(tmp_path / "g" / "test", {"d.png": TEXTS[3]}, form=form)
    train, test = (load_data(str(tmp_path / "g"), split) for split in ("train", "test"))
    assert by_picture(train) == {i: (TEXTS[i],) for i in range(3)}
    assert (test.captions, test.classes) == ((TEXTS[3],), ("image",))
    many = {f"{i}.png": f"picture {i}" for i in range(10)}
    whole = [load_data(images(tmp_path / "flat", many, form=form), split) for split in ("train", "test")]
    assert by_picture(*whole) == {i: (f"picture {i}",) for i in range(10)}
    assert [len(part) for part in whole] == [9, 1]


def test_class_folders_with_metadata_keep_their_classes(tmp_path: Path) -> None:
    lines = {"cat/0.png": LISTS[0], "cat/1.png": LISTS[1], "dog/0.png": LISTS[2]}
    data = load_data(images(tmp_path / "f", lines, column="said"), caption_column="said")
    assert by_picture(data) == {i: tuple(LISTS[i]) for i in range(3)}
    kinds = {int(data.images[i].max()) // 10: data.classes[data.labels[i]] for i in range(3)}
    assert kinds == {0: "cat", 1: "cat", 2: "dog"}
    assert load_data(images(tmp_path / "l", lines, label="x")).classes == ("x",)


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "p", text=["a", None, " "], size=[1, 2, 3])
    fails("2 of 3 rows have no caption in column 'text', first row 1; fill them in or remove them", folder)
    fails("unknown column of captions 'txt'; did you mean 'text'", folder, caption_column="txt")
    fails("column 'size' holds int64, expected captions: text, or lists of text", folder, caption_column="size")
    fails("names a column of a hub set or a folder, and digits is none", "digits", caption_column="text")
    numbers = parquet(tmp_path / "n", text=[[1], [2]])
    fails("column 'text' holds lists of int64, expected captions", numbers, caption_column="text")


def test_images_and_metadata_have_to_fit(tmp_path: Path) -> None:
    fails(
        r"1 of 2 images have no line in the metadata, first b\.png; add one or remove them",
        images(tmp_path / "f", {"a.png": "a cat", "b.png": None}),
    )
    bare = images(tmp_path / "bare", {"cat/a.png": "x"}, column="licence")
    fails(r"the metadata has no labels and no captions \(its columns are image, licence\); name their column", bare)
    images(tmp_path / "h" / "train", {"a.png": "a cat"})
    for folder in ("h/test/cat", "i/train/cat", "i/test/cat", "j"):
        (tmp_path / folder).mkdir(parents=True)
        picture(1).save(tmp_path / folder / "b.png")
    fails("test has no metadata.jsonl or metadata.csv and another split has; give both", str(tmp_path / "h"))
    (tmp_path / "i" / "metadata.jsonl").write_text("{}")
    fails("metadata.jsonl lies beside test, train; expected one in each of them", str(tmp_path / "i"))
    (tmp_path / "j" / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "a"}\n')
    fails(r"the metadata names .*gone\.png, which is no image there", str(tmp_path / "j"))


def training(folder: str, seed: int = 0) -> Training:
    data = load_data(folder, caption_column="said")
    classes, inputs, text = asked(data, ["text"])
    net = net_config("8x8", 3, 8, classes, channels=8, **inputs)
    return Training(data, TrainConfig(net, text=text, steps=4, batch_size=64, seed=seed, drop=0.0), None)


def test_a_visit_draws_one_of_the_captions_of_its_image_by_seed(tmp_path: Path) -> None:
    """Each equally often, to five standard errors, never one of another image; the same for the same seed and step."""
    folder = parquet(tmp_path / "p", said=LISTS)
    first, again, other = training(folder), training(folder), training(folder, seed=1)
    assert first.conditions is not None
    assert first.conditions.text is not None
    sentences = sorted({sentence for own in LISTS for sentence in own})
    sentence_of = {
        tuple(ids): sentence for ids, sentence in zip(first.conditions.text.tolist(), sentences, strict=True)
    }

    def drawn(run: Training, step: int) -> list[tuple[int, str]]:
        index, ids = run.batches.index(step), text_of(run, step)
        return [(i, sentence_of[tuple(own)]) for i, own in zip(index.tolist(), ids.tolist(), strict=True)]

    pairs = [pair for step in range(20) for pair in drawn(first, step)]
    assert all(sentence in LISTS[i] for i, sentence in pairs)
    for i, own in enumerate(LISTS):
        visits = [sentence for j, sentence in pairs if j == i]
        for sentence in own:
            assert abs(visits.count(sentence) / len(visits) - 1 / len(own)) < 5 * (0.25 / len(visits)) ** 0.5
    assert drawn(again, 3) == drawn(first, 3)
    assert drawn(other, 3) != drawn(first, 3)
    assert torch.equal(torch.cat([text_of(first, 3, rank, 2) for rank in (0, 1)]), text_of(first, 3))


def text_of(run: Training, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
    """What a process tells the network in a step."""
    assert run.conditions is not None
    index, (x0, _) = run.batches.index(step, rank, world), run.batches.batch(step, rank, world)
    return run.conditions.drawn(index, x0, run.config, step, rank, world).values["text"]


def test_one_caption_each_needs_no_draw(tmp_path: Path) -> None:
    run = training(parquet(tmp_path / "p", said=TEXTS))
    assert run.conditions is not None
    assert run.conditions.captions is None
    assert torch.equal(text_of(run, 2), run.conditions.at(run.batches.index(2)).values["text"])


def test_the_command_trains_text_on_a_folder_and_samples_from_it(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "p", said=LISTS)
    train = [
        "train",
        "--data",
        folder,
        "--caption-column",
        "said",
        "--conditions",
        "text",
        "--steps",
        "2",
        "--channels",
        "8",
    ]
    assert main([*train, "--batch-size", "4", "--out", str(tmp_path / "run")]) == 0
    sample = ["sample", str(tmp_path / "run"), "--cond", "a red square", "--n", "1", "--steps", "1"]
    assert main([*sample, "--guidance", "cfg(2)", "--out", str(tmp_path / "i")]) == 0
