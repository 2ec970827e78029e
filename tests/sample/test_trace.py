"""What a guidance does, against closed forms: sizes, angles and effective scales of the exact mixture; watching changes
no bits and costs no rows."""

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.schedule import vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.observation import Observation
from fairlead.guide.terms import Ask, Term
from fairlead.models.toy import toy_model
from fairlead.sample.run import Plan, sample
from fairlead.sample.sampling import Sampling
from fairlead.sample.trace import Trace
from fairlead.sample.watcher import PER_STEP
from tests.guide.toy import NETWORK

MIXTURE = GaussianMixture.ring(classes=4, radius=1.0, std=1.2)
TOY = toy_model(MIXTURE, vp_linear())
LABELS = [2, 0, 3]
SEEDS = (5, 0, 9)
STEPS = 6


def traced(guidance: Any, compare: bool = False, model=TOY, conds: Any = LABELS, **options: Any) -> Trace:
    given = {name: options.pop(name) for name in ("seeds", "resources") if name in options}
    plan = Plan.of(model, conds, guidance, Sampling(**{"steps": STEPS, **options}), **{"seeds": SEEDS, **given})
    return Trace.of(plan, compare)


def by_hand(guidance: str) -> list[tuple[Tensor, Tensor]]:
    """(D_c, D_u) of the oracle at every step of the guided run, float64 [n, 2]."""
    found = []

    def look(observed: Observation) -> None:
        x_t = observed.seen.x_t.double()
        alpha, sigma = (expand_like(value, x_t) for value in TOY.schedule.alpha_sigma(observed.seen.t))
        label = torch.tensor(LABELS)
        found.append((MIXTURE.denoise(x_t, alpha, sigma, label), MIXTURE.denoise(x_t, alpha, sigma)))

    plan = Plan.of(TOY, LABELS, guidance, Sampling(steps=STEPS), seeds=SEEDS)
    list(plan.frames(slice(0, len(SEEDS)), look))
    return found


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b.to(a), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0, 20.0])
def test_the_effective_scale_of_cfg_is_its_scale_at_every_step(scale: float) -> None:
    trace = traced(f"cfg({scale})")
    close(trace.step["effective"], torch.full((STEPS, 3), scale), 1e-3)
    assert torch.equal(trace.step["effective"], trace.step["effective_finished"])
    assert torch.equal(trace.term["scale"][0], torch.full((STEPS, 3), scale, dtype=torch.float64))


def test_two_terms_act_like_the_sum_of_their_weights() -> None:
    trace = traced("cfg(3) + cfg(2)")
    close(trace.step["effective"], torch.full((STEPS, 3), 4.0), 1e-3)
    close(trace.between[0, 1], torch.zeros(STEPS, 3), 0.05)
    opposed = traced("cfg(3) + cfg(0)")
    close(opposed.between[0, 1], torch.full((STEPS, 3), 180.0), 0.05)
    close(opposed.step["effective"], torch.full((STEPS, 3), 2.0), 1e-3)
    cancelled = traced("cfg(3) + cfg(-1)")  # null is evaluated for neither: what each alone would add is not known
    assert cancelled.rows == (3,) * STEPS
    assert bool(cancelled.term["size"].isnan().all())
    assert bool((cancelled.step["effective"] == 1).all())


def test_sizes_and_angles_are_those_computed_by_hand() -> None:
    trace = traced("cfg(4)")
    for i, (cond, null) in enumerate(by_hand("cfg(4)")):
        direction = cond - null
        close(trace.term["size"][0, i], 3 * direction.square().mean(1).sqrt(), 1e-5)
        close(trace.step["condition"][i], cond.square().mean(1).sqrt(), 1e-5)
        cosine = (direction * cond).sum(1) / direction.norm(dim=1) / cond.norm(dim=1)
        close(trace.term["angle"][0, i], torch.rad2deg(cosine.acos()), 1e-2)
        close(trace.step["strength"][i], 3 * direction.norm(dim=1) / cond.norm(dim=1), 1e-5)
    close(trace.step["total"], trace.term["size"][0], 1e-5)


def test_a_ramp_is_shown_as_it_rises() -> None:
    trace = traced("cfg(ramp(1, 6, by='progress'))")
    ramp = torch.linspace(1, 6, STEPS, dtype=torch.float64)[:, None].expand(-1, 3)
    close(trace.term["scale"][0], ramp, 1e-12)
    close(trace.step["effective"], ramp, 1e-3)
    close(trace.coefficients["condition"], ramp, 1e-12)
    close(trace.coefficients["null"], 1 - ramp, 1e-12)


def test_outside_its_interval_a_term_costs_one_row_and_adds_nothing() -> None:
    levels = traced("none").sigma
    low, high = levels[4] * 1.01, levels[1] * 1.01
    trace = traced(f"cfg(3).during(sigma=({low}, {high}))")
    inside = [low < level <= high for level in levels]
    assert inside == [False, True, True, True, False, False]
    assert trace.rows == tuple(6 if on else 3 for on in inside)
    for i, on in enumerate(inside):
        close(trace.term["scale"][0, i], torch.full((3,), 3.0 if on else 1.0), 1e-12)
        close(trace.step["effective"][i], torch.full((3,), 3.0 if on else 1.0), 1e-3)
        assert bool(trace.step["total"][i].any()) is on


def test_a_scale_a_sample_leaves_unknown_what_was_not_evaluated_until_compared() -> None:
    guidance = "cfg([0, 1, 3])"
    trace, compared = traced(guidance), traced(guidance, compare=True)
    close(trace.step["effective"][0], torch.tensor([0.0, 1.0, 3.0]), 1e-4)
    assert trace.step["condition"].isnan().tolist() == [[True, False, False]] * STEPS  # scale 0 needs only null
    assert trace.term["size"].isnan().tolist() == [[[True, False, False]] * STEPS]
    assert trace.rows == compared.rows == (4,) * STEPS
    assert (trace.compared_rows, compared.compared_rows) == (0, STEPS * 6)
    close(compared.step["effective"], torch.tensor([0.0, 1.0, 3.0]).expand(STEPS, 3), 1e-3)
    assert not bool(compared.step["condition"].isnan().any())
    assert trace.x0 is not None
    assert compared.x0 is not None
    assert torch.equal(trace.x0, compared.x0)


SAME = [
    ("none", LABELS, "ddim"),
    ("none", LABELS, "heun"),
    ("cfg(1)", LABELS, "dpmpp_2m"),
    ("cfg(0)", LABELS, "ddim"),
    ("cfg(3)", LABELS, "ddim(eta=1)"),
    ("cfg([0, 1, 3])", LABELS, "heun"),
    ("cfg(3).during(t=(0.3, 0.7)) | threshold(0.9)", LABELS, "ddim"),
    ("cfg(2) + cfg(3, negative=1) | clip()", LABELS, "dpmpp_2m"),
    ("compose({2: 2, 1: -1})", None, "euler"),
    ("none | clip()", None, "ddim"),
]


@pytest.mark.parametrize(("guidance", "conds", "sampler"), SAME)
@pytest.mark.parametrize("compare", [False, True])
def test_watching_changes_no_bit_and_costs_no_row(guidance: str, conds: Any, sampler: str, compare: bool) -> None:
    options: dict[str, Any] = {"seeds": SEEDS, "steps": 4, "sampler": sampler, "batch_size": 2}
    run = sample(NETWORK, conds, guidance=guidance, **options)
    trace = traced(guidance, compare, NETWORK, conds, **options)
    assert trace.x0 is not None
    assert torch.equal(trace.x0, run.x0)
    assert sum(trace.rows) == run.cost.rows


def test_batches_do_not_matter() -> None:
    whole, parts = (traced("cfg(3) | clip()", model=NETWORK, batch_size=size) for size in (3, 2))
    for name in PER_STEP:
        torch.testing.assert_close(whole.step[name], parts.step[name], rtol=1e-3, atol=2e-3, equal_nan=True)
    assert whole.rows == parts.rows == (6,) * STEPS


def test_saturation_is_the_share_outside_the_data_range() -> None:
    shares: list[Tensor] = []

    def look(observed: Observation) -> None:
        shares.append((observed.guided.abs() > 1).double().flatten(1).mean(1))

    plan = Plan.of(NETWORK, LABELS, "cfg(5) | clip()", Sampling(steps=STEPS), seeds=SEEDS)
    list(plan.frames(slice(0, len(SEEDS)), look))
    trace = Trace.of(plan)
    close(trace.step["outside"], torch.stack(shares), 1e-12)
    assert float(trace.step["outside"].max()) > 0.1
    assert not bool(trace.step["outside_finished"].any())
    assert bool(traced("cfg(5)").step["outside"].isnan().all())  # a toy has no data range


def test_the_film_ends_with_the_images_of_the_run() -> None:
    trace = traced("cfg(2)", model=NETWORK, steps=25)
    assert trace.film is not None
    assert trace.film.shape == (3, 2, 10, 1, 8, 8)
    assert (trace.film_steps[0], trace.film_steps[-1]) == (0, 24)
    images = sample(NETWORK, LABELS, guidance="cfg(2)", seeds=SEEDS, steps=25).images
    assert images is not None
    assert torch.equal(trace.film[:, 1, -1], images)
    unknown = traced("cfg(0)", model=NETWORK).film
    assert unknown is not None
    assert bool((unknown[:, 0] == 128).all())


@dataclass(frozen=True)
class Spoiler(Term):
    """Adds nan to one sample from a step on."""

    at: int
    name: ClassVar[str] = "spoiler"

    def add(self, seen: Seen) -> Tensor:
        added = torch.zeros_like(seen.x_t)
        if seen.step.index == self.at:
            added[1] = math.nan
        return added


def test_the_term_that_makes_a_value_that_is_not_finite_is_named() -> None:
    trace = traced(Spoiler(0) + Spoiler(3))
    assert trace.broken is not None
    assert (trace.broken.what, trace.broken.step, trace.broken.seed) == ("spoiler(0)", 0, SEEDS[1])
    later = traced(Spoiler(3))
    assert str(later.broken) == f"first value that is not finite: spoiler(3), step 4, seed {SEEDS[1]}"
    assert later.x0 is None
    assert bool(later.step["condition"][:4].isfinite().all())
    assert bool(later.step["condition"][4:].isnan().all())


@dataclass(frozen=True)
class Relabel(Term):
    """Changes the run's condition, adds nothing itself."""

    name: ClassVar[str] = "relabel"

    def ask(self, at: Moment) -> Ask:
        return Ask(alter=lambda condition: condition)


def test_the_share_of_a_term_that_changes_the_condition_is_unknown() -> None:
    trace = traced(Relabel() + CFG(3), model=NETWORK)
    assert bool(trace.term["size"][0].isnan().all())
    close(trace.step["effective"], torch.full((STEPS, 3), 3.0), 1e-3)


def test_an_error_that_is_not_of_numbers_is_raised() -> None:
    with pytest.raises(UsageError, match="unknown class"):
        traced("cfg(2)", conds="nobody")


def test_all_numbers_are_json() -> None:
    text = json.dumps(traced("cfg([0, 1, 3]) | clip()", model=NETWORK).to_json(), allow_nan=False)
    read = json.loads(text)
    assert read["sigma"][0] == "inf"  # rectified flow starts at pure noise
    assert read["per_seed"]["condition"][0][0] is None
    assert read["rows"] == [4] * STEPS
    assert [len(read["terms"][0][name]) for name in ("scale", "size", "angle")] == [STEPS] * 3
    assert set(PER_STEP) <= set(read["meaning"])
