"""Loading an AutoencoderKL from where diffusers keeps them; its two directions and their scale."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import to_float
from fairlead.data.latents import codec_from_config
from fairlead.diffusers.autoencoder import autoencoder_of, load_autoencoder
from fairlead.report.held_out import reconstruction_error
from tests.latents.conftest import few, floats, untrained


def test_it_is_found_as_a_folder_and_inside_a_pipeline(tmp_path: Path) -> None:
    network = untrained(scaling_factor=0.5, shift_factor=0.25)
    network.save_pretrained(tmp_path / "alone")
    network.save_pretrained(tmp_path / "pipeline" / "vae")
    alone, inside = load_autoencoder(tmp_path / "alone"), load_autoencoder(tmp_path / "pipeline")
    assert alone.hash == inside.hash == autoencoder_of(network, "memory").hash
    assert (alone.scale, alone.shift) == (0.5, 0.25)
    assert load_autoencoder(tmp_path / "alone").hash != autoencoder_of(untrained(seed=1), "other").hash


def test_of_a_hub_entry_only_the_autoencoder_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    untrained().save_pretrained(tmp_path / "vae")
    files = ["model_index.json", "unet/config.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    asked = []

    def download(source: str, local_files_only: bool = False, allow_patterns: list[str] | None = None) -> str:
        if local_files_only:
            raise FileNotFoundError(source)
        asked.append((source, allow_patterns))
        return str(tmp_path)

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "model_info", lambda source, timeout: info)
    assert load_autoencoder("owner/pipeline").hash == load_autoencoder(tmp_path).hash
    assert asked == [("owner/pipeline", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"])]
    info.siblings = [SimpleNamespace(rfilename=name.removeprefix("vae/")) for name in files[2:]]
    load_autoencoder("owner/alone")
    assert asked[1] == ("owner/alone", ["config.json", "diffusion_pytorch_model.safetensors"])


def test_both_directions_are_those_of_diffusers_up_to_the_scale() -> None:
    network = untrained(scaling_factor=0.5, shift_factor=0.25).eval()
    ours, images, x0 = autoencoder_of(network, "memory"), floats(3, 1, 8, 8), floats(3, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(ours.encode(images), (network.encode(images).latent_dist.mean - 0.25) * 0.5)
        assert torch.equal(ours.decode(x0), network.decode(x0 / 0.5 + 0.25).sample)


def test_the_scale_and_the_shift_cancel() -> None:
    plain = autoencoder_of(untrained().double(), "memory")
    images = floats(3, 1, 8, 8).double()
    expected = plain.decode(plain.encode(images))
    for scale, shift in ((3.0, 0.0), (0.18215, 0.0), (1.5, -2.0)):
        scaled = replace(plain, scale=scale, shift=shift)
        assert torch.allclose(scaled.decode(scaled.encode(images)), expected, rtol=1e-12, atol=1e-12)


def test_decoding_is_differentiable_and_keeps_the_dtype() -> None:
    codec = autoencoder_of(untrained().double(), "memory")
    x0, weight = floats(1, 2, 4, 4).double().requires_grad_(), floats(1, 1, 8, 8, seed=5).double()
    (gradient,) = torch.autograd.grad((codec.decode(x0) * weight).sum(), x0)
    step = 1e-6 * floats(1, 2, 4, 4, seed=4).double()
    with torch.no_grad():
        difference = ((codec.decode(x0 + step) - codec.decode(x0 - step)) * weight).sum() / 2
    assert torch.allclose((gradient * step).sum(), difference, rtol=1e-6, atol=0)
    assert codec.decode(x0.float()).dtype == torch.float32


def test_autocast_does_not_reach_the_decoder() -> None:
    codec, x0 = autoencoder_of(untrained(), "memory"), floats(2, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.decode(x0)
    assert torch.equal(inside, codec.decode(x0))


def test_a_trained_one_gives_the_test_images_back_far_better_than_their_mean(vae: Path) -> None:
    """Half a second of training; 359 images that it has not seen."""
    test, train = load_digits("test"), load_digits("train")
    errors = reconstruction_error(load_autoencoder(vae), test)
    mean = to_float(train.images).mean(0)
    of_mean = float((to_float(test.images) - mean).abs().mean()) / 2
    assert errors["l1"].n == 359
    assert errors["l1"].value + 4 * errors["l1"].error < of_mean / 2
    assert errors["psnr"].value - 4 * errors["psnr"].error > 15


def test_errors_of_reconstruction_are_what_they_say() -> None:
    """An autoencoder that always answers 0: half the range from black or white pixels."""
    network = untrained()
    network.decoder.conv_out.weight.data.zero_()
    network.decoder.conv_out.bias.data.zero_()
    data = few(10)
    data = replace(data, images=(data.images > 127).to(torch.uint8) * 255)
    errors = reconstruction_error(autoencoder_of(network, "memory"), data)
    assert errors["l1"].value == pytest.approx(0.5, abs=1e-12)
    assert errors["psnr"].value == pytest.approx(6.0206, abs=1e-4)
    assert (errors["l1"].error, errors["l1"].n) == (0, 10)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 8), (1, 8, 7), (8,)])
def test_images_that_it_cannot_encode(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"encodes images of 1 channel whose sides are multiples of 2, got"):
        autoencoder_of(untrained(), "memory").latent_shape(shape)


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            load_autoencoder(source)
        assert "\n" not in str(caught.value)

    def described(**changes: object) -> Path:
        folder = tmp_path / f"vae{len(list(tmp_path.iterdir()))}"
        shutil.copytree(good, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    good = tmp_path / "good"
    untrained().save_pretrained(good)
    refused(tmp_path / "absent", "there is no such folder; train one with `fairlead train-autoencoder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json, nor a folder vae with one")
    refused(described(_class_name="VQModel"), "holds a VQModel, expected an AutoencoderKL of diffusers")
    refused(described(scaling_factor=0), "expected a positive scaling_factor in its config.json, got 0")
    refused(described(latents_mean=[0.0, 0.1]), "scales every channel by itself")
    refused(described(block_out_channels=[8, 8]), "cannot be loaded|has no weights for")
    pickled = described()
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    refused(pickled, r"has no diffusion_pytorch_model.safetensors; .*\.bin is pickled, so it is not read")
    torn = described() / "diffusion_pytorch_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    refused(torn.parent, "cannot be loaded")
    (torn.parent / "config.json").write_text("{")
    refused(torn.parent, "config.json cannot be read")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(good, r"autoencoders need the package diffusers; pip install 'fairlead\[diffusers\]'")


def test_a_recorded_one_must_have_its_weights_and_keeps_its_scale(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "vae"
    untrained(scaling_factor=0.5).save_pretrained(folder)
    config = load_autoencoder(folder).config((1, 8, 8))
    assert (config["shape"], config["scale"]) == ([2, 4, 4], 0.5)

    untrained(scaling_factor=0.7).save_pretrained(folder)  # the same weights
    assert codec_from_config(config, "this run").scale == 0.5

    near = {**config, "source": "runs/vae"}
    found = codec_from_config(near, "this run", tmp_path / "runs" / "latent" / "step-000006")
    assert found.source == str(folder)

    untrained(seed=1).save_pretrained(folder)
    now = load_autoencoder(folder).hash
    with pytest.raises(UsageError, match=f"this run .* weights {config['hash']}, those of .* are now {now}"):
        codec_from_config(config, "this run")
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match=f"this run .* weights {config['hash']}; .* there is no such folder"):
        codec_from_config(config, "this run")
