"""Runs on classes called by numbers and captions with marks: what is written into a checkpoint reads back."""

from dataclasses import replace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.data.specs import data_specs
from fairlead.models.load import load
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.conditions import asked, rule_of_words
from fairlead.train.loop import Training
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, tiny_net, trained

CAPTIONS = ("C++ दिन", "c# दान", "ไก่", "ไก")


def numbered() -> ImageData:
    data = digits(32)
    captions = tuple(CAPTIONS[i % 4] for i in range(32))
    return replace(data, labels=data.labels % 3, classes=("1", "2", "3"), captions=captions)


def config(data: ImageData, **settings):
    classes, inputs, text = asked(data, ["label", "text"], settings=settings)
    return tiny_config(net=tiny_net(classes=classes, **inputs), text=text, steps=2)


def test_a_model_asks_for_the_classes_of_its_data(tmp_path) -> None:
    """By name in model.json, in examples, in what data says; [0, 0, 1, 0] was asked for [0, 1, 2, 0] once."""
    data = numbered()
    trained(config(data), tmp_path / "run", data=data)
    about = find_checkpoint(tmp_path / "run").about
    assert about["train"]["text"]["rule"] == "marks"
    assert len(about["train"]["text"]["vocabulary"]) == 6
    model = load(tmp_path / "run")
    index = torch.arange(32)
    assert model.encode(data_specs(model.conditions, data, index)).values["label"].tolist() == data.labels.tolist()
    wanted = {
        f"label={data.classes[label]}; text={text}" for label, text in zip(data.labels, data.captions, strict=True)
    }
    assert set(model.examples) <= wanted
    assert [model.named(example) for example in model.examples] == list(model.examples)


def test_a_run_of_the_first_rule_of_words_goes_on_with_it(tmp_path) -> None:
    """Also to the bit: resumed halfway it ends where one that was not interrupted does."""
    data, whole, halves = numbered(), tmp_path / "whole", tmp_path / "halves"
    first = config(data, rule="letters")
    assert "rule" not in first.text
    trained(first, whole, data=data)
    training, _ = trained(first, halves, until=1, data=data)
    training.save()
    assert rule_of_words(halves) == {"rule": "letters"}
    assert rule_of_words(tmp_path / "nothing") == {}
    with pytest.raises(UsageError, match="cannot resume"):
        Training(data, config(data), halves, resume=True)
    trained(config(data, **rule_of_words(halves)), halves, resume=True, data=data)
    assert same_bits(tensors_of(whole), tensors_of(halves))
    assert "rule" not in find_checkpoint(halves).about["train"]["text"]
