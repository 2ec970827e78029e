"""What every registered term, finisher and scale must do, on a network, by their examples (``examples.py``)."""

import pytest
import torch

from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.scales import ScaleSchedule
from fairlead.guide.step import Grid, Step
from fairlead.guide.terms import Guidance, as_guidance
from fairlead.sample.grids import trailing
from tests.guide.examples import FINISHERS, LABELLED, MISSING, SCALES, TERMS
from tests.guide.toy import NETWORK, N, T, call, close, images, looking, moment, steered

GRID = trailing(NETWORK.schedule, 7)
X_T = images()


def test_every_registered_name_has_an_example() -> None:
    assert not MISSING, "\n".join(dict.fromkeys(MISSING))


def guidances() -> list:
    terms = [pytest.param(on, specs, id=name) for name, (on, _, specs) in TERMS.items()]
    finishers = [pytest.param(f"cfg(3) | {text}", LABELLED, id=name) for name, text in FINISHERS.items()]
    scales = [pytest.param(f"cfg({text})", LABELLED, id=name) for name, text in SCALES.items()]
    return terms + finishers + scales


def denoiser_of(text: Guidance | str, specs: list, order: list[int] | None = None, **options):
    return steered(text, specs, order, times=GRID, **options)


@pytest.mark.parametrize("name", TERMS)
def test_off_is_the_plain_model_and_costs_nothing(name: str) -> None:
    on, off, specs = TERMS[name]
    plain, one = call(denoiser_of("none", specs), X_T)
    for text in (off, f"({on}).during(t=(0, 1e-9))"):
        if text is not None:
            prediction, cost = call(denoiser_of(text, specs), X_T)
            assert torch.equal(prediction.x0, plain.x0)
            assert torch.equal(prediction.eps, plain.eps)
            assert cost == one
    assert one.rows == N


@pytest.mark.parametrize("name", TERMS)
def test_the_row_formula(name: str) -> None:
    """What ``needed`` and ``rows`` announce is what the network is asked."""
    on, _, specs = TERMS[name]
    denoiser = denoiser_of(on, specs)
    step = Step(float(T), 1.0, 0.0, 3, denoiser.grid, tuple(range(N)), NETWORK.shape)
    announced = sum(N if rows is None else int(rows.sum()) for rows in denoiser.needed(step).values())
    announced += N * sum(term.ask(denoiser.moment(step)).rows for term in denoiser.guidance.terms)
    _, cost = call(denoiser, X_T)
    assert cost.rows == announced


def alone() -> list[str]:
    """Finishers that look at the guided x0 only; the others are held to the same by the permutation test."""
    here = moment(Step(float(T), 1.0, 0.0))
    return [n for n, text in FINISHERS.items() if not to_guidance(f"none | {text}").finishers[0].ask(here).looks]


@pytest.mark.parametrize("name", alone())
def test_a_finisher_is_per_sample(name: str) -> None:
    (finisher,) = to_guidance(f"none | {FINISHERS[name]}").finishers
    outside = torch.randn(N, 2, dtype=torch.float64) * 9
    together = finisher.finish(outside, looking((-1.0, 1.0)))
    for i in range(N):
        close(finisher.finish(outside[i : i + 1], looking((-1.0, 1.0))), together[i : i + 1], 1e-12)


@pytest.mark.parametrize(("text", "specs"), guidances())
@pytest.mark.parametrize("batching", ["fused", "sequential"])
def test_permuting_the_batch_permutes_the_result(text: str, specs: list, batching: str) -> None:
    order = [3, 0, 4, 1, 2]
    straight = call(denoiser_of(text, specs, batching=batching), X_T)[0]
    permuted = call(denoiser_of(text, specs, order, batching=batching), X_T[order])[0]
    close(permuted.x0, straight.x0[order], 1e-10)
    close(permuted.eps, straight.eps[order], 1e-10)


@pytest.mark.parametrize(("text", "specs"), guidances())
def test_running_twice_gives_the_same_bits(text: str, specs: list) -> None:
    denoiser = denoiser_of(text, specs)
    before = str(denoiser.guidance)
    first, again, fresh = (call(d, X_T)[0] for d in (denoiser, denoiser, denoiser_of(text, specs)))
    assert torch.equal(first.x0, again.x0)
    assert torch.equal(first.x0, fresh.x0)
    assert torch.equal(first.eps, fresh.eps)
    assert str(denoiser.guidance) == before


@pytest.mark.parametrize(("text", "specs"), guidances())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(text: str, specs: list, dtype: torch.dtype) -> None:
    exact = call(denoiser_of(text, specs), X_T)[0]
    prediction = call(denoiser_of(text, specs), X_T.to(dtype))[0]
    assert prediction.x0.dtype == prediction.eps.dtype == dtype
    close(prediction.x0.double(), exact.x0, 2e-4 if dtype == torch.float32 else 0)


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
    whole = to_guidance(text)
    together = call(denoiser_of(text, specs), X_T)[0]
    for i in range(N):
        one = to_guidance(str(whole.of_sample(i)))
        assert isinstance(one, Guidance)
        alone = call(denoiser_of(one, specs, [i]) if one == whole else single(one, specs, i), X_T[i : i + 1])[0]
        close(alone.x0, together.x0[i : i + 1], 1e-10)


def single(one: Guidance, specs: list, i: int):
    """A run of sample i alone, with the stream that the sample has in the run of all."""
    return steered(one, [specs[i]], times=GRID, draws_of=[i])


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_a_pure_function_of_the_step(name: str) -> None:
    (term,) = to_guidance(f"cfg({SCALES[name]})").terms
    scale: ScaleSchedule = term.scale  # type: ignore[attr-defined]
    grid = Grid.of(GRID, NETWORK.schedule)
    steps = [
        Step(grid.times[i], grid.sigma[i], grid.log_snr[i], i, grid, shape=NETWORK.shape) for i in range(grid.steps)
    ]
    forward = [scale.value(step) for step in steps]
    backward = [scale.value(step) for step in reversed(steps)][::-1]
    for step, value, again in zip(steps, forward, backward, strict=True):
        value = torch.as_tensor(value, dtype=torch.float64)
        assert torch.equal(value, torch.as_tensor(again, dtype=torch.float64))
        denoiser = denoiser_of(f"cfg({SCALES[name]})", LABELLED)
        by_schedule = denoiser.at(step.index or 0)(X_T, T, denoiser.condition)
        conditional, null = (call(denoiser_of(text, LABELLED), X_T)[0].x0 for text in ("none", "cfg(0)"))
        close(by_schedule.x0, null + value * (conditional - null), 1e-10)
