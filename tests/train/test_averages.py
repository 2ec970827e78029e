"""Power averages: their weights in closed form, one of another width rebuilt, and what it is off by."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.models.load import load
from fairlead.train.checkpoint import find_checkpoint, steps_of
from fairlead.train.loop import Training
from fairlead.train.weights.averages import (
    NARROW,
    WIDE,
    PowerAverages,
    averages,
    coefficients,
    exponent_of,
    overlap,
    read_weights,
)
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, trained

STEPS, EVERY = 64, 4


def direct(path: list[Tensor], width: float) -> Tensor:
    """The average of weights [k] after steps k = 1, 2, ..., n: sum of ((k / n)^p - ((k - 1) / n)^p) theta_k."""
    power, n = exponent_of(width) + 1, len(path)
    shares = np.diff((np.arange(n + 1) / n) ** power)
    return sum(float(share) * theta.double() for share, theta in zip(shares, path, strict=True))  # type: ignore[return-value]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in tensors.values()])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor]]:
    """A run with power averages, and its weights after each step."""
    out = tmp_path_factory.mktemp("averages") / "run"
    training = Training(digits(), tiny_config(ema="power", steps=STEPS, batch_size=4, decay="constant"), out)
    return out, [flat(training.network.state_dict()) for _ in training.run()]


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponent_of_a_width(width, gamma):
    """Those of the paper, and the standard deviation of tau^gamma on [0, 1], that of a Beta(gamma + 1, 1)."""
    a = exponent_of(width) + 1
    assert a - 1 == pytest.approx(gamma, abs=0.005)
    assert math.sqrt(a / ((a + 1) ** 2 * (a + 2))) == pytest.approx(width, rel=1e-12)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.289, math.inf])
def test_a_width_that_no_average_has_is_refused(width):
    with pytest.raises(UsageError, match=r"width of an average: expected a number above 0 and below 0.288"):
        exponent_of(width)


def test_averages_of_a_walk_have_the_weights_of_the_closed_form():
    network = nn.Linear(3, 2).double()
    both, path = PowerAverages(network), []
    for _ in range(200):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        both.update_parameters(network)
        path.append(flat(network.state_dict()))
    parts = averages(both)
    for part, width in (("ema", WIDE), ("narrow", NARROW)):
        torch.testing.assert_close(flat(parts[part]), direct(path, width), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("t", "s", "a", "b"), [(40.0, 64.0, 16.9, 6.9), (64.0, 40.0, 16.9, 3.0), (5.0, 5.0, 6.9, 6.9)])
def test_the_overlap_of_two_weights_is_their_integral(t, s, a, b):
    x = (np.arange(400_000) + 0.5) / 400_000 * min(t, s)
    product = (a + 1) * x**a / t ** (a + 1) * (b + 1) * x**b / s ** (b + 1)
    assert float(overlap(np.array(t), a, np.array(s), b)) == pytest.approx(product.mean() * min(t, s), rel=1e-8)


def test_what_is_stored_is_rebuilt_as_it_is_and_more_snapshots_come_nearer():
    errors = {}
    for count in (8, 16, 32):
        stored = [(i * 8000 // count, width) for i in range(1, count + 1) for width in (WIDE, NARROW)]
        factors, error = coefficients(stored, 8000, WIDE)
        assert factors == pytest.approx([0.0] * (2 * count - 2) + [1.0, 0.0], abs=1e-5)
        assert error < 1e-6
        errors[count] = [coefficients(stored, 8000, width)[1] for width in (0.03, 0.08, 0.15)]
        assert sum(coefficients(stored, 8000, 0.08)[0]) == pytest.approx(1, abs=1e-9)
    assert errors[16] == pytest.approx([0.039, 0.0030, 0.0091], rel=0.1)  # what docs/runs.md says
    assert all(a > 3 * b for a, b in zip(errors[8], errors[32], strict=True))


@pytest.mark.parametrize("width", [0.03, 0.06, 0.08, 0.15])
def test_an_average_of_another_width_is_rebuilt_to_the_error_that_is_said(run, width):
    """What it is off by stays below the bound of Cauchy and Schwarz, parameter by parameter, and far below what the
    nearest of the two that are stored is off by."""
    out, path = run
    rebuilt = flat(load(out, f"ema:{width}").denoiser.network.state_dict())  # type: ignore[attr-defined]
    wanted, gamma = direct(path, width), exponent_of(width)
    stored = [(step, each) for step in range(EVERY, STEPS + 1, EVERY) for each in (WIDE, NARROW)]
    error = coefficients(stored, STEPS, width)[1]
    moves = torch.stack(path).std(0, correction=0)
    bound = error * (gamma + 1) / math.sqrt(2 * gamma + 1) * moves
    off = (rebuilt - wanted).abs()
    assert bool((off <= bound + 3e-6).all())
    nearest = min(float((direct(path, each) - wanted).norm()) for each in (WIDE, NARROW))
    assert float(off.norm()) < (0.2 if width < NARROW else 0.05) * nearest


def test_a_run_with_power_averages_resumes_to_the_same_bits(run, tmp_path):
    out, _ = run
    assert steps_of(out) == list(range(EVERY, STEPS + 1, EVERY))
    assert set(find_checkpoint(f"{out}@step8").about["files"]) == {"ema", "narrow"}
    config = tiny_config(ema="power", steps=STEPS, batch_size=4, decay="constant", checkpoint_every=7)
    trained(config, tmp_path, until=15)
    trained(config, tmp_path, resume=True)
    assert same_bits(tensors_of(tmp_path), tensors_of(out))
    for step in steps_of(out):
        one, other = (find_checkpoint(f"{run}@step{step}") for run in (out, tmp_path))
        assert same_bits(one.tensors("narrow"), other.tensors("narrow"))


def test_weights_are_named_behind_the_run_too(run):
    out, _ = run
    named, given = load(f"{out}@ema:0.08"), load(out, "ema:0.08")
    network, other = (model.denoiser.network.state_dict() for model in (named, given))  # type: ignore[attr-defined]
    assert same_bits(network, other)
    assert named.metadata["weights"] == given.metadata["weights"] == "ema:0.08"
    assert named.metadata["weights_hash"] == given.metadata["weights_hash"]
    earlier = load(f"{out}@step32@ema:0.08").metadata
    assert (earlier["step"], earlier["weights"]) == (32, "ema:0.08")
    assert earlier["weights_hash"] != named.metadata["weights_hash"]
    raw = load(f"{out}@raw").denoiser.network.state_dict()  # type: ignore[attr-defined]
    assert same_bits(raw, find_checkpoint(out).tensors("raw"))
    with pytest.raises(UsageError, match=r"weights raw: .*@ema:0.08 names ema:0.08 itself; leave one of them out"):
        load(f"{out}@ema:0.08", "raw")


def test_what_cannot_be_rebuilt_is_refused(run, tmp_path):
    out, _ = run
    with pytest.raises(UsageError, match=r"averages of 1 steps give none of width 0.01 \(error \d+% of its weights"):
        read_weights(find_checkpoint(f"{out}@step4"), "ema:0.01")
    with pytest.raises(UsageError, match=r"expected a width behind the colon, as in ema:0.08"):
        load(out, "ema:wide")
    trained(tiny_config(steps=1), tmp_path / "plain")
    with pytest.raises(UsageError, match=r"needs a run trained with --ema power, this one has --ema 0.999"):
        load(tmp_path / "plain", "ema:0.08")


def test_the_commands_take_them(run, tmp_path, capsys):
    out, _ = run
    words = ["sample", f"{out}@ema:0.07", "--cond", "seven", "--n", "1", "--steps", "2", "--out", str(tmp_path / "a")]
    assert main([*words, "--guidance", f"auto(2, weak='{out}@ema:0.12')"]) == 0
    said = capsys.readouterr().err
    assert "average of width 0.07, rebuilt from those of 16 steps; its weights over the steps are off by 0." in said
    assert "average of width 0.12, rebuilt from those of 16 steps; its weights over the steps are off by 0.35" in said
    words = ["train", "--steps", "4", "--channels", "8", "--batch-size", "4", "--ema", "power"]
    assert main([*words, "--out", str(tmp_path / "run"), "--init", f"{out}@ema:0.08"]) == 0
    assert ", step 64, weights ema:0.08: " in capsys.readouterr().err
    assert find_checkpoint(tmp_path / "run").has("narrow")
