"""Two folders: what is read, what is found, what is claimed, what is warned about."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import stratified_order
from fairlead.measure.compare import compare, nearest_pairs
from fairlead.measure.comparison import CHOICES, METRICS, clear, read_prompts, text_score
from fairlead.measure.extractors import Extractor, extractor
from fairlead.measure.image_sets import ImageSet, common_labels, read_images
from fairlead.measure.judge import ClassifierRecipe
from fairlead.measure.metrics import Estimate
from fairlead.report.comparisons import findings, measure_table
from tests.measure.test_extractors import CLIP
from tests.measure.tiny_clip import tiny_clip

PIXELS = Extractor("pixels", "pixels@0", 16, lambda x: F.adaptive_avg_pool2d(x[:, :1].float() / 255, 4).flatten(1))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path_factory.mktemp("features")))


def written(folder: Path, images: torch.Tensor, ending=".png", start=0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images, start):
        array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{i:05d}{ending}")
    return folder


def image_set(images, labels=None, classes=("image",), name="x") -> ImageSet:
    labelled = labels is not None
    data = replace(load_digits("test"), images=images, labels=labels if labelled else torch.zeros(len(images)).long(),
                   classes=classes, name=name)  # fmt: skip
    return ImageSet(data, labelled, (), {}, ())


def digits(count=400, start=0) -> torch.Tensor:
    data = load_digits("train")
    return data.images[stratified_order(data.labels, 0)[start : start + count]]


def test_a_flat_folder_and_one_with_classes(tmp_path):
    images = digits(12)
    flat = read_images(str(written(tmp_path / "flat", images)))
    assert torch.equal(flat.data.images, images)
    assert (flat.labelled, flat.files[3], dict(flat.encodings)) == (False, "00003.png", {"PNG": 12})
    written(tmp_path / "two" / "cat", images[:5])
    written(tmp_path / "two" / "dog", images[5:])
    two = read_images(str(tmp_path / "two"))
    assert torch.equal(two.data.images, images)
    assert (two.data.classes, two.data.labels.tolist()) == (("cat", "dog"), [0] * 5 + [1] * 7)
    assert two.files[5] == "dog/00000.png"
    assert two.described == f"two#{two.data.fingerprint}"


def test_other_files_are_told_and_the_overview_of_a_run_is_left_out(tmp_path):
    folder = written(tmp_path / "run", digits(4))
    written(folder, torch.zeros(1, 3, 40, 90).byte(), "grid.png")
    (folder / "00000grid.png").rename(folder / "grid.png")
    (folder / "run.json").write_text("{}")
    (folder / ".DS_Store").write_text("")
    found = read_images(str(folder))
    assert len(found) == 4
    assert found.notes == ("left out of run: run.json, grid.png",)


def test_the_conditions_of_sampled_images_are_their_classes(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    for i, cond in enumerate(["seven", "3", "seven", "3"]):
        note = PngInfo()
        note.add_itxt("fairlead", json.dumps({"cond": cond}))
        Image.fromarray(digits(4)[i, 0].numpy()).save(tmp_path / f"{i}.png", pnginfo=note)
    found = read_images(str(tmp_path))
    assert found.data.classes == ("3", "seven")
    labels = common_labels(read_images("digits@test"), found)
    assert labels is not None
    assert labels.tolist() == [7, 3, 7, 3]


def test_data_by_name_and_split():
    found = read_images("digits@test", resize=16)
    assert found.described.startswith("digits/test#")
    assert found.data.shape == (1, 16, 16)
    assert read_images("digits").described.startswith("digits/train#")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "unknown data"),
        (lambda p: p, "no images in it"),
        (lambda p: written(p / "one", digits(1)), "only 1 image"),
        (lambda p: written(p / "a", digits(2)) / "00000.png", "is a file; expected a folder"),
        (
            lambda p: written(written(p / "a", digits(2)) / "sub", digits(2)).parent,
            "in it and in its sub-folders (sub)",
        ),
        (lambda p: written(p / "a" / "b" / "c", digits(2)).parent.parent, "deeper than FOLDER/CLASS/IMAGE"),
    ],
)
def test_bad_folders(make, message, tmp_path):
    with pytest.raises(UsageError) as caught:
        read_images(str(make(tmp_path)), what="FAKE")
    assert message in str(caught.value)
    assert "FAKE" in str(caught.value)


def test_a_broken_file_is_named_and_differing_sizes_are_counted(tmp_path):
    written(tmp_path, digits(5))
    written(tmp_path, torch.zeros(2, 1, 9, 12).byte(), start=5)
    with pytest.raises(UsageError, match=r"5 of 8x8 \(00000.png\), 2 of 12x9 \(00005.png\); pass --resize 8"):
        read_images(str(tmp_path))
    assert read_images(str(tmp_path), resize=8).data.shape == (1, 8, 8)
    (tmp_path / "00003.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"cannot read image .*00003\.png"):
        read_images(str(tmp_path), resize=8)


def test_the_same_distribution_shows_no_difference_and_blur_and_collapse_are_named():
    made = extractor("random", device="cpu")
    real, fake = image_set(digits(600)), digits(300, 700)
    same = compare(real, image_set(fake), made)
    assert (same.protocol.block, same.protocol.half, same.protocol.real_n) == (300, 300, 600)
    assert set(same.whole) == set(METRICS) - {"cmmd", "accuracy", "inception_style"}
    text = findings(same)
    assert "no difference between the fakes and real images can be shown at this n" in text[0]
    assert text[1].startswith("No lack of precision or recall can be shown at this n")
    assert text[2].startswith("Variety (vendi): no difference can be shown")

    blurred = F.avg_pool2d(F.pad(fake.float(), (1, 1, 1, 1), mode="replicate"), 3, 1).round().to(torch.uint8)
    text = findings(compare(real, image_set(blurred), made))
    assert "x as far from the real images as real images are from each other" in text[0]

    typical = nearest_pairs(made.features(real.data.images), made.features(fake), 6)
    few = fake[[i for i, _, _ in typical]].repeat(50, 1, 1, 1)  # six images and a grain of noise
    noisy = (few.float() + 2 * torch.randn(few.shape)).clamp(0, 255).to(torch.uint8)
    collapsed = compare(real, image_set(noisy), made)
    text = findings(collapsed)
    assert text[1].startswith("Recall is low beside precision: the fakes cover only part of the real variety")
    assert text[2].startswith("The fakes are less varied than real images")
    assert collapsed.fake["recall"].value < 0.2 < 0.8 < collapsed.floor["recall"].value


def test_the_floor_has_the_shares_of_the_classes_when_the_fakes_have_labels():
    """Ten classes of nearly equal size, one feature that is the class: both halves have the mean of all."""
    data = load_digits("train")
    coded = data.labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    classes = Extractor("classes", "classes@0", 1, lambda x: x[:, :, 0, 0].float())
    real = image_set(coded, data.labels, data.classes)
    found = compare(real, real, classes, metrics=["distance"])
    # each class is halved to within one image, so that means differ by far less than by chance (0.15)
    assert found.floor["distance"].value < 0.03**2
    assert found.floor["distance"].value == pytest.approx(found.fake["distance"].value, abs=0.03**2)


def test_identical_images_encodings_numbers_and_shapes_are_warned_about(tmp_path):
    written(tmp_path / "real", digits(30))
    fake = written(tmp_path / "fake", torch.cat([digits(3), digits(1), digits(8, 500)]))
    written(tmp_path / "jpeg", digits(12, 500), ".jpg")
    real = read_images(str(tmp_path / "real"))
    text = "\n".join(compare(real, read_images(str(fake)), PIXELS).warnings)
    assert "4 of 12 fakes are identical to a real image" in text
    assert "1 of 12 images of FAKE repeat another one" in text
    assert "30 real and 12 fake images" in text
    assert "only 12 images on one side" in text
    text = "\n".join(compare(real, read_images(str(tmp_path / "jpeg"), resize=9), PIXELS).warnings)
    assert "encodings differ (REAL: PNG; FAKE: JPEG)" in text
    assert "real images are 8x8 grey, fakes 9x9 grey" in text
    assert "identical" not in text


@pytest.mark.parametrize("save", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_grey_images_are_copies_of_themselves_however_they_are_saved(save, tmp_path):
    """Also among images in colour, where one side has three channels for all."""
    images = digits(6)
    real = read_images(str(written(tmp_path / "real", images)))
    (tmp_path / "fake").mkdir()
    for i, image in enumerate(images):
        grey = Image.fromarray(image[0].numpy())
        saved = Image.fromarray(image[0].numpy().astype("uint16") * 257) if save == "I;16" else grey.convert(save)
        saved.save(tmp_path / "fake" / f"{i}.{'tif' if save == 'CMYK' else 'png'}")
    fake = read_images(str(tmp_path / "fake"))
    assert fake.pixels == real.pixels
    assert "6 of 6 fakes are identical to a real image" in "\n".join(
        compare(real, fake, PIXELS, metrics=["kid"]).warnings
    )
    written(tmp_path / "real", torch.randint(0, 255, (1, 3, 8, 8)).byte(), start=6)
    mixed = read_images(str(tmp_path / "real"))
    assert mixed.data.shape == (3, 8, 8)
    assert mixed.pixels[:6] == real.pixels
    assert mixed.pixels[6] not in real.pixels
    assert "1 of 7 images of real are in colour, the others grey" in mixed.notes


def test_fewer_than_d_images_have_no_distance_but_a_kid():
    found = compare(image_set(digits(30)), image_set(digits(12, 500)), PIXELS)
    assert "distance" not in found.fake
    assert "at least d + 1 = 17 images" in found.missing["distance"]
    assert {"kid", "precision"} <= set(found.fake)
    assert findings(found)[0].startswith("kid:")


def test_asking_for_some_metrics_gives_these(monkeypatch):
    found = compare(image_set(digits(60)), image_set(digits(60, 100)), PIXELS, metrics=["kid", "recall"])
    assert list(found.fake) == list(found.floor) == list(found.whole) == ["kid", "recall"]
    assert [row[0] for row in measure_table(found)[1]] == ["kid", "recall"]
    with pytest.raises(UsageError, match="unknown metric 'fid'"):
        compare(image_set(digits(60)), image_set(digits(60)), PIXELS, metrics=["fid"])
    with pytest.raises(UsageError, match="cmmd is defined on CLIP features"):
        compare(image_set(digits(60)), image_set(digits(60)), PIXELS, metrics=["cmmd"])
    with pytest.raises(UsageError, match="accuracy needs class sub-folders in both"):
        compare(image_set(digits(60)), image_set(digits(60)), PIXELS, metrics=["accuracy"])


def test_the_judge_sees_wrong_classes(monkeypatch):
    """Two classes that differ in brightness; the fakes of one are wrong in 30 of 40."""
    monkeypatch.setattr(
        import_module("fairlead.measure.judge"),
        "recipe_for",
        lambda data, role: ClassifierRecipe(seed=1, steps=60, width=8),
    )
    dark, bright = (torch.randint(low, low + 60, (60, 1, 8, 8)).byte() for low in (20, 170))
    real = image_set(torch.cat([dark, bright]), torch.arange(2).repeat_interleave(60), ("dark", "bright"))
    images = torch.cat([bright[:40].flip(-1), dark[:10].flip(-1), bright[10:40].flip(-2)])
    fake = image_set(images, torch.tensor([0] * 40 + [1] * 40), ("bright", "dark"))
    found = compare(real, fake, PIXELS, metrics=["accuracy"])
    rows = {row.name: row for row in found.classes}
    assert rows["bright"].fake is not None
    assert rows["dark"].fake is not None
    assert (rows["bright"].fake.value, rows["dark"].fake.value) == (1.0, 0.25)
    assert (found.floor["accuracy"].value, found.floor["accuracy"].n) == (1.0, 24)
    assert found.fake["accuracy"].value == 50 / 80
    assert "inception_style" not in found.fake
    assert "Below the real images of their class: dark" in findings(found)[0]


def test_the_inception_style_score_counts_the_classes_at_equal_n(monkeypatch):
    """Of 80 fakes all are dark: one class; the 24 held-out real images are of two. Without classes there is none."""
    monkeypatch.setattr(
        import_module("fairlead.measure.judge"),
        "recipe_for",
        lambda data, role: ClassifierRecipe(seed=1, steps=60, width=8),
    )
    dark, bright = (torch.randint(low, low + 60, (60, 1, 8, 8)).byte() for low in (20, 170))
    real = image_set(torch.cat([dark, bright]), torch.arange(2).repeat_interleave(60), ("dark", "bright"))
    fake = image_set(torch.cat([dark, dark[:20].flip(-1)]), torch.arange(2).repeat_interleave(40), ("dark", "bright"))
    found = compare(real, fake, PIXELS, metrics=["inception_style"])
    columns = [part["inception_style"] for part in (found.whole, found.fake, found.floor)]
    assert [round(column.value, 1) for column in columns] == [1.0, 1.0, 2.0]
    assert [column.n for column in columns] == [80, 24, 24]
    with pytest.raises(UsageError, match="inception_style needs class sub-folders in both"):
        compare(image_set(digits(60)), image_set(digits(60)), PIXELS, metrics=["inception_style"])


def test_protocols_differ_in_what_differs():
    real, fake = image_set(digits(60)), image_set(digits(60, 100), name="fakes")
    one = compare(real, fake, PIXELS, metrics=["kid"]).protocol
    again = compare(real, fake, PIXELS, metrics=["kid"]).protocol
    other = compare(real, fake, replace(PIXELS, name="pixels@1"), metrics=["kid"], k=3).protocol
    assert one.hash == again.hash != other.hash
    assert one.differences(other) == {"features": ("pixels@0", "pixels@1"), "k": (5, 3)}
    json.dumps(compare(real, fake, PIXELS).as_dict())


def test_clear_is_two_standard_errors_of_the_difference():
    assert clear(Estimate(1.0, 0.3, 9), Estimate(2.01, 0.4, 9))
    assert not clear(Estimate(1.0, 0.3, 9), Estimate(1.99, 0.4, 9))
    assert not clear(Estimate(1.0, 0.3, 9), Estimate(2.4, 0.4, 9), errors=3)
    assert not clear(Estimate(1.0, float("nan"), 9), Estimate(2.4, 0.4, 9))


def test_nearest_pairs_by_hand():
    real, fake = torch.tensor([[0.0, 0], [3, 4], [10, 0]]), torch.tensor([[10.0, 2], [0, 0], [6, 8]])
    assert nearest_pairs(real, fake, 2, chunk=1) == [(1, 0, 0.0), (0, 2, 2.0)]


def test_the_help_lists_the_metrics_that_can_be_asked_for():
    source = (Path(__file__).parents[2] / "src/fairlead/cli/measure.py").read_text()
    assert f"Some of {', '.join(CHOICES)};" in source


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("hub") / "clip-tiny", CLIP)


@pytest.fixture(scope="module")
def clip(clip_folder):
    return extractor(f"clip:{clip_folder}", device="cpu")


def test_prompts_are_scored_by_the_cosine_of_transformers(clip, clip_folder):
    import transformers

    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    prompts = ["a red square", "a blue square", "red", "a red square"]
    embeddings = clip.features(images)
    found = text_score(embeddings, prompts, clip)

    whole = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(clip_folder)(prompts, padding=True, return_tensors="pt")
    mean, std = (torch.tensor(CLIP[key]).reshape(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        logits = whole(pixel_values=(images / 255 - mean) / std, **tokens).logits_per_image
    cosines = (logits / whole.logit_scale.exp()).detach().double()
    own = cosines.diagonal()
    assert found.cosine.value == pytest.approx(float(own.mean()), abs=1e-5)
    assert found.cosine.error == pytest.approx(float(own.std()) / 2, abs=1e-5)
    different = torch.tensor([[p != q for q in prompts] for p in prompts])
    others = torch.stack([row[mask].mean() for row, mask in zip(cosines, different, strict=True)])
    assert found.others is not None
    assert found.others.value == pytest.approx(float(others.mean()), abs=1e-5)
    assert found.truncated == 0
    assert text_score(embeddings, ["a red blue green square"] * 4, clip).truncated == 1
    assert text_score(embeddings, ["red"] * 4, clip).others is None
    with pytest.raises(UsageError, match="features 'pixels' embed no text; expected those of clip"):
        text_score(embeddings, prompts, PIXELS)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n", "\r\n"])
def test_a_prompt_may_hold_any_separator(mark, tmp_path):
    import csv

    prompts = [f"one{mark}two", "three"]
    lines = [{"file": f"{i}.png", "prompt": prompt} for i, prompt in enumerate(prompts)]
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "prompt"])
        writer.writeheader()
        writer.writerows(lines)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    for name in ("p.csv", "p.jsonl"):
        assert read_prompts(tmp_path / name, ["0.png", "1.png"]) == prompts


def test_prompts_come_from_json_lines_or_csv(tmp_path):
    lines, table = tmp_path / "p.jsonl", tmp_path / "p.csv"
    lines.write_text('{"file": "b.png", "prompt": "two, of"}\n\n{"file": "a.png", "prompt": "one"}\n')
    table.write_text('file_name,text\nb.png,"two, of"\na.png,one\n')
    assert read_prompts(lines, ["a.png", "b.png"]) == read_prompts(table, ["a.png", "b.png"]) == ["one", "two, of"]
    for text, message in (
        ('{"file": "a.png"}', "entry 1: expected a file name"),
        ('{"file": "a.png", "prompt": "x"}\n{"file": "a.png", "prompt": "y"}', "entry 2: a.png has another prompt"),
        ('{"file": "a.png", "prompt": "x"}', r"no prompt for b.png \(1 of 2 images lack one\)"),
        ("{", "cannot be read"),
        ("[1]", "got neither"),
    ):
        lines.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_prompts(lines, ["a.png", "b.png"])
    with pytest.raises(UsageError, match="have no file names"):
        read_prompts(lines, [])
