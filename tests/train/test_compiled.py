"""A compiled training is the uncompiled one to rounding, and its checkpoints are those of any other."""

from collections.abc import Iterator
from functools import partialmethod
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import fairlead as fl
from fairlead.core.errors import Remark, UsageError
from fairlead.core.schedule import VPCosine
from fairlead.nets.compiling import no_compiler
from fairlead.train import loop
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from tests.train.tiny import PARTS, digits, same_bits, tensors_of, tiny_config, tiny_net

run_module = import_module("fairlead.sample.run")  # fl.sample is the function


WITHOUT_GRADIENT = ("up.1.0.0.conv2.bias", "up.1.0.0.skip.bias")
"""The last norm has a group a channel and takes these away: their gradient is rounding, of which AdamW makes steps."""


def tried(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    for module in (loop, run_module):
        monkeypatch.setattr(module, "no_compiler", lambda device: reason)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler that takes graphs, and runs them as they are."""
    torch.compiler.reset()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    tried(monkeypatch, "")
    yield
    torch.compiler.reset()


def compiled(config: TrainConfig, out: Path, resume: bool = False, until: int = 1000) -> Training:
    training = Training(digits(), config, out, resume, compile=True)
    for record in training.run():
        if record.step == until:
            break
    return training


def test_a_compiled_training_is_resumed_to_its_bits_and_read_by_all(graphs: None, tmp_path: Path) -> None:
    config = tiny_config(steps=4, checkpoint_every=2, optimizer="muon")
    compiled(config, tmp_path / "whole")
    compiled(config, tmp_path / "parts", until=3)
    assert compiled(config, tmp_path / "parts", resume=True).notes == []
    assert same_bits(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))
    plain = Training(digits(), config, tmp_path / "plain")
    list(plain.run())
    ours, theirs = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "plain")
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-5, msg=name)
    drawn = [fl.sample(tmp_path / name, "three", n=8, steps=4).x0 for name in ("whole", "plain")]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-5)
    assert find_checkpoint(tmp_path / "whole").about["compiled"] is True
    assert find_checkpoint(tmp_path / "plain").about["compiled"] is False
    assert set(PARTS) == set(find_checkpoint(tmp_path / "whole").about["files"])

    model = fl.load(tmp_path / "whole")
    one, two = (fl.sample(model, "three", guidance="cfg(3) + pag(1)", n=3, steps=2, compile=on) for on in (False, True))
    torch.testing.assert_close(two.x0, one.x0, rtol=0, atol=1e-4)
    assert "compile" not in one.settings
    assert two.settings["compile"] is True
    assert two.cost.rows == one.cost.rows == 3 * 2 * 3


def test_going_on_uncompiled_is_said(graphs: None, tmp_path: Path) -> None:
    config = tiny_config(steps=2, checkpoint_every=1)
    compiled(config, tmp_path, until=1)
    (note,) = Training(digits(), config, tmp_path, resume=True).notes
    assert "compiled was True, now False): equal to rounding" in note


def test_without_a_compiler_one_line_says_so_and_it_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried(monkeypatch, "no C++ compiler was found")
    training = compiled(tiny_config(steps=1), tmp_path)
    assert training.notes == ["trains uncompiled: no C++ compiler was found"]
    assert find_checkpoint(tmp_path).about["compiled"] is False
    with pytest.warns(Remark, match="sampling runs uncompiled: no C\\+\\+ compiler was found"):
        run = fl.sample(str(tmp_path), "three", steps=1, compile=True)
    assert "compile" not in run.settings


def test_what_cannot_be_compiled_is_refused() -> None:
    config = tiny_config(net=tiny_net(internal=True), internal=0.5)
    with pytest.raises(UsageError, match=r"compile: the head in the middle \(internal\) runs uncompiled; train"):
        Training(digits(), config, None, compile=True)
    with pytest.raises(
        UsageError, match=r"compile: expected a model whose network was trained here, .* pipe\.unet\.com"
    ):
        fl.sample(fl.toy(fl.GaussianMixture.ring(classes=4), VPCosine()), "2", compile=True)
    with pytest.raises(UsageError, match=r"compile: expected True or False, got 'yes'"):
        fl.sample(fl.toy(fl.GaussianMixture.ring(classes=4), VPCosine()), "2", compile="yes")  # type: ignore[arg-type]


@pytest.mark.slow
def test_compiled_by_the_real_compiler_it_is_equal_to_rounding(tmp_path: Path) -> None:
    if reason := no_compiler("cpu"):
        pytest.skip(reason)
    trainings = [Training(digits(), tiny_config(net=tiny_net(channels=8)), None, compile=on) for on in (False, True)]
    for _ in range(2):
        (loss, norm, _), (other_loss, other_norm, _) = (training.take_step() for training in trainings)
        torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(other_norm, norm, rtol=1e-4, atol=0)
