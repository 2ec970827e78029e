"""Autoguidance: away from a weak model, in closed form and with two checkpoints of one training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.guiders import AutoGuidance

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VPCosine, vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.auto import Auto
from fairlead.guide.moment import Resource
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.sample.grids import trailing
from fairlead.sample.noise import NoiseStream
from fairlead.sample.sampler import parse_sampler
from tests.guide.toy import LABELS, MODEL, NETWORK, SCHEDULE, SPECS, WEAK, N, T, call, close, exact, images, points
from tests.train.tiny import tiny_config, trained

WIDE = GaussianMixture.ring(classes=4, radius=1.5, std=0.9)
WIDE_MODEL = toy_model(WIDE, SCHEDULE)


def auto(text: str, specs: list | None = None, weak: Model = WIDE_MODEL, model: Model = MODEL, **options):
    condition = model.encode(SPECS if specs is None else specs)
    return GuidedDenoiser.of(model, parse(text), condition, resources={"weak": weak}, **options)


def wide(x_t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
    return WIDE.denoise(x_t, *SCHEDULE.alpha_sigma(T), label)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.0])
def test_the_closed_form_on_two_mixtures(scale: float) -> None:
    """D_weak + scale (D_c - D_weak), both under the run's own condition (2406.02507, eq. 3)."""
    x_t = points()
    prediction, cost = call(auto(f'auto({scale}, weak="weak")'), x_t)
    close(prediction.x0, wide(x_t, LABELS) + scale * (exact(x_t, LABELS) - wide(x_t, LABELS)))
    assert (cost.rows, cost.calls) == (2 * N, 2)


def test_an_unconditional_run_is_guided_by_the_unconditional_weak_model() -> None:
    x_t = points()
    prediction, _ = call(auto('auto(3, weak="weak")', [None] * N), x_t)
    close(prediction.x0, wide(x_t, None) + 3 * (exact(x_t, None) - wide(x_t, None)))


@pytest.mark.parametrize("scale", [0.0, 3.0, 20.0])
def test_autoguidance_with_itself_is_off(scale: float) -> None:
    x_t = points()
    prediction, _ = call(auto(f'auto({scale}, weak="weak")', weak=MODEL), x_t)
    close(prediction.x0, exact(x_t, LABELS), 1e-12)


def test_scale_0_is_the_weak_model_to_the_bit_and_scale_1_never_asks_it() -> None:
    x_t = points()
    weak, cost = call(auto('auto(0, weak="weak")'), x_t)
    assert torch.equal(weak.x0, WIDE_MODEL.denoiser(x_t, T, MODEL.encode(SPECS)).x0)
    assert (cost.rows, cost.calls) == (N, 1)

    def never(x_t, t, condition):
        raise AssertionError("asked for nothing")

    off, cost = call(auto('auto(1, weak="weak")', weak=replace(WIDE_MODEL, denoiser=never)), x_t)
    assert torch.equal(off.x0, MODEL.denoiser(x_t, T, MODEL.encode(SPECS)).x0)
    assert (cost.rows, cost.calls) == (N, 1)


def test_with_cfg_the_weak_rows_ride_in_a_call_of_their_own() -> None:
    x_t = points()
    prediction, cost = call(auto('cfg(3) + auto(2, weak="weak")', batching="fused"), x_t)
    direction = 2 * (exact(x_t, LABELS) - exact(x_t, None)) + exact(x_t, LABELS) - wide(x_t, LABELS)
    close(prediction.x0, exact(x_t, LABELS) + direction)
    assert (cost.rows, cost.calls) == (3 * N, 2)


def test_the_weak_model_may_have_another_objective() -> None:
    """Predictions meet in x0: the same exact weak model behind an eps network."""
    x_t, (alpha, sigma) = images(), NETWORK.schedule.alpha_sigma(T)

    def as_eps(x_t: torch.Tensor, t: torch.Tensor, condition) -> Prediction:
        return Prediction.from_output(WEAK.denoiser(x_t, t, condition).eps, "eps", x_t, alpha, sigma)

    twin = replace(WEAK, denoiser=as_eps, objective="eps")
    first, second = (call(auto('auto(2.5, weak="weak")', weak=w, model=NETWORK), x_t)[0] for w in (WEAK, twin))
    close(first.x0, second.x0, 1e-11)


def test_the_same_numbers_as_diffusers_on_the_same_predictions() -> None:
    """Its formula is the paper's. What it shows the weak model is not: the second of the prompts, the negative."""
    c, w = torch.randn(2, N, 3, dtype=torch.float64)
    theirs = AutoGuidance(guidance_scale=2.5, auto_guidance_layers=[0], dropout=0.1)
    close(theirs.forward(c, w).pred, w + 2.5 * (c - w), 1e-6)
    shown = theirs.prepare_inputs({"prompt": ("positive", "negative")})
    assert [(batch.prompt, batch.__guidance_identifier__) for batch in shown] == [
        ("positive", "pred_cond"),
        ("negative", "pred_uncond"),
    ]


# --- two checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of 6 steps with a snapshot at step 2."""
    out: Path = tmp_path_factory.mktemp("auto") / "run"
    trained(tiny_config(lr=0.02, ema=0.0, snapshot_every=2), out)
    return out


def test_a_snapshot_of_a_training_guides_it_end_to_end(run: Path) -> None:
    """By its path, by a name and by hand the same images, at two rows per sample and step."""
    model, weak, specs = load(run, device="cpu"), load(f"{run}@step2", device="cpu"), ["three", "seven", None]
    by_path = fl.sample(model, specs, guidance=f'auto(2, weak="{run}@step2")', steps=3, seeds=5)
    by_name = fl.sample(model, specs, guidance=fl.auto(2, weak="w"), resources={"w": weak}, steps=3, seeds=5)
    assert torch.equal(by_path.x0, by_name.x0)
    assert (by_path.cost.rows, by_path.cost.calls) == (3 * 3 * 2, 3 * 2)

    def by_hand(x_t, t, condition):
        strong, early = model.denoiser(x_t, t, condition).x0, weak.denoiser(x_t, t, condition).x0
        alpha, sigma = model.schedule.alpha_sigma(t)
        return Prediction.from_x0(2 * strong - early, x_t, alpha.float(), sigma.float())

    times, noise, condition = trailing(model.schedule, 3), NoiseStream((5, 6, 7), model.shape), model.encode(specs)
    with torch.no_grad():
        frames = parse_sampler("ddim").frames(by_hand, noise.start(), times, model.schedule, condition, noise)
        *_, last = frames
    close(by_path.x0, last.x_t.float(), 1e-5)
    plain = fl.sample(model, specs, steps=3, seeds=5)
    assert float((by_path.x0 - plain.x0).abs().amax(dim=(1, 2, 3)).min()) > 1e-3


def test_a_weak_model_that_is_not_there_is_refused_before_the_first_step(run: Path) -> None:
    model = load(run, device="cpu")
    with pytest.raises(UsageError, match="step3"):
        fl.sample(model, "three", guidance=f'auto(2, weak="{run}@step3")')
    with pytest.raises(UsageError, match="nowhere"):
        fl.sample(model, "three", guidance='auto(2, weak="nowhere")')


# --- refusals -------------------------------------------------------------------------------------------------------

OTHER_SHAPE = toy_model(GaussianMixture(torch.zeros(4, 3), torch.ones(4), torch.ones(4), torch.arange(4)), SCHEDULE)


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        (OTHER_SHAPE, r"model 'weak' has shape \[3\], the model \[2\]; they must agree"),
        (toy_model(GaussianMixture.ring(3), SCHEDULE), r"model 'weak' has classes \['0', '1', '2'\], the model"),
        (toy_model(WIDE, VPCosine()), "model 'weak' was trained on the noise schedule .*; they must agree"),
        (toy_model(WIDE, vp_linear(500)), "'weak' was trained on the noise schedule"),
        ("runs/x", r"expected 'weak' to be a model from fl.load\(...\), got 'runs/x'"),
    ],
)
def test_a_weak_model_that_does_not_fit_is_refused(weak, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fl.sample(MODEL, "2", guidance='auto(2, weak="weak")', resources={"weak": weak})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse("auto(2)"), "weak"),
        (lambda: parse('auto(2, weak="")'), "expected weak to be the path of a checkpoint"),
        (lambda: parse("auto(2, weak=3)"), "got 3"),
        (lambda: fl.sample(MODEL, "2", resources={"weak": MODEL}), "'weak' was given, but the guidance names no such"),
        (
            lambda: GuidedDenoiser.of(MODEL, Auto(2, weak="weak"), MODEL.encode(SPECS)),
            "guidance names 'weak', which was not given",
        ),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_two_terms_with_one_weak_model_load_it_once() -> None:
    guidance = fl.auto(2, weak="a") + fl.auto(3, weak="a").during(t=(0, 0.5)) + fl.auto(2, weak="b")
    assert guidance.resources() == (Resource("model", "a"), Resource("model", "b"))
