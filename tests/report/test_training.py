"""The training verbs in Python: the bits of the commands, data in memory, and what they return."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.cli import main
from fairlead.train.checkpoint import find_checkpoint

QUICK: dict[str, Any] = {"steps": 4, "channels": 8, "batch_size": 32}
WORDS = ["--steps", "4", "--channels", "8", "--batch-size", "32"]
IMAGES = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
DATA = fl.data(IMAGES, ["cat", "dog"] * 20)


def bits(run: Path) -> dict[str, str]:
    return dict(find_checkpoint(str(run)).about["files"])


def test_fl_train_is_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = fl.train(out=tmp_path / "python", drop_all=0.1, checkpoint_every=2, **QUICK)
    said = capsys.readouterr().out
    words = ["train", "--out", str(tmp_path / "command"), "--drop-all", "0.1", "--checkpoint-every", "2", *WORDS]
    assert main(words) == 0
    assert capsys.readouterr().out == said.replace("python", "command")
    assert bits(tmp_path / "python") == bits(tmp_path / "command")
    assert (trained.folder, trained.step) == (tmp_path / "python", 4)
    assert trained.loss is not None
    assert trained.loss > 0
    images = fl.sample(trained.model, "seven", n=2, steps=2).images
    assert images is not None
    assert images.shape == (2, 1, 8, 8)


def test_data_in_memory_are_trained_on_and_resumed(tmp_path: Path) -> None:
    fl.train(tmp_path / "run", data=DATA, net="8x8", checkpoint_every=2, preview_every=4, **QUICK)
    assert (tmp_path / "run" / "previews" / "step-000004.png").is_file()
    again = fl.train(tmp_path / "run", data=DATA, net="8x8", checkpoint_every=2, resume=True, **QUICK)
    assert (again.step, again.loss) == (4, None)
    assert again.model.classes == ("cat", "dog")
    other = fl.data(IMAGES.flip(0), ["cat", "dog"] * 20)
    with pytest.raises(fl.UsageError, match="data was"):
        fl.train(tmp_path / "run", data=other, net="8x8", checkpoint_every=2, resume=True, **QUICK)
    with pytest.raises(fl.UsageError, match="already holds a run"):
        fl.train(tmp_path / "run", data=DATA, **QUICK)


@pytest.mark.parametrize("net", [{}, {"net": "dit-small"}], ids=["unet", "dit"])
def test_a_fused_label_is_recorded_loads_resumes_and_is_not_exported(net: dict[str, Any], tmp_path: Path) -> None:
    quick = {"steps": 1, "batch_size": 4, **(net or {"channels": 8}), "conditioning": "fuse"}
    trained = fl.train(tmp_path / "run", **quick)
    assert find_checkpoint(str(tmp_path / "run")).about["net"]["conditioning"] == "fuse"
    assert any(name.startswith("fusion.") for name in find_checkpoint(str(tmp_path / "run")).tensors("ema"))
    assert fl.load(tmp_path / "run").classes == trained.model.classes
    assert fl.train(tmp_path / "run", resume=True, **quick).loss is None
    with pytest.raises(fl.UsageError, match="'conditioning': 'fuse'}, now"):
        fl.train(tmp_path / "run", resume=True, **{**quick, "conditioning": "adaptive"})
    with pytest.raises(fl.UsageError, match="which diffusers does not know"):
        fl.export(tmp_path / "run", tmp_path / "pipeline")
    with pytest.raises(fl.UsageError, match=r"conditioning 'fuse' .* add label to its conditions"):
        fl.train(tmp_path / "none", conditions=("none",), **quick)


def test_a_classifier(tmp_path: Path) -> None:
    trained = fl.train_classifier(tmp_path / "run", **QUICK)
    assert trained.accuracy
    assert (tmp_path / "run" / "accuracy.png").is_file()
    assert trained.model.classes[7] == "seven"
    assert fl.train_classifier(tmp_path / "memory", data=DATA, **QUICK).accuracy == ()


def test_an_autoencoder(tmp_path: Path) -> None:
    trained = fl.train_autoencoder(tmp_path / "run", data=DATA, **QUICK)
    assert set(trained.errors) == {"l1", "psnr"}
    assert trained.model.latent_shape((1, 8, 8)) == (4, 4, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "digit"}, "unknown recipe 'digit'; did you mean 'digits'"),
        ({"stepz": 3}, "unexpected keyword argument 'stepz'"),
        ({"steps": "3"}, "steps"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"out": 3}, "out"),
        ({"data": 3}, "expected a path, got 3"),
        ({"data": DATA, "limit": 3}, "--limit: the data are in memory already"),
        ({"conditions": "text"}, "conditions"),
        ({"objective": "x1"}, "x1"),
        ({"net_config": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"pipeline": "x"}, "--pipeline and --lora go together"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(fl.UsageError, match=message) as caught:
        fl.train(**{"out": tmp_path / "run", **given})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
