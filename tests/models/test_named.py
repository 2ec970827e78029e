"""Conditions are resolved once, to names: everything that is written and read again means what was sampled."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.schedule import schedule_from_config
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.images import ImageData
from fairlead.data.specs import written
from fairlead.measure.image_sets import common_labels, read_images
from fairlead.measure.prediction_errors import CleanSamples
from fairlead.models.encoders import ConditionEncoder, PromptEncoder
from fairlead.models.load import _examples
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.report.interpolations import interpolate
from fairlead.tune.setting import Setting
from fairlead.tune.sweep_run import Shared, Sweep
from fairlead.tune.template import Template


def model_of(classes: tuple[str, ...]) -> Model:
    """Every pixel of class i is i / 10."""

    def denoiser(x_t, t, condition):
        level = torch.where(condition.keep["label"], condition.values["label"] / 10, -1.0)
        return fl.Prediction.from_x0(level[:, None, None, None].expand_as(x_t).to(x_t), x_t, *(torch.tensor(0.5),) * 2)

    shape = (1, 8, 8)
    return Model(
        denoiser,
        schedule_from_config({"name": "flow"}),
        shape,
        LabelEncoder(classes),
        identity,
        classes,
        (-1, 1),
        conditions=("label",),
    )


def shown(run) -> Any:
    """The class that each image is of."""
    return (run.x0[:, 0, 0, 0] * 10).round().long().tolist()


OPTIONS: dict[str, Any] = {"steps": 2}


@pytest.mark.parametrize(
    "classes", [("1", "2", "3"), ("01", "02", "03"), ("0", "1", "2"), DIGIT_NAMES, ("2", "0", "1")]
)
def test_pictures_say_the_class_that_they_show(classes, tmp_path) -> None:
    """Whatever is sampled, by name or by number, PNG, run.json and `measure` give the class that was sampled."""
    model = model_of(classes)
    asked: list = [*classes[:3], "index 1"]
    numbers: list[Any] = [0, 1, 2, "0", "1", "2", np.int64(1)]
    for number in numbers:
        if LabelEncoder(classes).find(number) is not None:
            asked.append(number)
    run = fl.sample(model, asked, **OPTIONS)
    assert [classes.index(str(cond)) for cond in run.conds] == shown(run) == run.condition.values["label"].tolist()
    run.save(tmp_path / "run")
    saved = sorted((tmp_path / "run").glob("*.png"))
    said = [json.loads(Image.open(path).info["fairlead"])["cond"] for path in saved]
    assert said == json.loads((tmp_path / "run" / "run.json").read_text())["conds"] == list(run.conds)
    images = torch.stack([torch.full((1, 8, 8), i, dtype=torch.uint8) for i in range(len(classes))])
    real = replace(
        read_images("digits@test"),
        data=ImageData(images, torch.arange(len(classes)), classes, "real", "", False),
    )
    labels = common_labels(real, read_images(str(tmp_path / "run")))
    assert labels is not None
    assert labels.tolist() == shown(run)


def test_numbers_that_could_be_names_are_refused_before_anything_is_sampled() -> None:
    for cond in ([1, 2], 1, "0", {"label": 1}):
        with pytest.raises(UsageError, match="class"):
            fl.sample(model_of(("1", "2", "3")), cond, **OPTIONS)
    with pytest.raises(UsageError, match=r"unknown class '1' \(known: 01, 02, 03\)"):
        fl.sample(model_of(("01", "02", "03")), "1", **OPTIONS)
    for text in ("cfg(2, negative=1)", "compose({1: 2})", "perp_neg(2, 1)", "bands([2, 3], negative=1)"):
        with pytest.raises(UsageError, match="names here are numbers"):
            fl.sample(model_of(("1", "2", "3")), None if "compose" in text else "1", guidance=text, **OPTIONS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cfg(2, negative=1)", 'cfg(2, negative="one")'),
        ("apg(cfg(2, negative=1)).during(t=(0, 1))", 'apg(cfg(2, negative="one")).during(t=(0, 1))'),
        ("cfg(2) + cfg(3, negative=2) | clip()", 'cfg(2) + cfg(3, negative="two") | clip()'),
        ("perp_neg(2, 1)", 'perp_neg(2, "one")'),
        ("bands([2, 3], negative=1)", 'bands([2, 3], negative="one")'),
        ('cfg(2, negative="ONE")', 'cfg(2, negative="one")'),
    ],
)
def test_a_guidance_is_written_by_name(given: str, expected: str) -> None:
    run = fl.sample(model_of(DIGIT_NAMES), "seven", guidance=given, **OPTIONS)
    assert run.settings["guidance"] == run.provenance(0)["guidance"] == expected
    assert torch.equal(run.x0, fl.sample(model_of(DIGIT_NAMES), 7, guidance=expected, **OPTIONS).x0)


def test_a_composition_names_each_class_once() -> None:
    run = fl.sample(model_of(DIGIT_NAMES), guidance=fl.compose({7: 2, "one": -1}), **OPTIONS)
    assert run.settings["guidance"] == 'compose({"seven": 2, "one": -1})'
    with pytest.raises(UsageError, match="'seven' is named twice, the second time as 7"):
        fl.sample(model_of(DIGIT_NAMES), guidance=fl.compose({"seven": 2, 7: 1}), **OPTIONS)


def test_pictures_of_the_first_version(tmp_path) -> None:
    """A number in a picture was an index, text was a name first; text that was the index of a number is refused."""
    images = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)

    def labels(classes, conds):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        run = fl.sample(model_of(classes), classes[0], n=len(conds), **OPTIONS)
        object.__setattr__(run, "conds", conds)
        run.save(folder)
        data = ImageData(images, torch.arange(3), classes, "real", "", False)
        return common_labels(replace(read_images("digits@test"), data=data), read_images(str(folder)))

    assert labels(("1", "2", "3"), (1, 2)).tolist() == [1, 2]
    assert labels(("1", "2", "3"), ("1", "2")).tolist() == [0, 1]
    assert labels(("a", "b", "c"), (1, "2")).tolist() == [1, 2]
    assert labels(("01", "02", "03"), ("1", "2")) is None


def lengths(prompts) -> torch.Tensor:
    return torch.tensor([[float(len(prompt))] for prompt in prompts])


def several(classes: tuple[str, ...]) -> ConditionEncoder:
    return ConditionEncoder({"text": PromptEncoder(lengths), "label": LabelEncoder(classes)})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"label": "2", "text": "a; b"}, 'label=2; text="a; b"'),
        ("label=2", "label=2"),
        ("label=index 2", "label=3"),
        ("2", "2"),  # a prompt
        ({"label": None, "text": "x"}, "x"),
        ({"text": "label=2"}, "text=label=2"),
        ({"label": None}, None),
        (None, None),
    ],
)
def test_several_conditions_by_name(given, expected) -> None:
    encoder = several(("1", "2", "3"))
    assert encoder.named(given) == expected
    if not isinstance(given, dict) or None not in given.values():
        text = given if not isinstance(given, dict) else written(given)
        assert encoder([text]).equals(encoder([expected]))


def test_an_index_among_several_conditions() -> None:
    assert several(DIGIT_NAMES).named({"label": 7, "text": "x"}) == "label=seven; text=x"
    assert several(DIGIT_NAMES).named("label=7") == "label=seven"
    for spec in ({"label": 1}, "label=0"):
        with pytest.raises(UsageError, match="class"):
            several(("1", "2", "3")).named(spec)


def test_examples_of_the_first_version_had_places() -> None:
    encoder = several(("1", "2", "3"))
    old = {"examples": ["label=0; text=a", "label=1; text=b", "text=c"]}
    assert _examples(old, encoder) == ("label=1; text=a", "label=2; text=b", "c")
    new = {"examples": ["label=1; text=a"], "by_name": True}
    assert _examples(new, encoder) == ("label=1; text=a",)


def test_the_way_between_two_classes_is_named() -> None:
    model = replace(model_of(DIGIT_NAMES), embed=lambda condition: replace(
        condition, values={"label": condition.values["label"].double()}
    ))  # fmt: skip
    way = interpolate(model, 1, "7", n=1, frames=3, **OPTIONS)
    assert way.ends == ("one", "seven")
    assert way.run.conds == ("1 one + 0 seven", "0.5 one + 0.5 seven", "0 one + 1 seven")


@pytest.mark.parametrize("classes", [("1", "2", "3"), DIGIT_NAMES])
def test_a_probe_asks_for_the_classes_of_its_images_and_for_the_next_ones(classes) -> None:
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(6) % len(classes)
    model = model_of(classes)
    for data in (ImageData(images, labels, classes, "toy", "test", False), None):
        probe = CleanSamples.of(model, data, None)
        own, other = (model.encode(specs).values["label"] for specs in (probe.specs, probe.others))
        assert all(isinstance(spec, str) for spec in [*probe.specs, *probe.others])
        assert other.tolist() == ((own + 1) % len(classes)).tolist()
    assert sorted(own.tolist()) == sorted(i % len(classes) for i in range(64))


def test_a_sweep_and_a_search_are_written_by_name() -> None:
    setting = Setting("x", "cfg(2, negative=1)", "ddim", 2)
    sweep = Sweep([setting], Shared(n=6, conds=("7", "one")), lambda _: model_of(DIGIT_NAMES))
    assert [s.guidance for s in sweep.keys] == ['cfg(2, negative="one")']
    assert sweep.described()["conds"] == ("seven", "one")
    assert sweep.labels == [1, 7]
    template = Template.of("cfg({scale}, negative=1)", ["scale=2:8"]).named(model_of(DIGIT_NAMES).named)
    assert template.filled((2.0,)) == 'cfg(2, negative="one")'
