"""What every registered term, finisher and scale must do. A new name needs one line in the tables below."""

from dataclasses import replace

import pytest
import torch

from fairlead.core.registry import names
from fairlead.core.schedule import RectifiedFlow
from fairlead.guide.algebra import Guidance, as_guidance
from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.scales import ScaleSchedule
from fairlead.guide.step import Grid, Step
from fairlead.models.toy import toy_model
from fairlead.sample.grids import trailing
from tests.guide.toy import MIXTURE, N, T, call, close, guided, looking, points

LABELLED, UNLABELLED = [2, 0, 3, 2, 1], [None] * N

TERMS: dict[str, tuple[str, str, list]] = {  # name -> (on, off, specs of the run)
    "cfg": ("cfg([3, -1, 0.5, 2, 0])", "cfg(1)", LABELLED),
    "compose": ("compose({2: [3, 1, 2, 0, -1], 1: -0.5})", "compose({2: 0})", UNLABELLED),
}
FINISHERS = {"clip": "clip()", "threshold": "threshold(0.7)"}
SCALES = {"ramp": 'ramp(1, 7, "cosine", by="progress")', "clamp": "clamp(ramp(-2, 7), low=0.5, high=4)"}

MODEL = replace(toy_model(MIXTURE, RectifiedFlow()), data_range=(-1.0, 1.0))
GRID = trailing(MODEL.schedule, 7)


@pytest.mark.parametrize(("kind", "table"), [("term", TERMS), ("finisher", FINISHERS), ("scale", SCALES)])
def test_every_registered_name_has_an_example(kind: str, table: dict) -> None:
    missing = sorted(set(names(kind)) - set(table))
    assert not missing, (
        f"registered {kind} without a contract: add an example of {missing} to tests/guide/test_contract.py"
    )


def guidances() -> list:
    terms = [pytest.param(on, specs, id=name) for name, (on, _, specs) in TERMS.items()]
    finishers = [pytest.param(f"cfg(3) | {text}", LABELLED, id=name) for name, text in FINISHERS.items()]
    scales = [pytest.param(f"cfg({text})", LABELLED, id=name) for name, text in SCALES.items()]
    return terms + finishers + scales


def denoiser_of(text: str, specs: list, **options):
    return guided(to_guidance(text), specs, MODEL, times=GRID, **options)


@pytest.mark.parametrize("name", TERMS)
def test_off_is_the_plain_model_and_costs_nothing(name: str) -> None:
    on, off, specs = TERMS[name]
    x_t = points(MODEL.schedule)
    plain, one = call(denoiser_of("none", specs), x_t)
    for text in (off, f"({on}).during(t=(0, 1e-9))"):
        prediction, cost = call(denoiser_of(text, specs), x_t)
        assert torch.equal(prediction.x0, plain.x0)
        assert torch.equal(prediction.eps, plain.eps)
        assert cost == one
    assert one.rows == N


@pytest.mark.parametrize("name", FINISHERS)
def test_a_finisher_leaves_data_inside_the_range_alone(name: str) -> None:
    (finisher,) = to_guidance(f"none | {FINISHERS[name]}").finishers
    inside = torch.rand(N, 3, dtype=torch.float64) * 2 - 1
    close(finisher.finish(inside, looking((-1.0, 1.0))), inside, 1e-12)
    outside = torch.randn(N, 3, dtype=torch.float64) * 9
    finished = finisher.finish(outside, looking((-1.0, 1.0)))
    assert float(finished.abs().max()) <= 1
    assert torch.equal(finished.sign(), outside.sign())


@pytest.mark.parametrize(("text", "specs"), guidances())
@pytest.mark.parametrize("batching", ["fused", "sequential"])
def test_permuting_the_batch_permutes_the_result(text: str, specs: list, batching: str) -> None:
    x_t, order = points(MODEL.schedule), [3, 0, 4, 1, 2]
    straight = call(denoiser_of(text, specs, batching=batching), x_t)[0]
    shuffled = denoiser_of(text, [specs[i] for i in order], batching=batching, samples=order)
    permuted = call(shuffled, x_t[order])[0]
    close(permuted.x0, straight.x0[order], 1e-12)
    close(permuted.eps, straight.eps[order], 1e-12)


@pytest.mark.parametrize(("text", "specs"), guidances())
def test_running_twice_gives_the_same_bits(text: str, specs: list) -> None:
    x_t, denoiser = points(MODEL.schedule), denoiser_of(text, specs)
    before = str(denoiser.guidance)
    first, again, fresh = (call(d, x_t)[0] for d in (denoiser, denoiser, denoiser_of(text, specs)))
    assert torch.equal(first.x0, again.x0)
    assert torch.equal(first.x0, fresh.x0)
    assert torch.equal(first.eps, fresh.eps)
    assert str(denoiser.guidance) == before


@pytest.mark.parametrize(("text", "specs"), guidances())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(text: str, specs: list, dtype: torch.dtype) -> None:
    x_t = points(MODEL.schedule)
    exact = call(denoiser_of(text, specs), x_t)[0]
    prediction = call(denoiser_of(text, specs), x_t.to(dtype))[0]
    assert prediction.x0.dtype == prediction.eps.dtype == dtype
    close(prediction.x0.double(), exact.x0, 1e-5 if dtype == torch.float32 else 0)


@pytest.mark.parametrize(("text", "specs"), guidances())
def test_the_text_parses_back_to_an_equal_and_equally_hashed_guidance(text: str, specs: list) -> None:
    guidance = to_guidance(text)
    again = to_guidance(str(guidance))
    assert again == guidance
    assert hash(again) == hash(guidance)
    assert str(again) == str(guidance)
    assert as_guidance(parse(str(guidance))) == guidance


@pytest.mark.parametrize(("text", "specs"), guidances())
def test_one_sample_alone_is_that_sample_of_the_batch(text: str, specs: list) -> None:
    """What the provenance of one image relies on."""
    x_t, whole = points(MODEL.schedule), to_guidance(text)
    together = call(denoiser_of(text, specs), x_t)[0]
    for i in range(N):
        one = to_guidance(str(whole.of_sample(i)))
        assert isinstance(one, Guidance)
        alone = call(guided(one, specs[i : i + 1], MODEL, times=GRID), x_t[i : i + 1])[0]
        close(alone.x0, together.x0[i : i + 1], 1e-12)


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_a_pure_function_of_the_step(name: str) -> None:
    (term,) = to_guidance(f"cfg({SCALES[name]})").terms
    scale: ScaleSchedule = term.scale  # type: ignore[attr-defined]
    grid = Grid.of(GRID, MODEL.schedule)
    steps = [Step(grid.times[i], grid.sigma[i], grid.log_snr[i], i, grid) for i in range(grid.steps)]
    forward = [scale.value(step) for step in steps]
    assert [scale.value(step) for step in reversed(steps)] == forward[::-1]
    assert all(isinstance(value, int | float) for value in forward)
    for step, value in zip(steps, forward, strict=True):
        x_t = points(MODEL.schedule)
        denoiser = denoiser_of(f"cfg({SCALES[name]})", LABELLED)
        number = denoiser_of(f"cfg({value!r})", LABELLED)
        guided_by_schedule = denoiser.at(step.index or 0)(x_t, T, denoiser.condition)
        close(guided_by_schedule.x0, number(x_t, T, number.condition).x0, 1e-12)
