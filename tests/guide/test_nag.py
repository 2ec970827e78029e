"""nag: which branches it asks for, at what cost, and what it refuses; the equations are in tests/nets."""

import pytest
import torch

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.guide.branch import NULL
from fairlead.guide.checks import check_condition
from fairlead.guide.expression import to_guidance
from fairlead.guide.methods.nag import NAG
from fairlead.sample.grids import trailing
from tests.guide.toy import MODEL, NETWORK, ONLY_LABELS, N, T, call, close, images, steered

SPECS = [2, 0, 3, 2, 1]
X_T = images()
GRID = trailing(NETWORK.schedule, 6)


def read(scale: float, negative: int | None = 1, specs: list | None = None, **more: float) -> torch.Tensor:
    """x0 of the network that reads its text away from the negative, alone."""
    condition = NETWORK.encode(SPECS if specs is None else specs)
    settings = {"limit": 2.5, "blend": 0.25, **more}
    away = Perturbation("negative_text", NETWORK.layers["text"], scale, **settings, negative=negative)
    other = condition.drop() if negative is None else NETWORK.encode([negative] * condition.n)
    return NETWORK.denoiser(X_T, T, condition.perturbed(away, negative=other)).x0


def plain(specs: list | None = None) -> torch.Tensor:
    return NETWORK.denoiser(X_T, T, NETWORK.encode(SPECS if specs is None else specs)).x0


def test_alone_it_is_the_network_that_reads_the_two_texts_in_one_row() -> None:
    prediction, cost = call(steered("nag(5, negative=1)", SPECS), X_T)
    assert torch.equal(prediction.x0, read(5.0))
    assert (cost.rows, cost.calls) == (N, 1)
    assert float((prediction.x0 - plain()).abs().max()) > 1e-3


def test_without_a_negative_it_moves_away_from_null() -> None:
    denoiser = steered("nag(5)", SPECS, times=GRID)
    assert torch.equal(call(denoiser, X_T)[0].x0, read(5.0, None))
    assert denoiser.looks_at(NULL)  # so that a negative prompt of a pipeline's call counts as used
    assert not steered("nag(5, negative=1)", SPECS, times=GRID).looks_at(NULL)
    assert not steered("nag(1)", SPECS, times=GRID).looks_at(NULL)


def test_it_adds_to_the_others_in_one_call() -> None:
    prediction, cost = call(steered("nag(5, negative=1) + cfg(3) + slg(2)", SPECS, batching="fused"), X_T)
    assert (cost.rows, cost.calls) == (4 * N, 1)
    skipped = Perturbation("skip", ("middle.0", "middle.1"))
    worse = NETWORK.denoiser(X_T, T, NETWORK.encode(SPECS).perturbed(skipped)).x0
    close(prediction.x0, read(5.0) + 2 * (plain() - plain([None] * N)) + 2 * (plain() - worse), 1e-12)


def test_scales_of_samples_and_of_steps() -> None:
    prediction, cost = call(steered("nag([3, 1, 2, 0, 3], negative=1)", SPECS), X_T)
    assert cost.rows == N
    for i, scale in enumerate((3.0, 1.0, 2.0, 0.0, 3.0)):
        close(prediction.x0[i], plain()[i] if scale == 1 else read(scale)[i], 1e-12)
    ramped = steered("nag(ramp(2, 6), negative=1)", SPECS)
    close(call(ramped, X_T)[0].x0, read(2 + 4 * (1 - float(T))), 1e-12)


def test_terms_with_equal_branches_are_one_and_with_others_are_not() -> None:
    _, cost = call(steered("nag(5, negative=1) + nag(5, negative=1)", SPECS), X_T)
    assert cost.rows == 2 * N  # D_nag + (D_nag - D_c)
    _, cost = call(steered("nag(5, negative=1) + nag(5, negative=2)", SPECS), X_T)
    assert cost.rows == 3 * N


def test_layers_and_settings_are_those_given() -> None:
    one = steered('nag(5, negative=1, layers="middle.0", limit=1.1, blend=1)', SPECS)
    away = Perturbation("negative_text", ("middle.0",), 5.0, 1.1, 1.0, 1)
    condition = NETWORK.encode(SPECS).perturbed(away, negative=NETWORK.encode([1] * N))
    assert torch.equal(call(one, X_T)[0].x0, NETWORK.denoiser(X_T, T, condition).x0)


def test_a_trace_names_the_branch_in_short() -> None:
    from fairlead.sample.watcher import _name

    assert _name(NAG(5, negative=1).branch(5.0)) == "condition, reading away from 1, 5"


def test_off() -> None:
    for text in ("nag(1, negative=1)", "nag(5, negative=1, blend=0)", "nag([1, 1, 1, 1, 1])"):
        prediction, cost = call(steered(text, SPECS), X_T)
        assert torch.equal(prediction.x0, plain())
        assert cost.rows == N


def test_what_a_text_alike_is_moved_away_from_is_itself() -> None:
    """Samples of class 1 have the negative's own text."""
    close(call(steered("nag(5, negative=1)", [1] * N), X_T)[0].x0, plain([1] * N), 1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: steered("nag(5, negative=1)", SPECS, model=ONLY_LABELS), "nag: this model reads no text.*use cfg"),
        (lambda: steered("nag(5)", [0, 1], model=MODEL), "nag: this model reads no text"),
        (lambda: steered('nag(5, layers="up.9")', SPECS), "unknown text layer 'up.9'.*middle.0"),
        (
            lambda: check_condition(to_guidance("nag(5)"), NETWORK.encode([None])),
            "nag.5. steers towards the run's condition, but none was given",
        ),
        (lambda: steered(f"nag(pixels({[[2.0] * 8] * 8}))", SPECS, times=GRID), "no scale for each pixel"),
        (lambda: steered("apg(nag(5))", SPECS), "apg.*wraps one method of two branches"),
        (lambda: NAG(5, limit=0), "nag: expected limit to be a number above 0"),
        (lambda: NAG(5, blend=2), "nag: expected blend from 0 to 1 such as 0.25, got 2"),
        (lambda: to_guidance("nag(5, negative=1.5)"), "nag: expected negative to be a condition"),
        (lambda: to_guidance("nag('5')"), "nag: expected scale to be a finite number"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_how_it_is_written() -> None:
    text = 'nag(5, negative="blurry", limit=2, layers=["middle.0"])'
    assert str(to_guidance(text)) == text
    assert str(NAG(5)) == "nag(5)"
