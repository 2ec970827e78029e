"""Weights to start from: what fits is taken to the bit, what does not is named, and what they were trained on."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.nets.build import net_config
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.weights.initial import initial_config
from tests.train.test_conditions import captioned
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, tiny_net, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("initial") / "run"
    trained(tiny_config(steps=2), out)
    return out


def five() -> ImageData:
    data = digits(200)
    kept = data.labels < 5
    return dataclasses.replace(data, images=data.images[kept], labels=data.labels[kept], classes=data.classes[:5])


def test_a_training_starts_from_the_averaged_weights_of_another(run):
    training = Training(digits(), tiny_config(init=initial_config(run)), None)
    stored = find_checkpoint(run).tensors("ema")
    for network in (training.network, training.average.module):
        assert same_bits(network.state_dict(), stored)
    assert training.step == 0
    assert training.notes == [f"starts from {run}, step 2, averaged weights: {len(stored)} of {len(stored)} tensors"]


def test_what_does_not_fit_stays_fresh_and_is_named(run):
    net = tiny_net(classes=5)
    training = Training(five(), tiny_config(net=net, init=initial_config(run)), None)
    fresh = Training(five(), tiny_config(net=net), None).network.state_dict()
    stored = find_checkpoint(run).tensors("ema")
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, fresh[name] if name == "label.table" else stored[name])
    (note,) = training.notes
    count, size = len(stored), list(fresh["label.table"].shape)
    assert f"{count - 1} of {count} tensors (99." in note
    assert f"; fresh: label.table {size} (there {list(stored['label.table'].shape)})" in note
    assert "trained with other classes (zero, one, two, three, four, five, six, seven, eight, nine; here zero," in note


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"objective": "eps"}, "trained with other objective ('v'; here 'eps')"),
        ({"schedule": {"name": "vp_linear"}}, "trained with other noise schedule ({'name': 'vp_cosine', 's': 0.008,"),
        ({"net": tiny_net(classes=0)}, "trained with other conditions (label; here none)"),
        ({"net": tiny_net(classes=0)}, "not used: label.null, label.table;"),
    ],
)
def test_what_they_were_trained_with_otherwise_is_said(run, change, said):
    (note,) = Training(digits(), tiny_config(**change, init=initial_config(run)), None).notes
    assert said in note


def test_classes_of_the_same_number_may_still_be_others(run):
    data = digits()
    other = dataclasses.replace(data, classes=data.classes[::-1])
    (note,) = Training(other, tiny_config(init=initial_config(run)), None).notes
    assert "trained with other classes (zero, one," in note
    assert "; here nine, eight," in note


def test_a_reader_of_text_that_has_learnt_does_not_learn_again(tmp_path):
    data = captioned()
    _, inputs, text = asked(data, ["text"], settings={"read": 2, "sketch": 2})
    net = net_config("8x8", 3, 8, 0, channels=8, embed=16, **inputs)
    learnt: list[int] = []
    first = TrainConfig(net, text=text, steps=1, batch_size=4)
    list(Training(data, first, tmp_path / "run", reading=learnt.append).run())
    assert sum(learnt) == 4
    again = dataclasses.replace(first, seed=5, init=initial_config(tmp_path / "run"))
    training = Training(data, again, None, reading=learnt.append)
    assert sum(learnt) == 4
    assert same_bits(training.network.state_dict(), find_checkpoint(tmp_path / "run").tensors("ema"))


def test_weights_that_cannot_be_meant_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"--init .*run: none of its layers fits this network"):
        Training(digits(), tiny_config(net=tiny_net(channels=16, embed=32), init=initial_config(run)), None)
    other = shutil.copytree(run, tmp_path / "other")
    init = initial_config(other)
    trained(tiny_config(steps=3), other, resume=True)
    with pytest.raises(UsageError, match=rf"by now, expected {init['weights']}; name a step, RUN@step2"):
        Training(digits(), tiny_config(init=init), None)
    with pytest.raises(UsageError, match=r"init: expected what initial_config\(RUN\) gives, got"):
        tiny_config(init={"source": str(run)})


def test_a_run_resumes_whether_or_not_what_it_began_from_is_still_there(run, tmp_path):
    source, out = shutil.copytree(run, tmp_path / "source"), tmp_path / "out"
    config = tiny_config(init=initial_config(source), checkpoint_every=3)
    trained(config, tmp_path / "straight")
    trained(config, out, until=3)
    shutil.rmtree(source)
    assert initial_config(source, out) == config.init
    trained(config, out, resume=True)
    assert same_bits(tensors_of(out), tensors_of(tmp_path / "straight"))
    with pytest.raises(UsageError, match=r"init was \{'source': .*\}, now \{\}"):
        Training(digits(), tiny_config(), out, resume=True)
    moved = {**config.init, "source": "elsewhere"}
    assert Training(digits(), tiny_config(init=moved), out, resume=True).step == 6


def test_the_command_says_what_it_starts_from(run, tmp_path, capsys):
    words = ["train", "--steps", "1", "--channels", "8", "--batch-size", "8", "--precision", "fp32"]
    assert main([*words, "--init", str(run), "--out", str(tmp_path / "out")]) == 0
    assert f"starts from {run}, step 2, averaged weights: " in capsys.readouterr().err
    assert find_checkpoint(tmp_path / "out").about["train"]["init"] == initial_config(run)
    assert main([*words, "--init", str(tmp_path / "none"), "--out", str(tmp_path / "more")]) == 2
    assert "the path does not exist" in capsys.readouterr().err
