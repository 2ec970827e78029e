"""The search for one knob against truths known exactly: Gaussians whose samples are linear in the noise, the exact
mixture, and hits whose probability is a parabola."""

import math
from dataclasses import dataclass

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments, frechet_distance
from fairlead.tune.constraint import Constraint, Edge
from fairlead.tune.measurements import DISTANCE, Batch, Goal, Measurement, Together
from fairlead.tune.one_knob import search
from fairlead.tune.parabola import parabola
from fairlead.tune.recommend import recommend
from fairlead.tune.template import Knob
from tests.tune.exact import BEST, REFERENCE, Linear, Toy

KNOB = Knob(1.0, 4.0)


def exactly(losses, covariance=None):
    losses = torch.tensor(losses, dtype=torch.float64)
    k = len(losses)
    return Together(losses, torch.zeros(k, k, dtype=torch.float64) if covariance is None else covariance, 100)


def test_the_vertex_of_a_parabola_is_found_and_its_interval_has_no_width():
    places = [0.1, 0.2, 0.4, 0.5]
    vertex = parabola(places, exactly([3 + 7 * (x - 0.33) ** 2 for x in places]), 2.0)
    assert (vertex.place, vertex.low, vertex.high) == pytest.approx((0.33,) * 3, abs=1e-7)
    assert vertex.curvature.value == pytest.approx(14, rel=1e-9)
    assert vertex.widening == pytest.approx(0, abs=1e-6)


def test_noise_that_all_settings_share_is_no_error_and_a_common_slope_is_one_of_the_vertex():
    places = torch.linspace(-1, 1, 5, dtype=torch.float64)
    losses = [(x - 0.2) ** 2 for x in places.tolist()]
    shared = parabola(places.tolist(), exactly(losses, 9 * torch.ones(5, 5, dtype=torch.float64)), 2.0)
    assert shared.high - shared.low == pytest.approx(0, abs=1e-6)
    # a random slope s x, sd 0.1, moves the vertex of (x - 0.2)^2 by s / 2
    tilted = parabola(places.tolist(), exactly(losses, 0.01 * torch.outer(places, places)), 2.0)
    assert (tilted.low, tilted.high) == pytest.approx((0.1, 0.3), abs=1e-7)


def test_a_cubic_term_widens_the_interval_by_what_it_moves_the_vertex():
    places = [-0.2, -0.1, 0.0, 0.1, 0.2]
    vertex = parabola(places, exactly([x**2 + x**3 for x in places]), 2.0)  # lowest at 0
    assert vertex.place == pytest.approx(-0.017, abs=1e-6)  # the slope of least squares is 3.4 h^2 = 0.034
    assert vertex.low < 0 < vertex.high
    assert vertex.widening == pytest.approx(0.017, rel=0.06)
    noisy = parabola(places, exactly([x**2 + x**3 for x in places], 0.01 * torch.eye(5, dtype=torch.float64)), 0.1)
    assert noisy.widening == 0  # no more than its noise


def test_a_curvature_within_its_noise_is_flat():
    noise = 0.01 * torch.eye(5, dtype=torch.float64)
    assert parabola([0, 1, 2, 3, 4], exactly([0.1, 0.02, 0.0, 0.03, 0.1], noise), 2.0).flat
    assert parabola([0, 1, 2], exactly([1.0, 2.0, 1.0]), 2.0).flat  # a maximum


def test_the_closed_form_of_the_linear_toy_is_the_integral_over_its_samples():
    toy = Linear(0.3)
    closed, integrated = toy.exact(1.4), Toy.exact(toy, 1.4)
    torch.testing.assert_close(closed.mean, integrated.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(closed.covariance, integrated.covariance, rtol=0, atol=1e-8)
    # two isotropic Gaussians: |difference of means|^2 + 2 (difference of stds)^2
    gain, offset = toy.line(1.4)
    mean = REFERENCE.mean
    assert toy.distance(1.4) == pytest.approx(float((offset - mean).square().sum()) + 2 * (gain - 0.5) ** 2, rel=1e-9)


def test_the_best_scale_of_the_mixture_is_where_the_integral_says():
    toy = Toy(0.5)
    at = [frechet_distance(real=REFERENCE, fake=toy.exact(BEST[0.5] * f)) for f in (0.999, 1.0, 1.001)]
    assert at[1] < min(at[0], at[2])
    assert abs(at[2] - at[0]) < 0.02 * (at[0] + at[2] - 2 * at[1])  # the vertex is within 0.001 % of the middle


def covered(toys, best, budget, **options):
    found = [search(toy, REFERENCE, KNOB, budget=budget, **options) for toy in toys]
    assert all(f.images <= budget and toy.images == f.images for f, toy in zip(found, toys, strict=True))
    return sum(f.low <= best <= f.high for f in found), found


def test_the_interval_holds_the_truth():
    best = Linear(0.3).best()
    hits, found = covered([Linear(0.3, seed) for seed in range(6)], best, 1500)
    assert hits >= 5  # 0.97 of binomial(6, 0.95)
    assert max(math.log(f.high / f.low) / 2 for f in found) < 0.12


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_95_of_100():
    best = Linear(0.3).best()
    hits, _ = covered([Linear(0.3, seed) for seed in range(200)], best, 3000)
    assert hits >= 183  # binomial(200, 0.95): 190 +- 3.1
    hits, _ = covered([Toy(0.5, seed) for seed in range(100)], BEST[0.5], 4000)
    assert hits >= 90


def test_the_search_is_a_function_of_its_arguments_and_stops_when_it_knows_enough():
    once, again = (search(Linear(0.3, 5), REFERENCE, KNOB, budget=1500) for _ in range(2))
    assert (once.value, once.low, once.high) == (again.value, again.low, again.high)
    early = search(Linear(0.3, 5), REFERENCE, KNOB, budget=100_000, first=50, wanted=0.1)
    assert early.images < 1500
    assert math.log(early.high / early.low) / 2 <= 0.1


def test_a_best_beyond_the_range_is_said_and_found_where_the_range_may_grow():
    toy = Linear(0.3, 1)
    best = toy.best()
    short = search(toy, REFERENCE, Knob(1.8, 4.0), budget=1500)
    assert short.value == short.points[0].setting[0] == pytest.approx(1.8)
    assert "the best lies at the end of the range, 1.8" in short.notes[0]
    assert short.vertex is None
    grown = search(toy, REFERENCE, Knob(1.8, 4.0, lowest=1.0), budget=1500)
    assert grown.low < best < grown.high
    assert grown.notes == ()


@dataclass
class Hollow:
    """A sample's feature is normal about m, with m^2 = 0.5 + 30 (1 - exp(-(log(scale / best) / 0.7)^2)) its distance to
    N(0, 1): a parabola about the best only, hollow from twice the best on."""

    best: float
    seed: int = 0
    own: float = 0.0
    """Noise that every setting has for itself."""

    def __call__(self, setting, seeds):
        streams = (
            torch.Generator().manual_seed(seed) for seed in (self.seed, 1000 * self.seed + int(1e6 * setting[0]))
        )
        draw, other = (torch.randn(1 << 13, dtype=torch.float64, generator=stream) for stream in streams)
        loss = 0.5 + 30 * (1 - math.exp(-((math.log(setting[0] / self.best) / 0.7) ** 2)))
        features = ((draw + self.own * other)[seeds.start : seeds.stop] + math.sqrt(loss))[:, None]
        return Batch(features, {"accuracy": torch.ones(len(seeds))}, float(len(seeds)))


@pytest.mark.parametrize("best", [1.05, 1.15, 0.9])
def test_a_best_just_inside_a_wide_range_is_not_taken_for_its_end(best):
    for seed in range(3):
        found = search(Hollow(best, seed), NORMAL, Knob(1, 8), budget=4000)
        assert (found.low, found.high) == pytest.approx((max(best, 1), max(best, 1)), rel=0.01)
        assert ("end of the range" in "".join(found.notes)) == (best < 1)


@pytest.mark.parametrize("best", [1.03, pytest.param(1.1, marks=pytest.mark.slow)])
def test_a_best_near_the_end_of_a_wide_range_is_held_by_an_interval_under_noise(best):
    found = [search(Hollow(best, seed, own=1.0), NORMAL, Knob(1, 8), budget=3000) for seed in range(10)]
    assert sum(f.low <= best <= f.high for f in found) >= 9
    assert max(f.high / f.low for f in found) < 1.3


@dataclass
class Hits:
    """Sample i is a hit if its uniform number is below peak - bend (x - at)^2, x = log(scale); features say nothing."""

    bend: float
    at: float = 0.6
    peak: float = 0.9
    seed: int = 0

    def __call__(self, setting, seeds):
        draw = torch.rand(1 << 16, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))
        chance = self.peak - self.bend * (math.log(setting[0]) - self.at) ** 2
        hits = (draw[seeds.start : seeds.stop] < chance).double()
        features = torch.zeros(len(seeds), 1)
        return Batch(features, {"accuracy": hits}, float(len(seeds)))


ACCURACY = Goal("accuracy", maximise=True)


def test_any_metric_can_be_searched_even_one_of_0_and_1():
    found = [search(Hits(1.0, seed=s), REFERENCE, KNOB, budget=20_000, objective=ACCURACY) for s in range(30)]
    assert sum(math.log(f.low) <= 0.6 <= math.log(f.high) for f in found) >= 26  # 0.98 of binomial(30, 0.95)


def test_a_flat_curve_is_said_and_nothing_is_left_out():
    found = search(Hits(0.0), REFERENCE, KNOB, budget=2000, objective=ACCURACY)
    assert "flat: the curvature" in found.notes[0]
    assert (found.low, found.high) == pytest.approx((1.0, 4.0))
    assert found.vertex is None


def test_a_constraint_that_keeps_the_best_out_is_found():
    toy = Linear(0.3, 2)
    # the share of the toy's samples nearest to their class mean rises with the scale
    rule = Constraint("accuracy", 0.98, True)
    exact = [float(toy((s,), range(1 << 14)).values["accuracy"].mean()) for s in (1.4, 3.9)]
    assert exact[0] < 0.98 < exact[1]
    edge_low, edge_high = 1.0, 4.0
    for _ in range(20):
        middle = (edge_low + edge_high) / 2
        above = float(toy((middle,), range(1 << 14)).values["accuracy"].mean()) >= 0.98
        edge_low, edge_high = (edge_low, middle) if above else (middle, edge_high)
    found = search(Linear(0.3, 3), REFERENCE, KNOB, budget=6000, constraints=[rule])
    assert "beyond what accuracy >= 0.98 allows" in found.notes[0]
    assert found.low <= edge_high <= found.high
    assert found.recommended is not None
    assert rule.feasible(found.recommended.one)


@dataclass
class Logistic:
    """Sample i is a hit if its uniform number is below a logistic function of log(scale) that is 0.98 at ``edge``; its
    feature is normal about 0.5 + tilt log(scale), so that the distance to N(0, 1) is the square of that."""

    edge: float
    steepness: float
    tilt: float
    seed: int

    def __call__(self, setting, seeds):
        generator = torch.Generator().manual_seed(self.seed)
        draw, normal = (f(1 << 13, dtype=torch.float64, generator=generator) for f in (torch.rand, torch.randn))
        place, part = math.log(setting[0]), slice(seeds.start, seeds.stop)
        chance = 1 / (1 + math.exp(-math.log(49) - self.steepness * (place - math.log(self.edge))))
        features = (normal[part] + 0.5 + self.tilt * place)[:, None]
        return Batch(features, {"accuracy": (draw[part] < chance).double()}, float(len(seeds)))


NORMAL = Moments(1001, torch.zeros(1, dtype=torch.float64), 1000 * torch.eye(1, dtype=torch.float64))
ACCURATE = Constraint("accuracy", 0.98, True)


def edges(edge, steepness, tilt, seeds, budget=5000):
    """(intervals that hold the edge, mean width in log(scale)) of searches from 1 to 8."""
    hits, widths = 0, []
    for seed in range(seeds):
        measure = Logistic(edge, steepness, tilt, seed)
        found = search(measure, NORMAL, Knob(1, 8), budget=budget, constraints=[ACCURATE])
        assert 0.99 * budget <= found.images <= budget
        assert found.recommended is not None
        hits += found.low <= edge <= found.high
        widths.append(math.log(found.high / found.low))
    return hits, sum(widths) / seeds


def test_the_edge_of_what_is_allowed_is_held_by_a_narrow_interval():
    # 0.97 at scale 1 and 0.997 at 1.41, as an 8x8 digits model has; the distance hardly knows the scale
    hits, width = edges(1.064, 6.7, 0.02, 3)
    assert hits == 3
    assert width < 0.25
    hits, width = edges(3.1, -6.7, -0.1, 3)  # what is allowed lies below
    assert hits == 3
    assert width < 0.34  # a step of the first grid is 0.347


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edge", "steepness", "tilt", "width"), [(1.064, 6.7, 0.02, 0.23), (2.3, 6.7, 0.2, 0.28), (2.3, 20, 0.2, 0.11)]
)
def test_the_interval_of_the_edge_holds_it(edge, steepness, tilt, width):
    hits, mean = edges(edge, steepness, tilt, 60)
    assert hits >= 54
    assert mean < width


def shares(**hits):
    """Settings at places p0, p1, ... with (hits, images)."""
    return {
        float(name[1:]): Measurement(
            (1.0,), range(n), Batch(torch.zeros(n, 1), {"accuracy": (torch.arange(n) < k).double()}, n), REFERENCE
        )
        for name, (k, n) in hits.items()
    }


def test_the_ends_of_an_edge_are_sure_and_the_next_place_is_the_one_that_promises_most_an_image():
    half = Constraint("accuracy", 0.5, True)
    wide = Edge(shares(p0=(10, 100), p2=(90, 100), p3=(100, 100)), [half], 2.0, 0.0, 2.0)
    assert wide.side == -1
    assert wide.ends() == (2, 0)
    assert wide.next(8, 0.0) is None  # both sides are sure and their middle would be at the bound itself
    lower = Edge(shares(p0=(10, 100), p2=(70, 100)), [half], 2.0, 0.0, 2.0)
    # the middle seems to be at 0.4: 4 x 0.25 / 0.01 = 100 images
    assert lower.next(8, 0.0) == (1.0, 100)
    assert lower.next(8, 2.0) is None  # narrow enough
    # 0 and 4 are sure; 2 lacks 900 images (0.53: 1111 - 211), the middle at 1 about 73 (0.365: 1 / 0.018)
    unsure = Edge(shares(p0=(20, 100), p2=(112, 211), p4=(100, 100)), [half], 2.0, 0.0, 2.0)
    assert unsure.ends() == (4, 0)
    place, images = unsure.next(8, 0.0) or (0, 0)
    assert place in (1.0, 3.0)
    assert images < 100
    # with no gap left to halve it is the undecided one, on twice its images
    assert unsure.next(8, 2.0) == (2.0, 422)


def test_an_edge_without_noise_is_found_to_a_thousandth():
    # the toy costs 16 rows per image at every scale; here an image costs as many rows as the scale says
    def measure(setting, seeds):
        batch = Logistic(1.0, 0.0, -0.1, 0)(setting, seeds)
        return Batch(batch.features, batch.values, setting[0] * len(seeds))

    found = search(measure, NORMAL, Knob(1, 8), budget=3000, constraints=[Constraint("rows", 3.3, False)])
    assert found.low <= 3.3 <= found.high < 1.001 * found.low
    assert found.value == found.low


def test_a_best_that_is_surely_allowed_is_found_as_without_constraint():
    free = search(Linear(0.3, 2), REFERENCE, KNOB, budget=3000)
    bound = search(Linear(0.3, 2), REFERENCE, KNOB, budget=3000, constraints=[Constraint("accuracy", 0.5, True)])
    assert (bound.value, bound.low, bound.high, bound.images) == (free.value, free.low, free.high, free.images)


def at_first(width, budget, **options):
    """(images of each setting of the first grid, settings of it, notes) with features of so many dimensions."""
    grid: dict[float, int] = {}
    pool = torch.randn(1 << 13, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def measure(setting, seeds):
        grid.setdefault(setting[0], len(seeds))
        features = pool[seeds.start : seeds.stop] + 0.5 + abs(math.log(setting[0] / 2))
        return Batch(features, {"accuracy": torch.ones(len(seeds), dtype=torch.float64)}, float(len(seeds)))

    eye = torch.eye(width, dtype=torch.float64)
    reference = Moments(1001, torch.zeros(width, dtype=torch.float64), 1000 * eye)
    found = search(measure, reference, Knob(1, 4), budget=budget, **options)
    sizes = list(grid.values())
    settings = next((k for k, x in enumerate(list(grid)) if x == pytest.approx(4)), 0) + 1
    return sizes[0], settings, found.notes


def test_a_distance_gets_at_least_four_images_a_feature_from_the_start():
    assert at_first(8, 450, wanted=9)[:2] == (32, 7)  # 2 x 7 x 32 = 448
    assert at_first(8, 447, wanted=9)[:2] == (32, 5)
    first, settings, notes = at_first(8, 319, wanted=9)
    assert (first, settings) == (31, 5)
    assert notes[0].startswith("few images for features of 8 dimensions: 31 for each of the 5 first settings, where 32")
    assert at_first(8, 2800, wanted=9)[:2] == (50, 7)  # an eighth of the budget is more
    assert at_first(8, 450, wanted=9, first=20)[:2] == (20, 7)  # as given
    assert at_first(8, 450, wanted=9, settings=9)[:2] == (25, 9)
    assert at_first(8, 450, wanted=9, objective=ACCURACY)[:2] == (8, 7)  # no distance is searched


def test_no_feasible_setting_is_said():
    found = search(Linear(0.3), REFERENCE, KNOB, budget=1500, constraints=[Constraint("rows", 10, False)])
    assert found.recommended is None
    assert found.notes[-1].startswith("no setting satisfies rows <= 10; ")
    assert "rows 16" in found.notes[-1]


def made(loss, rows, accuracy=1.0, n=400):
    noise = torch.linspace(-1, 1, n, dtype=torch.float64)
    values = {"loss": loss + noise, "accuracy": (torch.arange(n) < accuracy * n).double()}
    return Measurement((loss,), range(n), Batch(torch.zeros(n, 1), values, rows * n), REFERENCE)


def taken(*arguments):
    found = recommend(*arguments)
    assert found is not None
    return found


def test_the_cheapest_of_those_that_cannot_be_told_apart_is_recommended():
    objective = Goal("loss")
    dear, cheap, worse = made(1.0, 2), made(1.0, 1), made(1.1, 0.5)
    assert taken([dear, cheap, worse], objective).one is cheap  # differences of paired noise are exact
    strict = taken([dear, cheap, worse], objective, [Constraint("accuracy", 0.9, True)])
    assert strict.why.endswith("surely so: accuracy >= 0.9")
    doubtful = made(0.5, 1, accuracy=0.9)
    chosen = taken([dear, doubtful], objective, [Constraint("accuracy", 0.89, True)])
    assert chosen.one is doubtful
    assert chosen.why.endswith("surely so: none; by the estimate only: accuracy >= 0.89")
    assert recommend([doubtful], objective, [Constraint("accuracy", 0.95, True)]) is None


def test_a_point_of_few_seeds_does_not_win_by_the_luck_of_its_seeds():
    # the first 100 values are lower for all; on them the point of few seeds is the worse one
    trend = torch.linspace(0, 1, 400, dtype=torch.float64)
    few = Measurement((1.0,), range(100), Batch(torch.zeros(100, 1), {"loss": 0.2 + trend[:100]}), REFERENCE)
    many = Measurement((2.0,), range(400), Batch(torch.zeros(400, 1), {"loss": trend}), REFERENCE)
    assert few.estimate("loss").value < many.estimate("loss").value
    assert taken([few, many], Goal("loss")).one is many


def test_wrong_knobs_and_budgets_are_one_line():
    with pytest.raises(UsageError, match="lowest <= low < high <= highest"):
        Knob(2.0, 1.0)
    with pytest.raises(UsageError, match="take log=False"):
        Knob(0.0, 1.0)
    assert Knob(0.0, 1.0, log=False).place(0.5) == 0.5
    with pytest.raises(UsageError, match="7 settings of 100 images and a budget of 600"):
        search(Linear(0.3), REFERENCE, KNOB, budget=600, first=100)
    with pytest.raises(UsageError, match="unknown metric 'fid'"):
        search(Linear(0.3), REFERENCE, KNOB, budget=1500, objective=Goal("fid"))
    assert Goal().metric == DISTANCE
