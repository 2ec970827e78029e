"""Scales that differ between pixels: boxes and maps, in every pair and in composition."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.denoiser import tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import RectifiedFlow
from fairlead.guide.branch import add_weights, nonzero_rows, weighted
from fairlead.guide.expression import parse
from fairlead.guide.region import Region
from fairlead.guide.scales import Pixels, Ramp, as_scale, scale_at
from fairlead.guide.step import Step
from fairlead.models.model import LabelEncoder, Model, identity
from tests.guide.toy import NETWORK, N, T, call, close, guided, images, steered

SPECS = [2, 0, 3, 2, 1]
X_T = images()
BOX = "[0.25, 0, 0.75, 0.5]"  # rows 2 to 5, columns 0 to 3 of 8 x 8


def inside() -> Tensor:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 2:6, :4] = True
    return mask


def at(height: int, width: int, t: float = 0.5) -> Step:
    return Step(t, 1.0, 0.0, shape=(1, height, width))


def pointwise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
    """A denoiser of one pixel at a time: towards the label, in proportion to what is there."""
    alpha, sigma = (value.to(x_t) for value in RectifiedFlow().alpha_sigma(t))
    label = torch.where(condition.keep["label"], condition.values["label"], -1)[:, None, None, None]
    x0 = (alpha * x_t + 0.1 * label) / (alpha**2 + sigma**2)
    tally(len(x_t))
    return Prediction.from_x0(x0, x_t, alpha, sigma)


POINTWISE = Model(pointwise, RectifiedFlow(), (1, 8, 8), LabelEncoder(tuple("abcd")), identity, tuple("abcd"))


@pytest.mark.parametrize("steps", [1, 6])
def test_a_pointwise_denoiser_is_two_runs_cut_together_to_the_bit(steps: int) -> None:
    """cfg(4) inside the box and the conditional model outside, over a whole run."""

    def run(guidance: str) -> Tensor:
        return fl.sample(POINTWISE, ["b", "d"], guidance=guidance, steps=steps, seeds=3).x0

    mixed, strong, off = run(f"cfg(region(4, 1, {BOX}))"), run("cfg(4)"), run("cfg([1, 1])")
    mask = inside().expand_as(mixed)
    close(mixed[mask], strong[mask], 1e-6)
    close(mixed[~mask], off[~mask], 1e-6)
    assert float((strong - off).abs().min()) > 0.01


@pytest.mark.parametrize("method", ["cfg({})", "pag({})", "cfg({}, negative=1)", "auto({}, weak='weak')", "slg({})"])
def test_in_one_evaluation_of_any_pair(method: str) -> None:
    mixed, cost = call(steered(method.format(f"region(4, -1, {BOX})"), SPECS), X_T)
    parts = [call(steered(method.format(scale), SPECS), X_T)[0] for scale in (4, -1)]
    for name in ("x0", "eps"):
        expected = torch.where(inside(), getattr(parts[0], name), getattr(parts[1], name))
        close(getattr(mixed, name), expected, 1e-12)
    assert cost.rows == 2 * N


def test_composition_by_regions() -> None:
    """D_u + w_1 (D_1 - D_u) in the box, D_u + w_2 (D_2 - D_u) outside it: regional prompts (2206.01714)."""
    nothing = [None] * N
    mixed, cost = call(steered(f"compose({{1: region(3, 0, {BOX}), 2: region(0, 2, {BOX})}})", nothing), X_T)
    first, second = (call(steered(text, nothing), X_T)[0] for text in ("compose({1: 3})", "compose({2: 2})"))
    close(mixed.x0, torch.where(inside(), first.x0, second.x0), 1e-12)
    assert cost.rows == 3 * N


@pytest.mark.parametrize("n", [5, 8])
def test_maps_add_to_scales_of_a_sample_and_to_each_other(n: int) -> None:
    """Also for as many samples as the image is wide."""
    specs, x_t = [2] * n, images(n=n)
    scales = [float(i) for i in range(n)]
    mixed, _ = call(steered(f"cfg({scales}) + cfg(region(4, 2, {BOX}), negative=1)", specs), x_t)
    a, b = (call(steered(f"cfg({scales}) + cfg({scale}, negative=1)", specs), x_t)[0].x0 for scale in (4, 2))
    close(mixed.x0, torch.where(inside(), a, b), 1e-12)
    composed, _ = call(steered(f"compose({{1: {scales}, 2: region(3, 0, {BOX})}})", [None] * n), x_t)
    a, b = (call(steered(f"compose({{1: {scales}, 2: {w}}})", [None] * n), x_t)[0].x0 for w in (3, 0))
    close(composed.x0, torch.where(inside(), a, b), 1e-12)
    twice, _ = call(steered(f"cfg(region(4, 1, {BOX})) + cfg(region(2, 3, {BOX}))", specs), x_t)
    a, b = (call(steered(f"cfg({scale})", specs), x_t)[0].x0 for scale in (5, 3))
    close(twice.x0, torch.where(inside(), a, b), 1e-12)


def test_weights_of_every_shape() -> None:
    map_, each = torch.arange(4.0).reshape(1, 1, 2, 2), torch.tensor([1.0, -1.0, 0.0])
    together = add_weights(map_, each)
    assert isinstance(together, Tensor)
    assert together.shape == (3, 1, 2, 2)
    assert together[:, 0, 1, 0].tolist() == [3, 1, 2]
    assert torch.equal(torch.as_tensor(add_weights(each, map_)), together)
    assert torch.equal(torch.as_tensor(add_weights(each, 2.0)), torch.tensor([3.0, 1.0, 2.0]))
    assert nonzero_rows(map_) is True
    assert nonzero_rows(torch.zeros(1, 1, 2, 2)) is False
    rows = nonzero_rows(add_weights(torch.zeros(1, 1, 2, 2), each))
    assert isinstance(rows, Tensor)
    assert rows.tolist() == [True, True, False]
    x = torch.ones(3, 2, 2, 2)
    assert torch.equal(weighted(together, x)[:, 1], together[:, 0])


def test_a_map_that_is_off_everywhere_costs_nothing() -> None:
    for text in (f"cfg(region(1, 1, {BOX}))", "cfg(clamp(region(0, 1, [0, 0, 1, 0.5]), low=1))"):
        prediction, cost = call(steered(text, SPECS), X_T)
        assert torch.equal(prediction.x0, call(steered("none", SPECS), X_T)[0].x0)
        assert cost.rows == N
    _, cost = call(steered(f"cfg(region(0, 0, {BOX}))", SPECS), X_T)
    assert cost.rows == N


@pytest.mark.parametrize(
    ("box", "height", "width", "rows", "columns"),
    [
        ([0, 0, 1, 1], 3, 5, [0, 1, 2], [0, 1, 2, 3, 4]),
        ([0, 0, 0.5, 1], 4, 2, [0, 1], [0, 1]),
        ([0.5, 0, 1, 1], 5, 1, [2, 3, 4], [0]),  # the centre of the middle row is at 0.5
        ([0, 0, 0.5, 1], 5, 1, [0, 1], [0]),  # the other half has the rest: boxes side by side share no pixel
        ([0.3, 0.6, 0.4, 0.9], 10, 10, [3], [6, 7, 8]),
    ],
)
def test_the_pixels_of_a_box(box: list, height: int, width: int, rows: list[int], columns: list[int]) -> None:
    value = Region(1, 0, box).value(at(height, width))[0, 0]
    assert value.any(1).nonzero()[:, 0].tolist() == rows
    assert value.any(0).nonzero()[:, 0].tolist() == columns
    assert float(value.sum()) == len(rows) * len(columns)


def test_the_sides_of_a_region_may_be_schedules() -> None:
    value = Region(Ramp(1, 5), Ramp(2, 0), [0, 0, 0.5, 1]).value(at(2, 1, t=0.25))
    assert value.tolist() == [[[[4.0], [0.5]]]]


def test_a_tensor_of_two_axes_is_a_map_over_pixels() -> None:
    values = torch.tensor([[0.5, 2], [1, -3]])
    scale = as_scale("cfg", values)
    assert scale == Pixels([[0.5, 2], [1, -3]])
    assert torch.equal(torch.as_tensor(scale_at(scale, at(2, 2))), values[None, None].double())
    guidance = fl.cfg(values)
    assert str(guidance) == "cfg(pixels([[0.5, 2], [1, -3]]))"
    assert parse(str(guidance)) == guidance
    assert hash(parse(str(guidance))) == hash(guidance)


def test_a_map_over_pixels_by_hand() -> None:
    values = torch.linspace(-2, 5, 64, dtype=torch.float64).reshape(8, 8)
    prediction, _ = call(steered(fl.cfg(values), SPECS), X_T)
    conditional, null = (call(steered(text, SPECS), X_T)[0].x0 for text in ("none", "cfg(0)"))
    close(prediction.x0, null + values * (conditional - null), 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: call(steered("cfg(pixels([[1, 4]]))", SPECS), X_T), "the map is 1 x 2, the model's samples are 8 x 8"),
        (lambda: call(guided(f"cfg(region(4, 1, {BOX}))"), torch.zeros(N, 2)), r"needs images, got samples \[2\]"),
        (lambda: call(guided("cfg(pixels([[1, 4]]))"), torch.zeros(N, 2)), r"needs images, got samples \[2\]"),
        (lambda: Region(1, 0, [0, 0, 0.01, 1]).value(at(8, 8)), "no pixel of an image of 8 x 8 is in the box"),
        (lambda: Region(1, 0, [0, 0, 1]), r"a box of four fractions .*, got \[0, 0, 1\]"),
        (lambda: Region(1, 0, [0.5, 0, 0.5, 1]), "0 <= top < bottom <= 1"),
        (lambda: Region(1, 0, [0, 0, 1, 64]), r"in fractions .*, got \[0, 0, 1, 64\]"),
        (lambda: Region(1, 0, "all"), "a box of four fractions"),  # type: ignore[arg-type]
        (lambda: Region([1, 2], 0, [0, 0, 1, 1]), "region: expected inside to be one number or a schedule"),  # type: ignore
        (lambda: Region(1, "0", [0, 0, 1, 1]), "region: expected scale to be a finite number"),  # type: ignore[arg-type]
        (lambda: Pixels([]), "pixels: expected rows of numbers"),
        (lambda: Pixels([[]]), "pixels: expected rows of numbers"),
        (lambda: Pixels([[1, 2], [3]]), r"pixels: expected rows of one length, got \[1, 2\]"),
        (lambda: fl.cfg(torch.tensor([[1.0, float("nan")]])), "pixels: expected a pixel to be a finite number"),
        (lambda: fl.cfg(torch.zeros(1, 2, 2)), "cfg: expected scale to be a finite number"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_map_of_the_wrong_size_is_refused_before_the_network_is_asked() -> None:
    asked: list[int] = []

    def counting(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        asked.append(len(x_t))
        return NETWORK.denoiser(x_t, t, condition)

    denoiser = steered("cfg(pixels([[1, 4]]))", SPECS, model=replace(NETWORK, denoiser=counting))
    with pytest.raises(UsageError, match="give one number per pixel"):
        denoiser(X_T, T, denoiser.condition)
    assert asked == []
    assert NETWORK.shape == (1, 8, 8)
