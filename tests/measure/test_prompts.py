"""Files of prompts, and scores by prompts alone: what they are by hand, with features whose cosines are known."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.measure.comparison import listed_prompts, prompt_reader
from fairlead.measure.evaluator import PromptEvaluator
from fairlead.measure.extractors import Extractor, TextFeatures
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife
from fairlead.measure.image_sets import read_images
from fairlead.measure.references import check_prompted, text_of
from fairlead.measure.sample_metrics import pairwise_diversity, shares_at_limits
from fairlead.models.encoders import ConditionEncoder, PromptEncoder
from fairlead.models.model import LabelEncoder
from fairlead.tune.targets import Targets, targets_for

WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "yellow": (1.0, 1.0, 0.0)}


def colours(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean(dim=(2, 3))


def read(texts) -> TextFeatures:
    return TextFeatures(torch.tensor([WORDS[text] for text in texts]), 0, "words@0")


COLOURS = Extractor("colours", "colours@0", 3, colours, texts=read)
"""The mean colour of an image, and the colours that words name."""
PIXELS = Extractor("pixels", "pixels@0", 12, lambda images: images.flatten(1).float())


def stand_in(**given) -> Any:
    """What is asked of a model."""
    return SimpleNamespace(**given)


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def evaluator(asked=("red", "green", "yellow"), **more) -> PromptEvaluator:
    return PromptEvaluator(asked, asked, COLOURS, PIXELS, **more)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffa red cat\r\n\r\n  two dogs \n\n"),
        ("p", "a red cat\ntwo dogs"),
        ("p.jsonl", '{"prompt": "a red cat"}\n\n"two dogs"\n'),
        ("p.jsonl", '{"file": "0.png", "text": "a red cat"}\n{"file": "1.png", "text": "two dogs"}\n'),
        ("p.csv", "file,caption\n0.png,a red cat\n1.png,two dogs\n"),
    ],
)
def test_a_prompt_stands_on_a_line_or_in_a_row(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert listed_prompts(tmp_path / name) == ["a red cat", "two dogs"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "the file holds no prompt; write one per line"),
        ("p.txt", b" \n\r\n\t", "the file holds no prompt; write one per line"),
        ("p.txt", b"caf\xe9\n", "is not text in UTF-8"),
        ("p.jsonl", b"", "the file holds no prompt"),
        (
            "p.jsonl",
            b'{"prompt": "red"}\n{"prompt": " "}',
            r"entry 2: expected a prompt \(prompt, text, caption\), got none",
        ),
        ("p.jsonl", b"a red cat\n", "cannot be read"),
        ("p.csv", b"file,words\n0.png,red\n", "entry 2: expected a prompt"),
    ],
)
def test_files_without_prompts_are_refused_in_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        listed_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is a folder|cannot be read \(no such file"):
            listed_prompts(other)


def test_the_cosine_is_that_of_an_image_and_its_own_prompt():
    images = torch.zeros(6, 3, 2, 2, dtype=torch.uint8)
    images[:, 0] = 100  # red, each of them
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    score = evaluator().score(images, labels, None, range(6), saturation=torch.zeros(6, dtype=torch.float64))
    expected = (1 + 0 + math.sqrt(0.5)) / 3  # red, green, and 45 degrees from yellow
    assert score.metrics["cosine"].value == pytest.approx(expected, abs=1e-12)
    assert score.metrics["cosine"].error == 0  # nothing differs between the seeds of a prompt
    assert score.metrics["saturation"].value == 0
    assert "distance" not in score.metrics
    assert "accuracy" not in score.metrics
    assert (score.protocol.judge, score.protocol.reference, score.protocol.text) == (
        "none",
        "none",
        "words@0, colours@0",
    )


def test_errors_are_those_of_other_seeds_under_the_same_prompts():
    labels = torch.arange(12) % 3
    cosines = F.normalize(colours(pictures(12)).double(), dim=1) @ F.normalize(read(WORDS).values.double(), dim=1).T
    own = cosines[torch.arange(12), labels]
    score = evaluator().score(pictures(12), labels, None, range(12))
    assert score.metrics["cosine"].value == pytest.approx(float(own.mean()), abs=1e-12)
    within = sum(4 * float(own[labels == label].var()) for label in range(3))
    assert score.metrics["cosine"].error == pytest.approx(math.sqrt(within) / 12, abs=1e-12)
    diverse = pairwise_diversity(pictures(12).flatten(1).float(), labels)
    assert score.metrics["diversity"] == diverse


def test_differences_are_paired_over_prompts_and_seeds():
    """What the prompt alone decides has no error; what differs between seeds has that within prompts."""
    labels = torch.arange(12) % 3
    a, b = (evaluator().score(pictures(12, seed), labels, None, range(12)) for seed in (0, 1))
    assert a.samples is not None
    assert b.samples is not None
    change = a.compare(b)["cosine"]
    each = a.samples.values["cosine"] - b.samples.values["cosine"]
    assert change.paired
    assert change.value == pytest.approx(float(each.mean()), abs=1e-12)
    within = sum(4 * float(each[labels == label].var()) for label in range(3))
    assert change.error == pytest.approx(math.sqrt(within) / 12, abs=1e-12)
    values = {"cosine": a.samples.values["cosine"] + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)[labels]}
    moved = replace(a, samples=replace(a.samples, values=values)).compare(a)["cosine"]
    assert moved.value == pytest.approx(0.2, abs=1e-12)
    assert moved.error == pytest.approx(0, abs=1e-12)


def test_the_distance_is_that_to_the_real_images_also_where_there_are_more_features_than_images(tmp_path):
    from PIL import Image

    for i, picture in enumerate(pictures(40, 5)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    data = read_images(str(tmp_path)).data
    reference, held_out = data.subset(slice(0, 28)), data.subset(slice(28, 40))
    made, labels = evaluator(reference=reference, held_out=held_out), torch.arange(9) % 3
    features = [pictures(9, seed).flatten(1).float() for seed in (0, 1)]
    real = Moments.of(reference.images.flatten(1).float())
    a, b = (made.score(pictures(9, seed), labels, None, range(9)) for seed in (0, 1))
    assert a.metrics["distance"].value == frechet_distance(real=real, fake=Moments.of(features[0]))
    assert a.metrics["distance_debiased"] == frechet_jackknife(real=real, fake_features=features[0], labels=labels)
    assert a.compare(b)["distance_debiased"].paired  # 9 images of 12 features
    floor = made.floor(6)
    each = [Moments.of(held_out.images[i].flatten(1).float()) for i in stratified(held_out.labels).split(6)]
    expected = [frechet_distance(real=real, fake=one) for one in each]
    assert (floor.blocks, floor.n, sorted(floor.metrics)) == (2, 6, ["distance", "distance_debiased"])
    assert floor.metrics["distance"].value == pytest.approx(sum(expected) / 2, rel=1e-6)  # averaged in float32
    empty = evaluator().floor(6)
    assert (empty.metrics, empty.blocks, empty.note) == ({}, 0, "no real images")


def stratified(labels):
    from fairlead.data.images import stratified_order

    return stratified_order(labels, seed=0)


def test_prompts_are_asked_for_in_turn_and_what_is_too_few_is_said():
    made = evaluator(("red", "green", "red"))
    asked = targets_for(stand_in(), made, 7)
    assert asked.conds == ("red", "green", "red", "red", "green", "red", "red")
    assert (asked.labels.tolist(), asked.names) == ([0, 1, 0, 0, 1, 0, 0], ("red", "green"))
    assert asked.notes == ("diversity leaves out 1 of 2 prompts: fewer than 3 of the 7 images; n = 9 would do",)
    assert Targets.of_prompts(made, 9).notes == ()
    first = Targets.of_prompts(made, 2).notes
    assert first[0] == "only the first 2 of 3 prompts are used, one image each"
    part = asked.part(slice(1, 3))
    assert (part.conds, part.labels.tolist(), part.names) == (("green", "red"), [1, 0], asked.names)


def test_saturation_is_that_of_what_was_decoded():
    x0 = torch.tensor([[[[1.0, 0.5]]], [[[-1.0, 2.0]]]]).expand(2, 3, 1, 2)
    samples = evaluator().samples(pictures(2), torch.tensor([0, 1]), x0)
    assert torch.equal(samples.values["saturation"], shares_at_limits(x0))
    assert samples.values["saturation"].tolist() == [0.5, 1.0]


def test_what_reads_the_prompts_is_named_or_the_features_where_they_can():
    assert prompt_reader(None, COLOURS) is COLOURS
    with pytest.raises(UsageError, match="prompts: features 'random' embed no text, so no image has a cosine"):
        prompt_reader("random", COLOURS)
    with pytest.raises(UsageError, match="features 'pixels' embed no text"):
        PromptEvaluator(["red"], ["red"], PIXELS, PIXELS)
    narrow = Extractor("narrow", "narrow@0", 2, lambda images: colours(images)[:, :2], texts=read)
    with pytest.raises(UsageError, match=r"give texts \[1, 3\], expected one row per text of 2 features"):
        PromptEvaluator(["red"], ["red"], narrow, PIXELS)


def test_the_text_of_a_condition_and_models_that_need_more_than_text():
    encode = ConditionEncoder(
        {"text": PromptEncoder(lambda texts: torch.zeros(len(texts), 1)), "label": LabelEncoder(("a",))}
    )
    model = stand_in(encode=encode, conditions=("text", "label"), classes=("a",))
    assert text_of(model, "red") == text_of(model, " text=red; label=a") == "red"
    with pytest.raises(UsageError, match="'label=a' has no text; expected a prompt such as 'a red cat'"):
        text_of(model, "label=a")
    check_prompted(model)
    with pytest.raises(UsageError, match="conditioned on label, not on text; leave them out, its classes need none"):
        check_prompted(stand_in(conditions=("label",), classes=("a",)))
    with pytest.raises(UsageError, match="conditioned on nothing, not on text; leave them out"):
        check_prompted(stand_in(conditions=(), classes=()))
    with pytest.raises(UsageError, match="is conditioned on an image and text"):
        check_prompted(stand_in(conditions=("text", "image"), classes=()))
