"""Two dimensions: the score field is the closed form, the samples are those of the run, the density is normalised."""

import pytest
import torch

import fairlead as fl
from fairlead.app.plane import MIXTURES, Walk, lattice, sharpened, walk_plan, walking
from fairlead.app.plane_plot import plane_png
from fairlead.core.errors import UsageError


def walked(guidance: str, name: str = "three classes that overlap", steps: int = 8, n: int = 20) -> Walk:
    mixture, plan = walk_plan(name, 1, guidance, n, 3, "ddim", steps)
    *_, last = walking(mixture, plan, 1)
    return last


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("step", [0, 3, 7])
def test_the_field_of_cfg_is_the_guided_score(w: float, step: int) -> None:
    walk, x = walked(f"cfg({w})"), lattice(7)
    alpha, sigma = walk.level(step)
    label = torch.ones(len(x), dtype=torch.long)
    expected = (1 - w) * walk.mixture.score(x, alpha, sigma) + w * walk.mixture.score(x, alpha, sigma, label)
    assert torch.allclose(walk.score(x, step), expected, atol=1e-9)


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0])
def test_the_sharpened_density_has_the_guided_score_of_the_data_and_integrates_to_one(w: float) -> None:
    walk = walked("none")
    mixture, x = walk.mixture, walk.grid.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((mixture.log_density(x, 1.0, 0.0)
                                       + w * mixture.class_log_posterior(x, 1.0, 0.0)[:, 1]).sum(), x)  # fmt: skip
    label = torch.ones(len(x), dtype=torch.long)
    own = (1 - w) * mixture.score(walk.grid, 1.0, 0.0) + w * mixture.score(walk.grid, 1.0, 0.0, label)
    assert torch.allclose(gradient, own, atol=1e-9)
    cell = float(walk.grid[1, 0] - walk.grid[0, 0]) ** 2
    assert float(walk.sharpened(w).exp().sum() * cell) == pytest.approx(1.0, abs=1e-9)
    if w == 1:  # p(x) p(c|x) is p(c) p(x|c)
        conditional = mixture.log_density(walk.grid, 1.0, 0.0, label).exp()
        assert torch.allclose(walk.sharpened(1.0).exp(), conditional, atol=1e-3)


def test_moments_are_those_of_the_class_where_the_density_is() -> None:
    mean, spread = walked("none").moments(1.0)
    assert torch.allclose(mean, torch.tensor([0.9, -0.5], dtype=torch.float64), atol=1e-3)
    assert torch.allclose(spread, torch.full((2,), 0.8, dtype=torch.float64), atol=2e-3)


def test_without_noise_left_there_is_no_field() -> None:
    with pytest.raises(UsageError, match="choose a step before the last"):
        walked("cfg(2)").score(lattice(3), 8)


def test_the_walk_ends_where_the_run_ends_and_counts_its_rows() -> None:
    walk = walked("cfg(3)")
    run = fl.sample(walk.plan.model, "1", guidance="cfg(3)", n=20, seeds=3, steps=8)
    assert torch.allclose(walk.states[-1], run.x0.double(), atol=1e-6)
    assert walk.states.shape == (9, 20, 2)
    assert walk.rows == run.cost.rows == 2 * 20 * 8


@pytest.mark.parametrize(
    ("guidance", "name"),
    zip(['compose({"0": 2, "1": 1})', "adaptive(cfg(3))", "icg(2)", "cfg(ramp(1, 4))"], MIXTURES, strict=True),
)
def test_any_guidance_and_mixture_is_drawn(guidance: str, name: str) -> None:
    walk = walked(guidance, name, steps=3, n=5)
    assert bool(walk.score(lattice(5), 1).isfinite().all())
    assert plane_png(walk, 1, 2.0).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a torus", 0, "none", 5, 0, "ddim", 5), "unknown distribution"),
        (("a ring of four", 4, "none", 5, 0, "ddim", 5), "unknown class '4'"),
        (("a ring of four", 0, "none", 501, 0, "ddim", 5), "samples: expected 1 to 500"),
        (("a ring of four", 0, "none", 5, 0, "ddim", 201), "steps: expected 1 to 200"),
        (("a ring of four", 0, 'auto(2, weak="x")', 5, 0, "ddim", 5), "which no toy distribution has"),
        (("a ring of four", 0, "cfg(", 5, 0, "ddim", 5), "is not an expression"),
    ],
)
def test_what_cannot_be_walked_is_one_line(given, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        walk_plan(*given)


def test_sharpening_moves_the_mean_away_from_the_other_classes() -> None:
    mixture, x = MIXTURES["three classes that overlap"](), lattice(121)
    far = [(sharpened(mixture, 2, w, x).exp()[:, None] * x).sum(0)[1].item() for w in (0.0, 1.0, 4.0)]
    assert far == sorted(far)
