"""pag, seg and slg: which branches they compare, in which layers, at what cost, and what others do instead."""

import math

import pytest
import torch
from diffusers.guiders import (
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    perturbed_attention_guidance,
    skip_layer_guidance,
    smoothed_energy_guidance,
)
from diffusers.hooks import smoothed_energy_guidance_utils

from fairlead.core.condition import Perturbation
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.perturb import middle
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.nets.blocks import blurred
from fairlead.nets.dit import DiT
from tests.guide.toy import MODEL, NETWORK, N, T, call, close, guided, images, steered

SPECS = [2, 0, 3, 2, 1]
X_T = images()
KINDS = {
    "pag(2": Perturbation("identity_attention", ("middle.0", "middle.1")),
    "seg(2": Perturbation("blur_queries", ("middle.0", "middle.1"), math.inf),
    "slg(2": Perturbation("skip", ("middle.0", "middle.1")),
}


def branch(perturbation: Perturbation | None = None, specs: list | None = None) -> torch.Tensor:
    """x0 of the network alone."""
    condition = NETWORK.encode(SPECS if specs is None else specs)
    condition = condition if perturbation is None else condition.perturbed(perturbation)
    return NETWORK.denoiser(X_T, T, condition).x0


@pytest.mark.parametrize("text", KINDS)
def test_away_from_the_perturbed_network_in_the_middle(text: str) -> None:
    """D_c + scale (D_c - D_perturbed), both under the run's condition, in one call."""
    prediction, cost = call(steered(f"{text})", SPECS), X_T)
    close(prediction.x0, branch() + 2 * (branch() - branch(KINDS[text])), 1e-12)
    assert (cost.rows, cost.calls) == (2 * N, 1)


@pytest.mark.parametrize("text", KINDS)
def test_it_works_without_a_condition(text: str) -> None:
    nothing = [None] * N
    prediction, _ = call(steered(f"{text})", nothing), X_T)
    close(prediction.x0, branch(None, nothing) + 2 * (branch(None, nothing) - branch(KINDS[text], nothing)), 1e-12)


@pytest.mark.parametrize("text", KINDS)
def test_layers_are_those_named(text: str) -> None:
    named = Perturbation(KINDS[text].kind, ("up.0.0",), KINDS[text].amount)
    for layers in ('"up.0.0"', '["up.0.0"]'):
        prediction, _ = call(steered(f"{text}, layers={layers})", SPECS), X_T)
        close(prediction.x0, branch() + 2 * (branch() - branch(named)), 1e-12)


@pytest.mark.parametrize("text", KINDS)
def test_the_middle_by_name_and_by_default_is_one_branch(text: str) -> None:
    """Three terms, two of which perturb the same layers under two names: three rows per sample in place of four."""
    both = f'{text}) + {text}, layers=["middle.0", "middle.1"]) + cfg(3)'
    _, cost = call(steered(both, SPECS), X_T)
    assert cost.rows == 3 * N


def test_all_perturbations_and_cfg_are_one_network_call() -> None:
    prediction, cost = call(steered("cfg(3) + pag(2) + slg(1)", SPECS, batching="fused"), X_T)
    assert (cost.rows, cost.calls) == (4 * N, 1)
    away = 2 * (branch() - branch(KINDS["pag(2"])) + branch() - branch(KINDS["slg(2"])
    close(prediction.x0, branch() + 2 * (branch() - branch(None, [None] * N)) + away, 1e-12)
    apart, cost = call(steered("cfg(3) + pag(2) + slg(1)", SPECS, batching="sequential"), X_T)
    assert (cost.rows, cost.calls) == (4 * N, 4)
    close(apart.x0, prediction.x0, 1e-12)


def test_a_blur_of_0_is_off_for_one_row_and_the_direction_vanishes_with_the_blur() -> None:
    off, cost = call(steered("seg(5, blur=0)", SPECS), X_T)
    assert torch.equal(off.x0, branch())
    assert cost.rows == N
    small, _ = call(steered("seg(5, blur=0.001)", SPECS), X_T)
    close(small.x0, branch(), 1e-12)
    large, _ = call(steered("seg(5, blur=1000000)", SPECS), X_T)
    close(large.x0, call(steered("seg(5)", SPECS), X_T)[0].x0, 1e-9)


def test_the_middle() -> None:
    assert middle(["down.0.0", "middle.0", "middle.1", "up.0.0"]) == ("middle.0", "middle.1")
    assert middle(["blocks.0"]) == ("blocks.0",)
    assert middle([f"blocks.{i}" for i in range(5)]) == ("blocks.2",)


def test_skipping_every_block_of_a_dit() -> None:
    """By hand: the network whose blocks pass their input on is the network without blocks."""
    network = DiT(1, 8, 4, dim=8, depth=3, heads=2, embed=16).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def model(depth: int) -> Model:
        mine = DiT(1, 8, 4, dim=8, depth=depth, heads=2, embed=16).double()
        mine.load_state_dict({k: v for k, v in network.state_dict().items() if k in mine.state_dict()})
        mine.eval().requires_grad_(False)
        schedule = RectifiedFlow()
        denoiser = NetworkDenoiser(lambda x, t, c: mine(x, t.double(), c), schedule, "v")
        return Model(denoiser, schedule, (1, 8, 8), LabelEncoder(tuple("abcd")), identity, layers=mine.layers())

    full, none = model(3), model(0)
    condition = full.encode(SPECS)
    text = 'slg(1.5, layers=["blocks.0", "blocks.1", "blocks.2"])'
    prediction, _ = call(GuidedDenoiser.of(full, parse(text), condition), X_T)
    whole, empty = full.denoiser(X_T, T, condition).x0, none.denoiser(X_T, T, condition).x0
    close(prediction.x0, whole + 1.5 * (whole - empty), 1e-11)
    default, _ = call(GuidedDenoiser.of(full, parse("slg(1.5)"), condition), X_T)
    central, _ = call(GuidedDenoiser.of(full, parse('slg(1.5, layers="blocks.1")'), condition), X_T)
    assert torch.equal(default.x0, central.x0)


# --- what others do -------------------------------------------------------------------------------------------------


GUIDERS = {
    "pag": (PerturbedAttentionGuidance, "perturbed_guidance", perturbed_attention_guidance, "_apply_layer_skip_hook"),
    "slg": (SkipLayerGuidance, "skip_layer_guidance", skip_layer_guidance, "_apply_layer_skip_hook"),
    "seg": (SmoothedEnergyGuidance, "seg_guidance", smoothed_energy_guidance, "_apply_smoothed_energy_guidance_hook"),
}


def theirs(name: str, guidance: float, scale: float, **options):
    kind, prefix, _, _ = GUIDERS[name]
    words = {f"{prefix}_scale": scale, f"{prefix}_layers": [0], f"{prefix}_start": 0.0, f"{prefix}_stop": 1.0}
    guider = kind(guidance_scale=guidance, **words, **options)
    guider.set_state(step=5, num_inference_steps=10, timestep=torch.tensor(500))
    return guider


@pytest.mark.parametrize("name", GUIDERS)
def test_beside_cfg_the_same_numbers_as_diffusers_on_the_same_predictions(name: str) -> None:
    conditional, null, worse = branch(), branch(None, [None] * N), branch(KINDS[f"{name}(2"])
    expected = theirs(name, 3.0, 2.0).forward(conditional, null, worse).pred
    close(call(steered(f"cfg(3) + {name}(2)", SPECS), X_T)[0].x0, expected, 1e-6)


@pytest.mark.parametrize("name", GUIDERS)
def test_alone_the_scale_of_diffusers_counts_from_the_perturbed_prediction(name: str) -> None:
    """Its scale 1 is then off and its 3 is 2 here, while beside cfg its 2 is 2 here; its "original formulation" is the
    papers', and ours."""
    conditional, worse = branch(), branch(KINDS[f"{name}(2"])
    ours = call(steered(f"{name}(2)", SPECS), X_T)[0].x0
    close(theirs(name, 1.0, 3.0).forward(conditional, None, worse).pred, ours, 1e-6)
    close(theirs(name, 1.0, 1.0).forward(conditional, None, worse).pred, conditional, 1e-6)
    original = theirs(name, 0.0, 2.0, use_original_formulation=True)
    close(original.forward(conditional, None, worse).pred, ours, 1e-6)


@pytest.mark.parametrize("name", ["pag", "slg"])
@pytest.mark.parametrize(("guidance", "shown", "perturbed_at"), [(3.0, "pnp", [3]), (1.0, "pn", [])])
def test_diffusers_without_cfg_perturbs_nothing_and_shows_the_negative_prompt(
    monkeypatch, name: str, guidance: float, shown: str, perturbed_at: list[int]
) -> None:
    """With cfg on, the third pass has the positive prompt and the layers perturbed. With cfg off there are two passes,
    and what it calls the perturbed prediction is the second: the negative prompt through the whole network."""
    _, _, module, hook = GUIDERS[name]
    guider, hooked = theirs(name, guidance, 2.0), []
    monkeypatch.setattr(module, hook, lambda *args, **options: hooked.append(guider._count_prepared))
    monkeypatch.setattr(guider, "cleanup_models", lambda denoiser: None)
    batches = guider.prepare_inputs({"prompt": ("p", "n")})
    for _ in batches:
        guider.prepare_models(torch.nn.Identity())
    assert "".join(batch.prompt for batch in batches) == shown
    assert batches[-1].__guidance_identifier__ == "pred_cond_skip"
    assert hooked == perturbed_at


def test_the_blur_of_diffusers_is_never_switched_on(monkeypatch) -> None:
    """It does not count its passes, so that the one to perturb never comes."""
    _, _, module, hook = GUIDERS["seg"]
    guider, hooked = theirs("seg", 3.0, 2.0), []
    monkeypatch.setattr(module, hook, lambda *args, **options: hooked.append(1))
    for _ in guider.prepare_inputs({"prompt": ("p", "n")}):
        guider.prepare_models(torch.nn.Identity())
    assert hooked == []


def test_the_blur_of_diffusers_has_its_two_cases_exchanged() -> None:
    """A finite deviation gives the mean of all queries, which is ours for an infinite one."""
    q = torch.randn(2, 16, 3, dtype=torch.float64)
    finite = smoothed_energy_guidance_utils._gaussian_blur_2d(q.clone(), 7, 1.0, 9999.0)
    close(finite, blurred(q, (4, 4), math.inf), 1e-12)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: steered('pag(2, layers="midle.0")', SPECS),
            "unknown attention layer 'midle.0'; did you mean 'middle.0'",
        ),
        (
            lambda: steered('seg(2, layers=["middle.0", "x"])', SPECS),
            r"layer 'x' \(known: down.0.0, down.1.0, middle.0",
        ),
        (lambda: steered('slg(2, layers="stem")', SPECS), r"unknown block layer 'stem'.*\(known: down.0.0"),
        (lambda: guided("pag(2)"), "pag: this model names no attention layers .* use a unet or a dit"),
        (lambda: guided("seg(2)"), "seg: this model names no attention layers"),
        (lambda: guided("slg(0)"), "slg: this model names no block layers .* use a unet or a dit"),
        (lambda: guided("slg(2).during(t=(0, 1))"), "names no block layers"),
        (lambda: parse("pag(2, layers=3)"), "pag: expected layers to be names of layers, .* got 3"),
        (lambda: parse("slg(2, layers=[])"), r"slg: expected layers to be names of layers, .* got \(\)"),
        (lambda: parse('slg(2, layers=["a", ""])'), "expected layers to be names"),
        (lambda: parse("seg(2, blur=-1)"), "seg: expected blur to be a number of positions from 0 to inf, got -1"),
        (lambda: parse('seg(2, blur="much")'), "got 'much'"),
        (lambda: parse("seg(2, blur=inf-inf)"), "cannot read"),
        (lambda: parse('pag("2")'), "pag: expected scale to be a finite number"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_the_default_layers_and_blur_are_not_written() -> None:
    assert str(parse("seg(3, blur=inf, layers=None)")) == "seg(3)"
    assert str(parse('pag(2, layers="middle.0")')) == 'pag(2, layers=["middle.0"])'
    assert MODEL.layers == {}
