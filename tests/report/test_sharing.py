"""Runs on the hub: what is put there is what is loaded, by a server on 127.0.0.1 in the hub's place."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.hub_runs import run_on_hub
from fairlead.tune.answers import save_answer
from fairlead.tune.recommend import Row, Tuned
from tests.report.hub_server import Hub, hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training, and an answer of `tune` as it is stored, one knob with its interval."""
    out = tmp_path_factory.mktemp("shared") / "digits"
    fl.train(out, recipe="digits", steps=6, channels=8, batch_size=32, warmup=2)
    why = "the lowest distance_debiased"
    row = Row((1.44,), "cfg(1.44)", 500, {"distance_debiased": Estimate(1.2, 0.3, 500)}, 4, True)
    answer = Tuned("cfg(1.44)", why, (1.44, 1.38, 1.5), (row,), 500, ())
    weights = find_checkpoint(out).about["files"]["ema"]
    asked = {
        "objective": "distance_debiased",
        "template": "cfg({scale})",
        "ranges": {"scale": [1, 8]},
        "constraints": [],
    }
    save_answer(out / "tuned.json", answer, {**asked, "sampler": "ddim", "steps": 2, "weights": weights})
    return out


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as server:
        places = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", places)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.chdir(tmp_path)
        run_on_hub.cache_clear()
        yield server
    run_on_hub.cache_clear()


def test_what_is_loaded_is_what_was_put_there(run: Path, online: Hub) -> None:
    assert fl.push(run, "me/digits") == f"{online.address}/me/digits"
    step = find_checkpoint(run).folder.name
    stored = online.repositories["me/digits"]
    assert set(stored) == {
        "README.md", "fairlead.json", "samples.png", "tuned.json", f"{step}/ema.safetensors", f"{step}/model.json",
    }  # fmt: skip
    local, shared = fl.load(run), fl.load("me/digits")
    assert shared.metadata["checkpoint"] == "me/digits"
    assert shared.metadata["weights_hash"] == local.metadata["weights_hash"]
    same = [fl.sample(model, "seven", guidance="cfg(2)", n=2, steps=2).x0 for model in (local, shared)]
    assert torch.equal(*same)


def test_tuned_is_found_with_the_run(run: Path, online: Hub, tmp_path: Path) -> None:
    fl.push(run, "me/digits")
    assert (
        main(["sample", "me/digits", "--cond", "7", "--n", "1", "--steps", "2", "--guidance", "tuned", "--out", "a"])
        == 0
    )
    answer = json.loads((run / "tuned.json").read_text())
    made = json.loads((tmp_path / "a" / "run.json").read_text())
    assert made["guidance"] == answer["guidance"]
    assert made["tuned"]["key"] == answer["key"]


def test_the_card_says_what_the_model_is(run: Path, online: Hub) -> None:
    fl.push(run, "me/digits")
    card = online.repositories["me/digits"]["README.md"].decode()
    answer = json.loads((run / "tuned.json").read_text())
    best = answer["best"]
    for said in (
        'fl.load("me/digits")',
        "1,438 images of 1x8x8",
        "label, null for 10% of the training samples",
        "vp_cosine",
        f"`{answer['guidance']}`",
        f"95 % interval {best['low']:.3g} to {best['high']:.3g}",
        "## Limits",
    ):
        assert said in card
    assert online.repositories["me/digits"]["samples.png"].startswith(b"\x89PNG")


def test_offline_the_cache_serves_and_nothing_is_asked(run: Path, online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fl.push(run, "me/digits")
    fl.load("me/digits")
    run_on_hub.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(online.requests)
    assert fl.load("me/digits").classes == fl.load(run).classes
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set, so nothing is sent"):
        fl.push(run, "me/digits")
    assert len(online.requests) == before


def test_a_damaged_file_of_the_hub_is_refused(run: Path, online: Hub) -> None:
    fl.push(run, "me/digits")
    weights = next(path for path in online.repositories["me/digits"] if path.endswith("ema.safetensors"))
    online.repositories["me/digits"][weights] = online.repositories["me/digits"][weights][:-1] + b"\x01"
    with pytest.raises(UsageError, match="its bytes are not those that were saved"):
        fl.load("me/digits")


def test_half_of_a_run_is_one_line(run: Path, online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fl.push(run, "me/digits")
    run_on_hub("me/digits")
    run_on_hub.cache_clear()
    for path in Path(constants.HF_HUB_CACHE).rglob("ema.safetensors"):
        path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"damaged|cannot be (read|fetched)") as refused:
        fl.load("me/digits")
    assert "\n" not in str(refused.value)


def test_the_autoencoder_of_a_model_of_latents_goes_along(online: Hub, tmp_path: Path) -> None:
    fl.train_autoencoder("runs/vae", recipe="digits", steps=2, channels=8, batch_size=16)
    fl.train("runs/latent", recipe="digits", latents="runs/vae", steps=2, channels=8, batch_size=16, warmup=1)
    fl.push("runs/latent", "me/latent")
    assert any(path.startswith("runs/vae/") for path in online.repositories["me/latent"])
    here = fl.sample("runs/latent", "seven", n=1, steps=2).x0
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert torch.equal(fl.sample("me/latent", "seven", n=1, steps=2).x0, here)


def test_another_model_of_the_hub_is_still_a_pipeline(online: Hub) -> None:
    online.repositories["others/pipeline"] = {"model_index.json": b"{}"}
    with pytest.raises(UsageError, match="pipeline"):
        fl.load("others/pipeline")
    with pytest.raises(UsageError, match="push_to_hub"):
        fl.push("others/pipeline", "me/copy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "expected the name of a repository such as owner/name"),
        ("a/b/c", "owner/name"),
        ("../x", "owner/name"),
    ],
)
def test_names_are_checked_before_anything_is_read(name: str, message: str, online: Hub) -> None:
    with pytest.raises(UsageError, match=message):
        fl.push("runs/not-there", name)
    assert online.requests == []


def test_who_may_not_write_is_told_to_log_in(run: Path, online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-somebody-else")
    with pytest.raises(UsageError, match=r"the hub refused \(401.*hf auth login"):
        fl.push(run, "me/digits")


def test_the_command_follows_the_environment(run: Path, tmp_path: Path) -> None:
    with hub() as server:
        places = {"HF_ENDPOINT": server.address, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path)}
        environment = {**os.environ, **places, "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "fairlead", "push", str(run), "me/digits"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{server.address}/me/digits; load it with fl.load('me/digits')\n")
    assert "tuned.json" in server.repositories["me/digits"]
