"""Every command on a model of latents."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.train.checkpoint import find_checkpoint
from tests.cli.test_bad_input import refused
from tests.train.tiny import same_bits, tensors_of

TINY = ["--steps", "4", "--channels", "8", "--batch-size", "16", "--precision", "fp32"]


def opened(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.verify()
        return picture.size


def test_train_autoencoder_leaves_a_folder_for_diffusers_and_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vae"
    command = ["train-autoencoder", "--data", "digits", "--out", str(out), "--latent", "3", *TINY]
    assert main(command) == 0
    files = sorted(path.name for path in out.iterdir())
    assert files == [
        "autoencoder.json", "config.json", "diffusion_pytorch_model.safetensors", "loss.csv", "reconstructions.png",
        "step-000004",
    ]  # fmt: skip
    described = json.loads((out / "autoencoder.json").read_text())
    printed = capsys.readouterr().out
    assert f"359 test images: PSNR {described['measured']['psnr']['value']:.1f}"[:30] in printed
    assert described["measured"]["l1"]["n"] == 359
    assert described["latent_shape"] == [3, 4, 4]
    opened(out / "reconstructions.png")
    before = tensors_of(out)
    assert main([*command, "--resume"]) == 0
    assert same_bits(before, tensors_of(out))
    assert main(["info", str(out)]) == 0
    assert "l1 error and 1e-06 of the KL divergence" in capsys.readouterr().out


def test_train_autoencoder_with_orthogonal_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train-autoencoder", "--data", "digits", "--out", str(tmp_path / "vae"), *TINY]
    assert main([*command, "--optimizer", "muon"]) == 0
    assert find_checkpoint(tmp_path / "vae").about["train"]["optimizer"] == "muon"
    assert main([*command, "--resume"]) == 2
    assert "optimizer was 'muon', now 'adamw'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(vae: Path) -> str:
    out = vae.parent / "trained"
    command = ["train", "--recipe", "digits", "--latents", str(vae), "--out", str(out), "--preview-every", "4", *TINY]
    assert main(command) == 0
    assert opened(out / "previews" / "step-000004.png")[0] > 100
    return str(out)


def test_train_takes_a_network_for_latents_and_says_their_size(
    vae: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--latents", str(vae), "--out", str(tmp_path / "a"), *TINY]) == 0
    seen = "1,438 images 1x8x8 of digits, 10 classes, as latents 4x4x4 of standard deviation 1.00, conditioned on label"
    assert seen in capsys.readouterr().out
    assert same_bits(tensors_of(model), tensors_of(tmp_path / "a"))
    assert find_checkpoint(model).about["net"]["multipliers"] == [1, 2]
    assert main(["info", model]) == 0
    assert f"[4, 4, 4] of {vae} #" in capsys.readouterr().out


def test_sample_writes_decoded_images(model: str, tmp_path: Path) -> None:
    guidance = "cfg(2) + energy(brightness(0.9), 1)"
    command = ["sample", model, "--cond", "7", "--guidance", guidance, "--n", "2", "--steps", "3"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    assert opened(tmp_path / "s" / "00000.png") == (8, 8)
    run = json.loads((tmp_path / "s" / "run.json").read_text())
    assert run["model"]["autoencoder"]["shape"] == [4, 4, 4]


def test_sweep_measures_decoded_images(model: str, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", model, "--guidance", "cfg({scale})", "--scales", "1", "3", "--n", "40", "--steps", "2"]
    assert main([*command, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert (out / "report.html").is_file()


def test_explain_draws_a_film_of_decoded_images(model: str, tmp_path: Path) -> None:
    command = ["explain", model, "--cond", "3", "--guidance", "cfg(3)", "--steps", "3", "--out", str(tmp_path / "e")]
    assert main(command) == 0
    opened(tmp_path / "e" / "film.png")
    explained = json.loads((tmp_path / "e" / "explain.json").read_text())
    assert explained["model"]["autoencoder"]["shape"] == [4, 4, 4]


def test_doctor_asks_all_its_questions(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", model, "--guidance", "cfg(2)", "--steps", "3"]) in (0, 1)
    assert "64 images of digits test" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_tune_searches_with_decoded_images(model: str, tmp_path: Path) -> None:
    command = ["tune", model, "--budget", "900", "--report", "60", "--steps", "2", "--constraint", "accuracy >= 0"]
    assert main([*command, "--out", str(tmp_path / "t")]) == 0


def test_bad_input(
    vae: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "o")]
    for command, message in (
        (["train", "--latents", str(tmp_path / "no")], "there is no such folder; train one with"),
        (["train", "--latents", str(vae), "--size", "9"], "sides are multiples of 2, got 1x9x9; pass another --size"),
        (["train", "--latents", str(vae), "--net", "32x32"], "multiples of 8, not 4x4"),
        (["train-autoencoder", "--size", "9", "--net", "factor-4"], "cannot be encoded by a factor of 4"),
        (["train-autoencoder", "--recipe", "digitz"], "unknown recipe 'digitz'; did you mean 'digits'?"),
        (["train-autoencoder", "--net", "factor-3"], "unknown network preset 'factor-3'"),
        (["train-autoencoder", "--kl", "-1"], "kl: expected 0 or more"),
        (["sample", model, "--cond", "7", "--guidance", "cfg(2) | clip()"], "thresholding is for pixels"),
        (["sample", str(vae)], "is an autoencoder, expected a diffusion model"),
    ):
        assert message in refused(capsys, [*command, *out, "--steps", "2"]), command
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install 'fairlead[diffusers]'" in refused(capsys, ["train-autoencoder", *out])
    assert not list(tmp_path.glob("o/step-*"))
    assert torch.is_grad_enabled()
