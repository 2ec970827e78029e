"""Adapters trained here are what plain diffusers' ``load_lora_weights`` makes of their file; the base stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.diffusers.lora import Base
from fairlead.diffusers.pretrained import weight_hash
from fairlead.models.load import load
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from tests.pipelines import made
from tests.pipelines.families import apart
from tests.pipelines.trained import captioned, train
from tests.train.tiny import same_bits, tensors_of

TIMES = (1.0, 0.5, 0.002)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 2 in small: v-prediction, its VAE on colour images."""
    folder = tmp_path_factory.mktemp("lora") / "pipeline"
    scheduler = made.ddim(prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=True)
    made.sd(scheduler=scheduler).save_pretrained(folder)
    return folder


def colours() -> ImageData:
    data = captioned()
    return replace(data, images=data.images.repeat(1, 3, 1, 1))


def config_of(pipeline: Path, data: ImageData, **changes: Any) -> TrainConfig:
    base = Base.of(str(pipeline))
    _, inputs, text = asked(data, ["text"], base.text, settings={"masked": False})
    latents = load_autoencoder(base.folder).config(data.shape)
    fixed: dict[str, Any] = {
        "net": base.net(latents["shape"][0], latents["shape"][1], 4, inputs["text"]), "text": text, "latents": latents,
        "schedule": base.schedule, "objective": base.objective, "steps": 4, "batch_size": 8, "warmup": 1, "lr": 1e-2,
        "ema": 0.5, "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(**{**fixed, **changes})


def predictions(model: fl.Model) -> Tensor:
    x_t = torch.randn(2, 4, 8, 8, generator=made.seeded())
    condition = model.encode(["a red square", None])
    times = (torch.tensor(t, dtype=torch.float64) for t in TIMES)
    return torch.stack([model.denoiser(x_t, t, condition).eps for t in times])


@pytest.mark.slow
def test_an_untrained_adapter_changes_nothing(pipeline: Path, tmp_path: Path) -> None:
    data = colours()
    train(config_of(pipeline, data, lr=1e-30), data, tmp_path / "run")
    assert apart(predictions(load(tmp_path / "run")), predictions(load(pipeline))) < 1e-5


def test_plain_diffusers_with_the_file_predicts_what_our_model_does(pipeline: Path, tmp_path: Path) -> None:
    data, before = colours(), load(pipeline)
    was = {path: path.read_bytes() for path in pipeline.rglob("*.safetensors")}
    train(config_of(pipeline, data), data, tmp_path / "run")
    for weights in ("ema", "raw"):
        folder = fl.export(tmp_path / "run", tmp_path / weights, weights=weights)
        assert [path.name for path in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
        pipe = made.quiet(diffusers.StableDiffusionPipeline.from_pretrained(pipeline))
        pipe.load_lora_weights(folder)
        ours = predictions(load(tmp_path / "run", weights=weights))
        assert apart(predictions(load(pipe)), ours) < 1e-5
        assert apart(ours, predictions(before)) > 1e-3
    assert {path: path.read_bytes() for path in pipeline.rglob("*.safetensors")} == was
    checkpoint = find_checkpoint(tmp_path / "run")
    stored = checkpoint.tensors("ema")
    assert {name for name in stored if "lora_" not in name} == {"text.empty"}
    base = load(tmp_path / "run").denoiser.network.network  # type: ignore[attr-defined]
    base.unload_lora()
    assert weight_hash(base) == checkpoint.about["net"]["base"]


@pytest.mark.slow
def test_two_and_two_steps_are_four_to_the_bit(pipeline: Path, tmp_path: Path) -> None:
    data = colours()
    config = config_of(pipeline, data, checkpoint_every=2)
    straight = train(config, data, tmp_path / "straight")
    before = train(config, data, tmp_path / "halves", until=2)
    after = train(config, data, tmp_path / "halves", resume=True)
    assert [r.loss for r in straight] == [r.loss for r in before + after]
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))


def test_the_command_line(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", "scenes(n=40, size=28)", "--pipeline", str(pipeline), "--lora", "2", "--steps", "2"]
    words += ["--batch-size", "4", "--text-long", "cut", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "adapters")]) == 0
    assert "pytorch_lora_weights.safetensors" in capsys.readouterr().out
    assert load(tmp_path / "run").schedule.config()["name"] == "table"
    for more, words_ in (
        (["--objective", "eps"], "--objective: the pipeline decides it"),
        (["--net", "28x28"], "--net: the pipeline decides it"),
    ):
        assert main([*words, *more]) == 2
        assert words_ in capsys.readouterr().err
    assert main(["train", "--lora", "2", "--out", str(tmp_path / "x")]) == 2
    assert "--pipeline and --lora go together" in capsys.readouterr().err


def test_a_run_finds_its_pipeline_from_everywhere_and_when_both_have_moved(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of before, that names what it was given; and what is gone is said to be a folder, not asked of a hub."""
    project, data = tmp_path / "project", colours()
    shutil.copytree(pipeline, project / "pipes" / "sd")
    monkeypatch.chdir(project)
    config = config_of(Path("pipes/sd"), data, steps=1)
    assert Path(config.net["pipeline"]) == project / "pipes" / "sd"
    train(config, data, project / "runs" / "new")
    old = replace(
        config,
        net={**config.net, "pipeline": "pipes/sd"},
        text={**config.text, "source": "pipes/sd"},
        latents={**config.latents, "source": "pipes/sd"},
    )
    train(old, data, project / "runs" / "old")
    wanted = predictions(load("runs/new"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for run in ("new", "old"):
        assert torch.equal(predictions(load(project / "runs" / run)), wanted)
    project.rename(tmp_path / "moved")
    for run in ("new", "old"):
        assert torch.equal(predictions(load(tmp_path / "moved" / "runs" / run)), wanted)
        fl.export(tmp_path / "moved" / "runs" / run, tmp_path / f"exported-{run}")
    shutil.rmtree(tmp_path / "moved" / "pipes")
    monkeypatch.setattr("huggingface_hub.model_info", _asked)
    for run in ("new", "old"):
        with pytest.raises(UsageError, match=r"pipes.sd', a local folder that is missing; put it back") as caught:
            load(tmp_path / "moved" / "runs" / run)
        assert "\n" not in str(caught.value)


def _asked(*_: Any, **__: Any) -> Any:
    raise AssertionError("the hub was asked")


@pytest.mark.slow
def test_what_cannot_be_adapted(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no model_index.json"):
        Base.of(str(tmp_path))
    made.sdxl().save_pretrained(tmp_path / "xl")
    with pytest.raises(UsageError, match="is a StableDiffusionXLPipeline"):
        Base.of(str(tmp_path / "xl"))
    data = colours()
    train(config_of(pipeline, data, steps=1), data, tmp_path / "run")
    made.sd(network=made.unet(seed=9)).save_pretrained(tmp_path / "other")
    net = {**config_of(pipeline, data).net, "pipeline": str(tmp_path / "other")}
    from fairlead.nets.build import build_net

    with pytest.raises(UsageError, match="other weights"):
        build_net(net)
    with pytest.raises(UsageError, match="rank: expected at least 1, got 0"):
        build_net({**config_of(pipeline, data).net, "rank": 0})
