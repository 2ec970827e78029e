"""Loss on held-out images: closed forms, fixed noise, a training that goes on undisturbed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.data.images import stratified_order, to_float
from fairlead.report.trainings.validation import COLUMNS, EDGES, Validation, read_losses
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.loop import Training
from fairlead.train.step_table import read_table
from tests.train.tiny import digits, tiny_config, tiny_net

HELD_OUT = digits(96).subset(slice(64, 96))
QUICK: dict[str, Any] = {"steps": 4, "channels": 8, "batch_size": 32}


def test_a_network_of_zeros_has_the_mean_square_of_its_target() -> None:
    """Of x0 that of the images themselves, at every level; of eps 1, of v alpha^2 + sigma^2 E x0^2, to the noise."""
    x0 = to_float(HELD_OUT.images[stratified_order(HELD_OUT.labels, 0)])
    square = float(x0.double().square().mean())
    for objective in ("x0", "eps", "v"):
        training = Training(digits(), tiny_config(objective=objective), None)
        validation = Validation(training, HELD_OUT, 32)
        for row, draw in zip(validation.measure(), validation._draws, strict=True):
            assert (row.difference, row.difference_error, row.n) == (0, 0, 32)
            assert row.raw == row.averaged
            levels = training.schedule.log_snr(draw.t)
            assert float(levels.min()) >= row.low - 1e-9
            assert float(levels.max()) < row.high + 1e-9
            alpha, sigma = training.schedule.alpha_sigma(draw.t)
            expected = {"x0": square, "eps": 1.0, "v": float((alpha**2 + sigma**2 * square).mean())}[objective]
            # the mean of 2048 squares of normal numbers has the error sqrt(2 / 2048)
            assert row.raw == pytest.approx(expected, abs=1e-6 if objective == "x0" else 4 * math.sqrt(2 / 2048))


def test_levels_and_noise_are_those_of_every_training() -> None:
    """Seed, batch size and step change nothing; the number of images does, and all ranges are there."""
    first = Validation(Training(digits(), tiny_config(), None), HELD_OUT, 32)
    other = Validation(Training(digits(), tiny_config(seed=7, batch_size=4), None), HELD_OUT, 32)
    assert [(row.low, row.high) for row in first.measure()] == list(zip(EDGES[1:], EDGES[:-1], strict=True))
    for a, b in zip(first._draws, other._draws, strict=True):
        assert torch.equal(a.t, b.t)
        assert torch.equal(a.eps, b.eps)


def test_conditions_are_the_images_own_and_the_difference_is_paired() -> None:
    """A network that adds the label's embedding in x0: the loss is that of each image's own label."""
    training = Training(digits(), tiny_config(objective="x0", ema=0.5, warmup=0, lr=0.01), None)
    for _ in range(3):
        training.take_step()
    validation = Validation(training, HELD_OUT, 32)
    assert torch.equal(validation._condition.values["label"], validation.data.labels)
    assert bool(validation._condition.keep["label"].all())
    for row in validation.measure():
        assert row.difference == pytest.approx(row.averaged - row.raw, abs=1e-9)
        assert 0 < row.difference_error < math.hypot(row.raw_error, row.averaged_error)


def test_measuring_disturbs_no_training(tmp_path: Path) -> None:
    """With dropout in the network, which is off while measuring and on in the next step."""
    config = tiny_config(net=tiny_net(dropout=0.3))
    plain, watched = Training(digits(), config, tmp_path / "a"), Training(digits(), config, tmp_path / "b")
    validation = Validation(watched, HELD_OUT, 16)
    for _ in range(3):
        plain.take_step()
        assert validation.measure() == validation.measure()
        watched.take_step()
    for a, b in zip(plain.network.state_dict().values(), watched.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_every_n_steps_at_the_end_and_as_undisturbed_after_a_kill(tmp_path: Path) -> None:
    given = {**QUICK, "validate_every": 2, "checkpoint_every": 1}
    trained = fl.train(tmp_path / "plain", **{**given, "steps": 3})
    rows = read_losses(tmp_path / "plain")
    assert [row.step for row in rows] == [2] * 5 + [3] * 5
    assert trained.held_out == tuple(rows[5:]) or [r.step for r in trained.held_out] == [3] * 5
    assert fl.train(tmp_path / "plain", resume=True, **{**given, "steps": 3}).held_out == ()
    assert read_losses(tmp_path / "plain") == rows
    assert bytes_of(tmp_path / "none", validate_every=0) == bytes_of(tmp_path / "each", validate_every=1)
    assert not (tmp_path / "none" / "validation.csv").exists()


def bytes_of(run: Path, **options: Any) -> dict[str, str]:
    fl.train(run, **{**QUICK, "steps": 2, **options})
    return dict(find_checkpoint(str(run)).about["files"])


def test_sets_in_memory_and_what_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    own, held_out = fl.data(images[:32], ["cat", "dog"] * 16), fl.data(images[32:], ["cat", "dog"] * 4)
    trained = fl.train(tmp_path / "both", data=(own, held_out), **QUICK)
    assert {row.n for row in trained.held_out} == {8}
    said = capsys.readouterr()
    assert "loss of 8 held-out images" in said.out
    fl.train(tmp_path / "one", data=own, **QUICK)
    assert "no loss on held-out images: the data are in memory" in capsys.readouterr().err
    other = fl.data(images[32:], ["cat", "cow"] * 4)
    with pytest.raises(fl.UsageError, match="data: expected one set, or two"):
        fl.train(tmp_path / "three", data=(own, held_out, other), **QUICK)
    with pytest.raises(fl.UsageError, match="validate_every: expected 0 or more steps, got -1"):
        fl.train(tmp_path / "wrong", data=own, validate_every=-1, **QUICK)
    larger = fl.data(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), [0, 1, 0, 1], classes=["cat", "dog"])
    fl.train(tmp_path / "other", data=(own, larger), **QUICK)
    assert "no loss on held-out images: held-out images are 1x16x16" in capsys.readouterr().err


def test_the_last_line_says_what_was_made_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its command runs."""
    run = tmp_path / "run"
    fl.train(run, **QUICK)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(
        f"{run}: diffusion model, conditioned on label, of 1,438 images of digits, step 4 of 4, loss 0."
    )
    assert f"report: {run}/report.html; next: fairlead sample {run} --cond all --guidance 'cfg(2)' --out" in last
    page = (run / "report.html").read_text()
    assert "averaged minus raw" in page
    assert f"fairlead tune {run} --out {run}/tune" in page
    assert len(read_table(run / "validation.csv", COLUMNS)) == 5
    fl.train(tmp_path / "plain", conditions=("none",), **QUICK)
    assert f"next: fairlead sample {tmp_path}/plain --n 16 --out" in capsys.readouterr().out.splitlines()[-1]
