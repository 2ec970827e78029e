"""Attached, plain cfg(w) is the pipeline's own guidance at guidance_scale=w, for every family and scheduler."""

from typing import Any

import pytest
import torch

import fairlead as fl
from tests.pipelines.families import FAMILIES, FLOW_SCHEDULERS, NEGATIVES, SCHEDULERS, Case, apart, run

W, CLOSE = 6.0, 1e-4


def check(pipe: Any, case: Case, arguments: dict[str, Any], steps: int = 4) -> None:
    own = run(pipe, arguments, steps, **{case.scale: W})
    plain = run(pipe, arguments, steps, **{case.scale: 1.0})
    with fl.attach(pipe, fl.cfg(W)):
        attached = run(pipe, arguments, steps, **{case.scale: 2.5})
    assert apart(plain, own) > 100 * CLOSE  # there is something to reproduce
    assert apart(attached, own) < CLOSE
    assert torch.equal(run(pipe, arguments, steps, **{case.scale: W}), own)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    case = FAMILIES[family]
    check(case.make(), case, case.arguments(2), steps=3)


@pytest.mark.parametrize("scheduler", [*list(SCHEDULERS)[:5], "ddim v", "euler v, zero terminal SNR", "heun", "pndm"])
def test_schedulers(scheduler: str) -> None:
    case = FAMILIES["sd"]
    check(case.make(scheduler=SCHEDULERS[scheduler]()), case, case.arguments(1), steps=5)


@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
def test_flow_schedulers(scheduler: str) -> None:
    case = FAMILIES["sana"]
    check(case.make(scheduler=FLOW_SCHEDULERS[scheduler]()), case, case.arguments(1), steps=4)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart alpha"])
def test_three_samples_twice_each_with_negatives(family: str) -> None:
    case = FAMILIES[family]
    arguments = {**case.arguments(3, negatives=True), "num_images_per_prompt": 2}
    check(case.make(), case, arguments, steps=2)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart alpha", "sana"])
def test_one_negative_for_all_is_that_negative_in_the_call(family: str) -> None:
    case = FAMILIES[family]
    pipe, arguments = case.make(), case.arguments(2)
    arguments.pop("negative_prompt", None)
    own = run(pipe, {**arguments, "negative_prompt": [NEGATIVES[0]] * 2}, **{case.scale: W})
    with fl.attach(pipe, fl.cfg(W), negative=NEGATIVES[0]):
        assert apart(run(pipe, arguments), own) < CLOSE


def test_embeddings_in_the_place_of_prompts() -> None:
    case = FAMILIES["sd"]
    pipe = case.make()
    prompt, negative = torch.randn(2, 16, 16), torch.randn(2, 16, 16)
    arguments = {"prompt_embeds": prompt, "negative_prompt_embeds": negative, "output_type": "latent", **case.call}
    check(pipe, case, arguments)


FLOWS = [name for name in FAMILIES if name.split()[0] in ("sd3", "flux", "sana")]
DIFFUSIONS = [name for name in FAMILIES if name not in FLOWS]
SAMPLES = pytest.mark.parametrize(
    ("n", "negatives", "each"), [(1, False, 1), (1, True, 2), (3, True, 1), (3, False, 2)]
)


@pytest.mark.slow
@SAMPLES
@pytest.mark.parametrize("scheduler", list(SCHEDULERS)[:5])
@pytest.mark.parametrize("family", DIFFUSIONS)
def test_five_schedulers(family: str, scheduler: str, n: int, negatives: bool, each: int) -> None:
    case = FAMILIES[family]
    arguments = case.arguments(n, negatives)
    if case.text:
        arguments["num_images_per_prompt"] = each
    check(case.make(scheduler=SCHEDULERS[scheduler]()), case, arguments, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_scheduler(family: str, scheduler: str) -> None:
    case = FAMILIES[family]
    arguments = {**case.arguments(2, negatives=True), "num_images_per_prompt": 2}
    check(case.make(scheduler=SCHEDULERS[scheduler]()), case, arguments, steps=10)


@pytest.mark.slow
@SAMPLES
@pytest.mark.parametrize("family", [name for name in FLOWS if name not in ("sd3", "flux", "sana")])
def test_every_other_flow_family(family: str, n: int, negatives: bool, each: int) -> None:
    case = FAMILIES[family]
    arguments = {**case.arguments(n, negatives), "num_images_per_prompt": each}
    check(case.make(scheduler=FLOW_SCHEDULERS["flow euler"]()), case, arguments, steps=6)


@pytest.mark.slow
@SAMPLES
@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_every_flow_scheduler(family: str, scheduler: str, n: int, negatives: bool, each: int) -> None:
    case = FAMILIES[family]
    if family == "flux" and scheduler in ("flow heun", "flow dpm++", "flow unipc"):
        pytest.skip("FluxPipeline passes its own sigmas, which this scheduler does not take")
    arguments = {**case.arguments(n, negatives), "num_images_per_prompt": each}
    check(case.make(scheduler=FLOW_SCHEDULERS[scheduler]()), case, arguments, steps=6)


def test_a_preset_of_negative_prompts_is_its_prompt() -> None:
    """For the block, and where a guidance names it."""
    from fairlead.models.negatives import negatives

    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(2)
    found = []
    for name in ("@product", negatives()["product"]):
        with fl.attach(pipe, fl.cfg(W), negative=name):
            found.append(run(pipe, arguments))
        with fl.attach(pipe, fl.cfg(W, negative=name)):
            found.append(run(pipe, arguments))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
