"""Guiders of diffusers and the expressions that they are read as, on the same predictions."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.guiders.magnitude_aware_guidance import MagnitudeAwareGuidance
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse, to_guidance
from fairlead.models.model import Model, identity
from fairlead.sample.grids import trailing
from tests.guide.stored import random
from tests.guide.toy import SCHEDULE

STEPS, N = 10, 3
TIMES = trailing(SCHEDULE, STEPS)
SIGMAS = SCHEDULE.ratio(TIMES[:-1]).tolist()
LAYERS = {"attention": ("transformer_blocks.0.attn", "transformer_blocks.1.attn"),
          "block": ("transformer_blocks.0", "transformer_blocks.1")}  # fmt: skip
SKIP = {"skip_layer_guidance_layers": [1]}


class Outputs:
    """A denoiser whose raw outputs are drawn anew at every step: conditional, null, and worse on purpose."""

    def __init__(self, objective: Objective, shape: tuple[int, ...]) -> None:
        self.schedule, self.objective, self.shape = SCHEDULE, objective, shape
        self.step = 0

    def of(self, kind: int) -> Tensor:
        return random(N, *self.shape, seed=100 * kind + self.step)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        worse = next(iter(condition.perturb.values()), torch.zeros(condition.n, dtype=torch.bool))
        rows = []
        for i, (keep, bad) in enumerate(zip(condition.keep["label"].tolist(), worse.tolist(), strict=True)):
            rows.append(self.of(2 if bad else 0 if keep else 1)[int(condition.values["label"][i])])
        alpha, sigma = (expand_like(value, x_t) for value in SCHEDULE.alpha_sigma(t))
        return Prediction.from_output(torch.stack(rows), self.objective, x_t, alpha, sigma)


def assert_same(guider: Any, objective: Objective = "eps", shape: tuple[int, ...] = (2, 4, 4)) -> str:
    """All steps of a run: what the guider makes of the outputs, and what its expression does."""
    guidance = fl.from_guider(guider, objective=objective, sigmas=SIGMAS, layers=LAYERS)
    assert to_guidance(parse(str(guidance))) == guidance
    denoiser = Outputs(objective, shape)
    condition = Condition.of(label=torch.arange(N))
    model = Model(denoiser, SCHEDULE, shape, lambda specs: Condition.of(label=torch.arange(len(specs))), identity,
                  objective=objective, layers=LAYERS)  # fmt: skip
    guided = GuidedDenoiser.of(model, guidance, condition, times=TIMES)
    for i, t in enumerate(TIMES[:-1]):
        denoiser.step = i
        x_t = random(N, *shape, seed=1000 + i)
        alpha, sigma = (expand_like(value, x_t) for value in SCHEDULE.alpha_sigma(t))
        ours = guided.at(i)(x_t, t, condition).output(objective, alpha, sigma)
        torch.testing.assert_close(ours, theirs(guider, denoiser, i, t), rtol=1e-4, atol=1e-4)
    return str(guidance)


def theirs(guider: Any, denoiser: Outputs, step: int, t: Tensor) -> Tensor:
    guider.set_state(step, STEPS, t)
    batches = guider.prepare_inputs({"prompt_embeds": (torch.zeros(1), torch.ones(1))})
    kinds = {"pred_cond": 0, "pred_uncond": 1}
    for batch in batches:
        batch.noise_pred = denoiser.of(kinds.get(batch.__guidance_identifier__, 2))
    pred: Tensor = guider(batches)[0]
    return pred


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("objective", ["eps", "v", "x0", "flow"])
def test_cfg_and_its_rescale(objective: Objective, original: bool) -> None:
    plain = diffusers.ClassifierFreeGuidance(guidance_scale=3.5, use_original_formulation=original)
    assert assert_same(plain, objective) == f"cfg({4.5 if original else 3.5})"
    more: dict[str, Any] = {"guidance_rescale": 0.7, "start": 0.2, "stop": 0.6}
    assert_same(diffusers.ClassifierFreeGuidance(guidance_scale=3.5, **more), objective)


def test_start_and_stop_are_their_steps_and_no_others() -> None:
    for start, stop in ((0.0, 0.5), (0.3, 1.0), (0.25, 0.25), (0.11, 0.89)):
        assert_same(diffusers.ClassifierFreeGuidance(guidance_scale=5.0, start=start, stop=stop))


@pytest.mark.parametrize("original", [False, True])
def test_apg_of_x0_networks(original: bool) -> None:
    apg = diffusers.AdaptiveProjectedGuidance(
        guidance_scale=6.0, adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_rescale=2.5, eta=0.3,
        use_original_formulation=original,
    )  # fmt: skip
    assert_same(apg, "x0")


def test_zero_star_of_flows_and_tcfg_of_eps_networks() -> None:
    text = assert_same(diffusers.ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=2), "flow")
    assert text == "zero_star(cfg(4), zero=0.2)"
    assert_same(diffusers.ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0, start=0.1), "flow")
    assert_same(diffusers.TangentialClassifierFreeGuidance(guidance_scale=4.0, guidance_rescale=0.3), "eps")


@pytest.mark.parametrize("original", [False, True])
def test_magnitude_aware_of_flows_and_bands_of_any_network(original: bool) -> None:
    mambo = MagnitudeAwareGuidance(guidance_scale=6.0, alpha=4.0, use_original_formulation=original, stop=0.8)
    tokens = (8, 4)  # theirs takes no images
    assert f"mambo(cfg({7 if original else 6}), 4)" in assert_same(mambo, "flow", tokens)
    bands = diffusers.FrequencyDecoupledGuidance(
        guidance_scales=[6.0, 2.0], guidance_rescale=0.3, use_original_formulation=original, start=0.2, stop=1.0
    )
    text = f"bands([{3 if original else 2}, {7 if original else 6}])"  # coarsest first
    assert text in assert_same(bands, "v")


def test_projected_after_some_plain_steps() -> None:
    mixed = diffusers.AdaptiveProjectedMixGuidance(
        guidance_scale=3.0, adaptive_projected_guidance_scale=5.0, adaptive_projected_guidance_momentum=None,
        adaptive_projected_guidance_rescale=2.5, adaptive_projected_guidance_start_step=4, eta=0.2, stop=0.9,
    )  # fmt: skip
    assert_same(mixed, "x0")


def test_perturbed_ones() -> None:
    skip = diffusers.SkipLayerGuidance(
        guidance_scale=5.0, skip_layer_guidance_scale=2.0, skip_layer_guidance_start=0.1, skip_layer_guidance_stop=0.6,
        **SKIP,
    )  # fmt: skip
    assert 'slg(2, layers=["transformer_blocks.1"])' in assert_same(skip)
    pag = diffusers.PerturbedAttentionGuidance(guidance_scale=5.0, perturbed_guidance_layers=[0], guidance_rescale=0.5,
                                               perturbed_guidance_start=0.0, perturbed_guidance_stop=1.0)  # fmt: skip
    assert 'pag(2.8, layers=["transformer_blocks.0.attn"])' in assert_same(pag, "v")
    seg = diffusers.SmoothedEnergyGuidance(guidance_scale=5.0, seg_guidance_layers=[1], seg_blur_sigma=2.0)
    assert 'seg(2.8, layers=["transformer_blocks.1.attn"], blur=2)' in assert_same(seg, "flow")


def test_one_that_is_off_is_no_guidance() -> None:
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=5.0, enabled=False)
    assert str(fl.from_guider(guider)) == "none"


@pytest.mark.parametrize(
    ("guider", "words"),
    [
        (diffusers.AdaptiveProjectedGuidance(), "projects and limits the network's own output, here eps.*acts on x0"),
        (diffusers.ClassifierFreeZeroStarGuidance(), "ours acts on flow"),
        (diffusers.ClassifierFreeGuidance(start=0.2), "shares of a run's steps; give its levels"),
        (diffusers.SkipLayerGuidance(**SKIP), "'transformer_blocks.1' has no block layer.*model.layers"),
        (diffusers.AutoGuidance(auto_guidance_layers=[1], dropout=0.5), "AutoGuidance: .*dropped at random.*slg"),
        (diffusers.AdaptiveProjectedMixGuidance(), "ours acts on x0"),
        (MagnitudeAwareGuidance(), "takes norms of the network's own output, here eps.*acts on flow"),
        (diffusers.FrequencyDecoupledGuidance(parallel_weights=0.5), "parallel_weights .* leave them out"),
        (diffusers.FrequencyDecoupledGuidance(guidance_scales=[5.0, 1.0]), "diffusers uses the band before it"),
        (object(), "guider 'object'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_read(guider: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        fl.from_guider(guider)
    assert "\n" not in str(caught.value)


def test_a_step_in_which_theirs_perturbs_nothing_is_refused() -> None:
    """Their second branch is the negative prompt there."""
    for more in ({"guidance_scale": 1.0}, {"start": 0.5}):
        guider = diffusers.SkipLayerGuidance(**{"skip_layer_guidance_stop": 0.6, **SKIP, **more})
        with pytest.raises(UsageError, match=r"negative prompt with nothing perturbed.*slg\(2.8"):
            fl.from_guider(guider, sigmas=SIGMAS, layers=LAYERS)
