"""Particles: plain sampling with one, the tilted distribution with many, the same sample in any batch, exact rows."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.guide.moment import Context
from fairlead.guide.step import Memory
from fairlead.sample.noise import NoiseStream
from fairlead.sample.particles import Particles, Population, Steering
from fairlead.sample.sampler import parse_sampler
from tests.guide.test_rewards import Exact
from tests.guide.toy import MIXTURE, MODEL, network_model, noisy_classifier

LABEL = 'label("exact", "2")'
sampled = partial(fl.sample, MODEL, sampler="ddpm", steps=10)


def right(x0: Tensor, t: Tensor, condition) -> Tensor:
    """No gradient: three where the first coordinate is positive."""
    return 3.0 * (x0[:, 0] > 0)


right.differentiable = False  # type: ignore[attr-defined]


@pytest.fixture
def quick(monkeypatch) -> None:
    """Noise of all rows from one generator: thousands of particles in a second."""

    def draw(self: NoiseStream, block: int, shape: tuple[int, ...] | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seeds[0] * 1_000_003 + block % 1_000_003)
        return torch.randn(len(self.seeds) * self.particles, *(shape or self.shape), generator=generator)

    monkeypatch.setattr(NoiseStream, "_draw", draw)


@pytest.fixture
def whole(monkeypatch) -> list[Tensor]:
    """The mean and the second moment of all weighted particles of each sample, [n, 2 d], of every batch: of what one of
    them is drawn from."""
    found: list[Tensor] = []
    final = Population.final

    def kept(self: Population, x0: Tensor) -> Tensor:
        rows = final(self, x0)
        x = x0.double().reshape(self.n, self.k, -1)
        found.append((self.log_weight.softmax(1)[..., None] * torch.cat([x, x**2], 2)).sum(1))
        return rows

    monkeypatch.setattr(Population, "final", kept)
    return found


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m_sde", "ddim", "ddim(eta=0.5, recur=2)"])
@pytest.mark.parametrize("guidance", [None, "apg(cfg(3), momentum=-0.5)"])
def test_one_particle_is_plain_sampling_to_the_bit(sampler: str, guidance: str | None) -> None:
    settings: dict[str, Any] = {"sampler": sampler, "guidance": guidance, "n": 4}
    plain, one = sampled("1", **settings), sampled("1", particles=1, reward=right, **settings)
    assert torch.equal(plain.x0, one.x0)
    assert (plain.cost.rows, plain.cost.calls) == (one.cost.rows, one.cost.calls)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m_sde"])
def test_the_loop_that_asks_whom_to_keep_changes_nothing_where_all_are_kept(sampler: str) -> None:
    plain = sampled("1", n=5, sampler=sampler)
    every = sampled("1", n=5, sampler=sampler, particles=Particles(3, every=1), reward=lambda x0, t, c: 0 * x0[:, 0])
    first = torch.stack([(every.x0[i] - plain.x0[i]).abs().max() for i in range(5)])
    among = sampled("1", n=5, sampler=sampler, particles=Particles(3, every=0), reward=lambda x0, t, c: 0 * x0[:, 0])
    assert torch.equal(every.x0, among.x0)  # equal weights: nobody is copied, and the same one is drawn
    assert bool((first == 0).any())  # particle 0 is the sample alone
    assert not bool((first == 0).all())


def test_best_of_k_is_the_best_of_the_k_samples_one_by_one() -> None:
    particles, n, k = Particles(4, every=0, pick="best"), 6, 4
    best = sampled("1", n=n, particles=particles, reward=lambda x0, t, c: x0[:, 0])
    noise = NoiseStream(tuple(range(n)), (2,), "cpu", k)
    each = list(
        parse_sampler("ddpm").frames(
            MODEL.denoiser,
            noise.start() * float(MODEL.schedule.alpha_sigma(torch.tensor(1.0))[1]),
            torch.linspace(1, 0, 11, dtype=torch.float64),
            MODEL.schedule,
            MODEL.encode(["1"] * (n * k)),
            noise,
        )
    )[-1].x_t.reshape(n, k, 2)
    wanted = each[torch.arange(n), each[..., 0].argmax(1)]
    torch.testing.assert_close(best.x0, wanted)


@pytest.mark.parametrize("guidance", [None, "apg(cfg(3), momentum=-0.5)", "cfg([1, 2, 0, 3, 4, 5])", "fkc(cfg(2))"])
def test_a_sample_is_the_same_in_any_batch_and_order(guidance: str | None) -> None:
    conds, seeds, order = ["0", "1", "2", "3", "1", "0"], [5, 3, 8, 1, 9, 2], [4, 0, 5, 2, 1, 3]
    settings: dict[str, Any] = {"particles": Particles(5, every=2), "reward": right, "sampler": "dpmpp_2m_sde"}
    whole = sampled(conds, seeds=seeds, guidance=guidance, **settings)
    parted = sampled(conds, seeds=seeds, guidance=guidance, batch_size=12, **settings)
    assert torch.equal(whole.x0, parted.x0)
    permuted = "cfg([4, 1, 5, 0, 2, 3])" if guidance and "[" in guidance else guidance
    other = sampled([conds[i] for i in order], seeds=[seeds[i] for i in order], guidance=permuted, **settings)
    assert torch.equal(whole.x0[order], other.x0)


def test_rows_are_counted_exactly() -> None:
    model, clf = network_model(), {"clf": noisy_classifier()}
    n, k, steps = 3, 4, 8
    settings: dict[str, Any] = {"sampler": "ddpm", "steps": steps, "guidance": "cfg(3)", "resources": clf}
    run = fl.sample(model, 1, n=n, particles=Particles(k, every=3), reward='2 * label("clf")', **settings)
    rewards = len([i for i in range(1, steps) if i % 3 == 0]) + 1
    assert run.cost.rows == n * k * (2 * steps + rewards)
    assert run.settings["reward"] == '2 * label("clf")'
    assert run.settings["particles"] == {"count": 4, "every": 3, "pick": "draw", "below": 0.5}
    again = fl.sample(model, run.provenance(1)["cond"], seeds=[1], particles=Particles(**run.settings["particles"]),
                      reward=run.settings["reward"], **settings)  # fmt: skip
    torch.testing.assert_close(again.x0[0], run.x0[1], rtol=1e-4, atol=1e-4)


def tilted(n: int = 200_000) -> tuple[Tensor, Tensor]:
    """Mean and covariance of p(x) exp(reward), by weighting exact samples."""
    x = MIXTURE.sample(n, seed=11)
    return x, right(x, torch.ones(n), None).double().exp()


@pytest.mark.parametrize("every", [1, 4])
def test_many_particles_reach_the_tilted_mean_and_covariance_without_a_gradient(quick: None, every: int) -> None:
    """exp(3 [x_1 > 0]) on the mixture: a reward that is flat wherever it is differentiable."""
    n = 1500
    run = fl.sample(MODEL, None, n=n, seeds=[*range(n)], sampler="dpmpp_2m_sde", steps=24, batch_size=10**6,
                    particles=Particles(32, every=every), reward=right)  # fmt: skip
    check_moments(run.x0.double(), *tilted())


@pytest.mark.parametrize("every", [1, 4])
def test_log_p_of_the_class_makes_the_conditional_of_the_unconditional(
    quick: None, whole: list[Tensor], every: int
) -> None:
    """Bayes' rule: a thousand particles have the moments of plain samples weighted by p(c | x0). (Chosen at every
    step, few go too far: their mean by 0.027 +- 0.004 with 8, 0.023 +- 0.005 with 64.)"""
    settings: dict[str, Any] = {"sampler": "ddpm", "steps": 12, "batch_size": 10**6}
    plain = fl.sample(MODEL, None, n=60_000, **settings).x0.double()
    weight = MIXTURE.class_log_posterior(plain, 1.0, 0.0)[:, 2].exp()
    share = weight / weight.sum()
    moments = torch.cat([plain, plain**2], 1)
    wanted = share @ moments
    error = (share.square() @ (moments - wanted).square()).sqrt()
    fl.sample(MODEL, None, n=32, seeds=[*range(7, 39)], particles=Particles(1024, every=every), reward=LABEL,
              resources={"exact": Exact(MIXTURE, MODEL.classes)}, **settings)  # fmt: skip
    found = torch.cat(whole)
    off = (found.mean(0) - wanted).abs() / (error**2 + found.var(0) / len(found)).sqrt()
    assert bool((off < 4).all()), off


def check_moments(found: Tensor, exact: Tensor, weight: Tensor, errors: float = 4.0) -> None:
    """Mean and second moments of ``found`` [n, 2] within standard errors of those of weighted exact samples."""
    share = weight / weight.sum()
    centre = (share[:, None] * exact).sum(0)
    a, b = features(found - centre), features(exact - centre)
    wanted = (share[:, None] * b).sum(0)
    spread = (share[:, None] * (b - wanted).square()).sum(0).sqrt()
    off = (a.mean(0) - wanted).abs() / (spread / math.sqrt(len(a)))
    assert bool((off < errors).all()), off


def features(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1)


def test_weights_multiply_to_exp_of_the_reward_and_systematic_resampling_keeps_them_within_one() -> None:
    k, steering = 8, Steering(Particles(8, every=1, below=1), fl.brightness(0.5))
    noise, on = (
        NoiseStream((3, 4), (1, 8, 8), "cpu", k),
        Context(model=network_model(), condition=network_model().encode([None] * 2 * k)),
    )
    population = Population(steering, on, noise, fl.parse("cfg(1)") | fl.clip())
    population.reward = lambda x0, t, condition: x0.flatten(1)[:, 0]
    x0 = torch.randn(2 * k, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rewards = x0.flatten(1)[:, 0].double().reshape(2, k)
    population._reweigh(x0, 1)
    torch.testing.assert_close(population.log_weight, rewards)
    wanted = k * rewards.softmax(1)
    rows = population._resampled(1)
    assert rows is not None
    copies = torch.stack([rows.eq(i).sum() for i in range(2 * k)]).reshape(2, k)
    assert bool(((copies - wanted).abs() < 1).all())
    assert population.log_weight.abs().max() == 0
    population._reweigh(x0[rows], 2)  # the same rewards again: their ratio is 1
    assert population.log_weight.abs().max() < 1e-6


def test_memory_moves_with_the_samples() -> None:
    memory = Memory()
    memory.write("a", 0, (torch.arange(3.0), torch.ones(1, 1)))
    memory.select(torch.tensor([2, 2, 0]))
    moved, one = memory.read("a", 1)
    assert moved.tolist() == [2, 2, 0]
    assert one.shape == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0, "reward": right}, "expected a number of particles of at least 1"),
        ({"particles": "many", "reward": right}, "expected a number of particles"),
        ({"particles": 4}, "nothing tells them apart"),
        ({"reward": right}, "pass particles=8"),
        ({"guidance": "fkc(cfg(3))"}, "none were given; pass particles=16"),
        ({"particles": 4, "reward": right, "sampler": "ddim"}, "take ddpm, ddim"),
        ({"particles": Particles(4, pick="best"), "guidance": "fkc(cfg(3))"}, "without a reward there is no best"),
        ({"particles": 4, "guidance": "fkc(cfg(3)) + cfg(2)"}, "know nothing of other methods"),
        ({"particles": 4, "guidance": "fkc(cfg(3)) | rescale(0.7)"}, "know nothing of other methods"),
        ({"particles": 4, "guidance": "cfg(2) + fkc(cfg(3))"}, "cannot be combined"),
        ({"particles": 4, "guidance": "fkc(cfg(3)).during(t=(0, 1))"}, "cannot be combined"),
        ({"particles": 4, "guidance": "fkc(cfg(3))", "sampler": "ddim(eta=1, recur=2)"}, "without recur"),
        ({"particles": 4, "reward": "brightness(0.5)"}, "is a reward of images"),
        ({"particles": 4, "reward": 'label("exact")', "cond": None}, "none was given; pass one"),
        ({"particles": 4, "reward": lambda x0, t, c: x0}, "expected one number per sample"),
        ({"particles": 4, "reward": lambda x0, t, c: x0[:, 0] / 0}, "not finite, first for seed 0"),
    ],
)
def test_bad_input_is_one_line(settings: dict, message: str) -> None:
    given: dict[str, Any] = (
        {"resources": {"exact": Exact(MIXTURE, MODEL.classes)}} if "exact" in str(settings.get("reward")) else {}
    )
    with pytest.raises(UsageError) as caught:
        sampled(**{"cond": "1", "n": 2, **settings, **given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"every": -1}, {"every": 1.5}, {"pick": "all"}, {"below": 2}, {"below": "x"}])
def test_bad_settings_are_one_line(settings: dict) -> None:
    with pytest.raises(UsageError, match="particles"):
        Particles(4, **settings)


def test_a_reward_of_minus_infinity_is_never_kept() -> None:
    run = sampled("1", n=20, particles=Particles(16, every=3), reward=lambda x0, t, c: (x0[:, 0] > 0).log())
    assert bool((run.x0[:, 0] > 0).all())
