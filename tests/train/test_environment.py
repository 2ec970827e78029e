"""The environment decides nothing about the weights: what it asks for beside the settings is refused."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from fairlead.core.errors import UsageError
from fairlead.train import environment
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.environment import accelerator_for, check_environment, start_trackers, training_device
from fairlead.train.loop import Training
from tests.train.tiny import digits, tiny_config, trained

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LAUNCHED = {  # what `accelerate launch --cpu` sets, without another option
    "ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "OMP_NUM_THREADS": "1", "KMP_BLOCKTIME": "1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What accelerate keeps for the process is of this test alone."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            r"'bf16', and this run trains in fp32 \(--precision decides\); unset it",
        ),
        ("ACCELERATE_MIXED_PRECISION", "FP16", "'FP16', and this run trains in fp32"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "'fp8', and this run trains in fp32"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "'4', and this run takes a step with every batch"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "many", "'many', and this run takes a step with every batch"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "'INDUCTOR', and this run compiles only where --compile asks"),
        ("ACCELERATE_USE_FSDP", "true", "'true', and this run trains whole networks side by side"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "'1', and this run trains whole networks side by side"),
        ("ACCELERATE_USE_MEGATRON_LM", "yes", "'yes', and this run trains whole networks"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "on", "'on', and this run trains whole networks"),
        ("ACCELERATE_USE_SAGEMAKER", "true", "'true', and this run trains whole networks"),
        ("ACCELERATE_TORCH_DEVICE", "cuda:1", "'cuda:1', and this run computes on cpu"),
        ("ACCELERATE_DOWNCAST_BF16", "true", "'true', and this run trains in fp32"),
        ("ACCELERATE_USE_CPU", "maybe", "'maybe', expected true or false"),
        ("ACCELERATE_DEBUG_MODE", "maybe", "'maybe', expected true or false"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "'BF16', and this run multiplies float32 as it is"),
        ("DNNL_DEFAULT_FPMATH_MODE", "ANY", "'ANY', and this run multiplies float32 as it is"),
    ],
)
def test_a_variable_that_asks_for_another_training_is_refused(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setattr(environment, "training_device", lambda: CPU)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"the environment has {name}={message}"):
        Training(digits(), tiny_config(), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_tf32_is_not_chosen_by_the_environment():
    check_environment("fp32", CPU, {"NVIDIA_TF32_OVERRIDE": "1"})
    for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        with pytest.raises(UsageError, match=f"{name}='1', and this run multiplies float32 as PyTorch is set"):
            check_environment("fp32", CUDA, {name: "1"})


def test_what_agrees_with_the_settings_is_taken(monkeypatch):
    check_environment("fp32", CPU, LAUNCHED)
    check_environment("bf16", CPU, {**LAUNCHED, "ACCELERATE_MIXED_PRECISION": "bf16"})
    check_environment("fp32", CUDA, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_USE_FSDP": "false"})
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert training_device() == CPU
    plain, _ = trained(tiny_config(), None)
    launched, _ = trained(tiny_config(), None)
    assert all(map(torch.equal, plain.network.parameters(), launched.network.parameters()))


def test_what_accelerate_is_given_is_not_read_from_the_environment(monkeypatch):
    """Should a variable get through, it decides nothing."""
    monkeypatch.setattr(environment, "check_environment", lambda *given: None)
    for name, value in (
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER"),
    ):
        monkeypatch.setenv(name, value)
    accelerator, precision = accelerator_for("fp32", [], None)
    assert (str(accelerator.mixed_precision), accelerator.gradient_accumulation_steps, precision) == ("no", 1, "fp32")
    network = torch.nn.Linear(2, 2)
    assert accelerator.prepare(network) is network
    assert all(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"))


def test_an_accelerator_of_the_program_with_other_settings_is_refused(monkeypatch):
    Accelerator(mixed_precision="bf16", cpu=training_device() == CPU)
    with pytest.raises(UsageError, match=r"accelerate cannot start here: .*; train in a process of its own"):
        accelerator_for("fp32", [], None)


def test_a_checkpoint_says_what_it_was_trained_on(tmp_path):
    trained(tiny_config(), tmp_path)
    about = find_checkpoint(tmp_path).about
    assert (about["device"], about["processes"], about["precision"]) == (training_device().type, 1, "fp32")


def test_the_files_of_every_tracker_go_into_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases takes its folder and the name of the run apart from the others."""
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        Accelerator,
        "init_trackers",
        lambda self, name, config=None, init_kwargs=None: asked.append((name, init_kwargs)),
    )
    accelerator, _ = accelerator_for("fp32", [], tmp_path / "mine")
    start_trackers(accelerator, ["wandb"])
    start_trackers(accelerator, [])
    assert asked == [("train", {"wandb": {"dir": str(tmp_path / "mine"), "name": "mine"}})]
