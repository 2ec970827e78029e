"""Loading a training run gives back the network that was trained, with no code of the user's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fairlead
from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine
from fairlead.core.strict_json import sealed
from fairlead.data.digits import DIGIT_NAMES
from fairlead.models.load import load, model_of
from fairlead.models.model import Model
from fairlead.train.checkpoint import file_hash, find_checkpoint
from fairlead.train.loop import Training
from tests.train.tiny import digits, tiny_config, tiny_net, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Training, dict[str, Tensor]]:
    """A finished run, its training, and the average as it was at step 2."""
    out = tmp_path_factory.mktemp("load") / "run"
    training = Training(digits(), tiny_config(net=tiny_net(dropout=0.2), lr=0.01, snapshot_every=2), out)
    second: dict[str, Tensor] = {}
    for record in training.run():
        if record.step == 2:
            second = {key: value.clone() for key, value in training.averaged_network().state_dict().items()}
    return out, training, second


def network_of(model: Model) -> Any:
    assert isinstance(model.denoiser, NetworkDenoiser)
    assert isinstance(model.denoiser.network, nn.Module)
    return model.denoiser.network


def inputs() -> tuple[Tensor, Tensor, Condition]:
    condition = Condition.of(label=torch.tensor([3, 9, 0, 1])).drop(torch.tensor([False, False, True, False]))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.1, 0.4, 0.9, 1.0], dtype=torch.float64), condition


def test_load_gives_the_averaged_network_bit_for_bit(run):
    out, training, _ = run
    x, t, condition = inputs()
    expected = NetworkDenoiser(training.averaged_network(), VPCosine(), "v")(x, t, condition)
    got = load(out, device="cpu").denoiser(x, t, condition)
    assert torch.equal(got.x0, expected.x0)
    assert torch.equal(got.eps, expected.eps)
    assert float((got.eps - x).std()) > 1e-3


def test_raw_gives_the_network_as_the_optimiser_left_it(run):
    out, training, _ = run
    x, t, condition = inputs()
    raw, average = load(out, "raw", "cpu"), load(out, "ema", "cpu")
    trained_network = training.network
    was = trained_network.training
    expected = trained_network.eval()(x, (t * 1000).float(), condition)
    trained_network.train(was)
    assert torch.equal(network_of(raw)(x, (t * 1000).float(), condition), expected)
    assert not torch.equal(network_of(average).out.weight, network_of(raw).out.weight)


def test_a_step_gives_the_average_of_that_step(run):
    out, _, second = run
    model = load(f"{out}@step2", device="cpu")
    assert model.metadata["step"] == 2
    got = network_of(model).state_dict()
    assert got.keys() == second.keys()
    assert all(torch.equal(got[key], value) for key, value in second.items())
    with pytest.raises(UsageError, match="step-000002 has no raw weights"):
        load(f"{out}@step2", "raw")


def test_the_null_token_is_in_the_file_and_is_what_a_dropped_label_means(run):
    out, training, _ = run
    null = load_file(out / "step-000006" / "ema.safetensors")["label.null"]
    assert torch.equal(null, training.averaged_network().state_dict()["label.null"])
    assert float(null.abs().max()) > 0
    model = load(out, device="cpu")
    x, t, _ = inputs()
    dropped = model.denoiser(x, t, model.encode([None] * 4)).x0
    with torch.no_grad():
        network_of(model).label.table[7] = null
    assert torch.equal(model.denoiser(x, t, model.encode(["seven"] * 4)).x0, dropped)


def test_the_model_describes_itself(run):
    out, _, _ = run
    model = load(out, device="cpu")
    folder = out / "step-000006"
    assert dict(model.metadata) == {
        "checkpoint": str(out),
        "step": 6,
        "weights": "ema",
        "weights_hash": file_hash(folder / "ema.safetensors"),
        "fairlead": fairlead.__version__,
        "data": "digits",
        "data_fingerprint": digits().fingerprint,
        "objective": "v",
        "schedule": VPCosine().config(),
        "drop": 0.1,
    }
    assert json.loads(json.dumps(model.metadata)) == model.metadata
    assert (model.shape, model.classes, model.data_range) == ((1, 8, 8), DIGIT_NAMES, (-1.0, 1.0))
    assert model.schedule.config() == VPCosine().config()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.decode(x), x)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_device_is_that_of_every_parameter(run, device):
    model = load(run[0], device=device)
    expected = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    assert model.device.type == expected
    assert {parameter.device.type for parameter in network_of(model).parameters()} == {expected}


def test_a_loaded_network_is_frozen_and_without_dropout(run):
    network = network_of(load(run[0], device="cpu"))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x, t, condition = inputs()
    first = network(x, (t * 1000).float(), condition)
    assert torch.equal(first, network(x, (t * 1000).float(), condition))


def test_loading_does_not_move_the_global_stream(run):
    state = torch.get_rng_state()
    load(run[0], device="cpu")
    assert torch.equal(state, torch.get_rng_state())


def test_a_process_that_knows_only_fairlead_gets_the_same_bits(run, tmp_path):
    out, _, _ = run
    x, t, condition = inputs()
    save_file({"x": x, "t": t, **condition.values, "keep": condition.keep["label"]}, tmp_path / "in.safetensors")
    script = """
import sys
import torch
torch.set_num_threads(1)
from safetensors.torch import load_file, save_file
from fairlead.core.condition import Condition
from fairlead.models.load import load
given = load_file(sys.argv[2])
condition = Condition(4, {"label": given["label"]}, {"label": given["keep"]})
prediction = load(sys.argv[1], device="cpu").denoiser(given["x"], given["t"], condition)
save_file({"x0": prediction.x0}, sys.argv[3])
"""
    command = [
        sys.executable,
        "-c",
        script,
        str(out),
        str(tmp_path / "in.safetensors"),
        str(tmp_path / "out.safetensors"),
    ]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""})
    expected = load(out, device="cpu").denoiser(x, t, condition).x0
    assert torch.equal(load_file(tmp_path / "out.safetensors")["x0"], expected)


def test_an_unconditional_run_loads_without_classes(tmp_path):
    training, _ = trained(tiny_config(net=tiny_net(classes=0), steps=2), tmp_path)
    model = load(tmp_path, device="cpu")
    x, t, _ = inputs()
    expected = training.averaged_network()(x, (t * 1000).float(), Condition(4))
    assert model.classes == ()
    assert torch.equal(network_of(model)(x, (t * 1000).float(), model.encode([None] * 4)), expected)
    with pytest.raises(UsageError, match="this model is unconditional, but the condition 3 was given"):
        model.encode([3])


def test_a_training_in_progress_is_a_model_too(run):
    _, training, _ = run
    x, t, condition = inputs()
    model = model_of(training.averaged_network(), training.about(), {"step": training.step}, "cpu")
    assert torch.equal(model.denoiser(x, t, condition).x0, load(run[0], device="cpu").denoiser(x, t, condition).x0)
    assert model.metadata["step"] == 6


def copied(run: tuple, tmp_path: Path) -> tuple[Path, dict]:
    folder = shutil.copytree(run[0] / "step-000006", tmp_path / "copy")
    return folder, json.loads((folder / "model.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 16}, r"its weights do not fit its description \((size mismatch|Missing key)"),
        ({"novelty": 1}, r"checkpoint .*copy: network .* cannot be built: .*unexpected keyword argument 'novelty'"),
        ({"kind": "transformer"}, "checkpoint .*copy: unknown network kind 'transformer'"),
    ],
)
def test_weights_that_do_not_fit_the_description_are_refused(run, tmp_path, change, message):
    folder, about = copied(run, tmp_path)
    about["net"].update(change)
    about["train"]["net"].update(change)
    (folder / "model.json").write_text(json.dumps(sealed(about)))
    with pytest.raises(UsageError, match=message):
        load(folder)


def test_weights_and_device_are_checked_at_the_door():
    with pytest.raises(UsageError, match=r"^unknown weights 'best' \(known: ema, raw, ema:0.08\)$"):
        load("nowhere", "best")
    with pytest.raises(UsageError, match=r"^device 'tpu9' cannot be used: .*tpu9"):
        load("nowhere", device="tpu9")
    with pytest.raises(UsageError, match=r"^device 'cuda:99' cannot be used: "):
        load("nowhere", device="cuda:99")


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    folder, _ = copied(run, tmp_path)
    data = bytearray((folder / "ema.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "ema.safetensors").write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"ema.safetensors is damaged"):
        load(folder)
    assert find_checkpoint(folder).step == 6


def test_a_pickled_file_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"is a single file: .* are never loaded"):
        load(tmp_path / "model.pt")
