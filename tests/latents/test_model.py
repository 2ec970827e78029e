"""A model of latents: what surrounds its denoiser, sampling, and what belongs together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.core.strict_json import sealed
from fairlead.data.digits import load_digits
from fairlead.data.images import to_float, to_uint8
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.measure.prediction_errors import CleanSamples
from fairlead.models.noisy_classifier_model import load_classifier
from fairlead.models.resources import load_resources
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.loop import Training
from tests.latents.conftest import few, latent_config, untrained


def test_it_has_the_shape_of_latents_and_decodes_to_images(run: Path, vae: Path) -> None:
    model, codec = fl.load(run), load_autoencoder(vae)
    assert (model.shape, model.image_shape, model.data_range) == ((4, 4, 4), (1, 8, 8), None)
    x0 = torch.randn(3, 4, 4, 4)
    assert torch.equal(model.decode(x0), codec.decode(x0))
    images = to_float(few().images)
    assert torch.equal(model.to_space(images), codec.encode(images))
    assert model.metadata["autoencoder"]["hash"] == codec.hash
    recorded = find_checkpoint(run).about["train"]["latents"]
    assert recorded == {**codec.config((1, 8, 8)), "source": str(vae)}
    assert find_checkpoint(run).about["data"]["shape"] == [1, 8, 8]


def test_a_run_keeps_latents_and_decoded_images_apart(run: Path) -> None:
    model = fl.load(run)
    made = fl.sample(model, ["one", "two", None], guidance="cfg(2, negative=None)", steps=3, batch_size=2)
    assert made.images is not None
    assert made.decoded is not None
    assert (made.x0.shape, made.images.shape) == ((3, 4, 4, 4), (3, 1, 8, 8))
    assert torch.allclose(model.decode(made.x0), made.decoded, atol=1e-5)
    assert torch.equal(to_uint8(made.decoded), made.images)
    assert not made.decoded.requires_grad
    assert made.settings["model"]["autoencoder"]["scale"] == model.metadata["autoencoder"]["scale"]


def test_a_pixel_model_is_its_own_decoding() -> None:
    model = fl.toy(fl.GaussianMixture.ring(), VPCosine())
    assert model.image_shape == model.shape == (2,)
    assert fl.sample(model, steps=2).decoded is None


def test_the_doctor_looks_at_latents_of_real_images(run: Path, vae: Path) -> None:
    model, test = fl.load(run), load_digits("test")
    probe = CleanSamples.of(model, None, find_checkpoint(run))
    assert probe.source == "64 images of digits test"
    (label, *_) = probe.specs
    assert tuple(probe.x0.shape[1:]) == (4, 4, 4)
    codec = load_autoencoder(vae)
    near = (codec.encode(to_float(test.images)) - probe.x0[0]).flatten(1).abs().amax(1)
    assert test.classes[int(test.labels[near.argmin()])] == label
    assert float(near.min()) < 1e-5


@pytest.fixture
def moved(run: Path, vae: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, with the path of the autoencoder recorded as it was typed."""
    shutil.copytree(run, tmp_path / "runs" / "latent")
    shutil.copytree(vae, tmp_path / "runs" / "vae")
    path = tmp_path / "runs" / "latent" / "step-000006" / "model.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text().replace(str(vae), "runs/vae")))))
    return tmp_path / "runs" / "latent", tmp_path / "runs" / "vae"


def test_a_tree_that_is_moved_together_still_loads(moved: tuple[Path, Path], tmp_path: Path) -> None:
    model = fl.load(moved[0])
    assert model.metadata["autoencoder"]["source"] == str(moved[1])
    elsewhere = moved[1].rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"weights [0-9a-f]{12}; autoencoder 'runs/vae'"):
        fl.load(moved[0])
    assert fl.load(moved[0], autoencoder=elsewhere).shape == (4, 4, 4)


def test_another_autoencoder_is_refused_with_both_hashes(moved: tuple[Path, Path]) -> None:
    was = load_autoencoder(moved[1]).hash
    untrained(latent=4).save_pretrained(moved[1])
    now = load_autoencoder(moved[1]).hash
    with pytest.raises(UsageError, match=f"with weights {was}, those of .* are now {now}; give back") as caught:
        fl.load(moved[0])
    assert "\n" not in str(caught.value)


def test_the_kinds_of_checkpoint_are_not_confused(run: Path, vae: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an autoencoder, expected a diffusion model; train one on its latents"):
        fl.load(vae)
    with pytest.raises(UsageError, match="is an autoencoder, expected a classifier of noisy images"):
        load_classifier(vae)
    with pytest.raises(UsageError, match="is a diffusion model, expected a classifier of noisy images"):
        load_classifier(run)


def test_a_weak_model_must_see_the_same_latents(run: Path, vae: Path, tmp_path: Path) -> None:
    model, data, codec = fl.load(run), few(), load_autoencoder(vae)
    guidance = fl.parse('auto(2, weak="weak")')
    assert load_resources(guidance.resources(), model, {"weak": fl.load(run)})
    config = latent_config(replace(codec, scale=2 * codec.scale), data)
    out = tmp_path / "other"
    for _ in Training(data, config, out).run():
        pass
    with pytest.raises(UsageError, match=r"model 'weak' sees latents .*, the model latents .*; they must"):
        load_resources(guidance.resources(), model, {"weak": fl.load(out)})
