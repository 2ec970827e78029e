"""What people run beside a guidance: offloading, quantised and compiled networks. Each does what it does without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

import fairlead as fl
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.test_learned import family

CPU = torch.device("cpu")


def network_of(pipe: Any) -> tuple[str, Any]:
    name = "transformer" if "transformer" in pipe.components else "unet"
    return name, getattr(pipe, name)


def grouped(kind: str) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        apply_group_offloading(
            network_of(pipe)[1], onload_device=CPU, offload_device=CPU, offload_type=kind, num_blocks_per_group=1
        )

    return change


def compiled(pipe: Any) -> None:
    name, network = network_of(pipe)
    setattr(pipe, name, torch.compile(network, backend="eager"))


CHANGES: dict[str, Callable[[Any], None]] = {
    "model offload": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "groups of blocks": grouped("block_level"),
    "groups of layers": grouped("leaf_level"),
    "compiled": compiled,
}


ONE_LEVEL: dict[str, Any] = {
    "block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}  # fmt: skip
"""A U-Net of half the layers, of which the compiler takes half as long."""


def of(name: str) -> tuple[Any, dict[str, Any], str]:
    if name != "sd":
        return family(name)
    return made.sd(network=made.unet(**ONE_LEVEL)), FAMILIES["sd"].arguments(2), "guidance_scale"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["sd", "wan", "aura"])
def test_results_are_those_without(name: str, change: str) -> None:
    pipe, arguments, scale = of(name)
    texts = ["cfg(5)", "cfg(3) + pag(1)" if name == "sd" else "apg(cfg(4))"]

    def results() -> list[torch.Tensor]:
        found = []
        for text in texts:
            with fl.attach(pipe, text):
                found.append(run(pipe, arguments, **{scale: 5.0}))
        return found

    plain = results()
    CHANGES[change](pipe)
    for mine, theirs in zip(results(), plain, strict=True):
        assert apart(mine, theirs) < 1e-5


@pytest.mark.parametrize("name", ["sd", "aura"])
def test_a_network_quantised_to_eight_bits_is_guided_as_it_guides_itself(name: str) -> None:
    pipe, arguments, scale = of(name)
    part, network = network_of(pipe)
    setattr(pipe, part, torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8))
    own = run(pipe, arguments, **{scale: 5.0})
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, arguments, **{scale: 5.0}), own) < 1e-5
    with fl.attach(pipe, "cfg(5) + slg(0)") as attached:
        assert apart(run(pipe, arguments, **{scale: 5.0}), own) < 1e-5
    assert attached.cost.rows == 2 * 2 * 4
