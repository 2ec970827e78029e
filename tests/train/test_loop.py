"""The loop against bare PyTorch, the average against its recursion, learning against a closed form."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VPCosine, schedule_from_config
from fairlead.data.batches import Batches
from fairlead.data.images import ImageData
from fairlead.nets.build import build_net
from fairlead.train.checkpoint import steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.objective import Draw, diffusion_loss
from fairlead.train.optimizer import learning_rate
from fairlead.train.weights.averages import ema_average
from tests.train.tiny import digits, tiny_config, tiny_net, trained


def test_training_is_a_bare_pytorch_loop():
    """AdamW, the same draws, clipping, the learning rate by hand: three steps, loss, norm and weights."""
    config = tiny_config(objective="eps", clip=0.3, weight_decay=0.02, lr=3e-3, drop=0.5, seed=4, betas=(0.8, 0.95))
    training = Training(digits(), config, None)
    torch.manual_seed(4)
    network = build_net(config.net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02, betas=(0.8, 0.95), fused=True)
    batches, schedule = Batches(digits(), 8, 4), VPCosine()
    for step in range(3):
        loss_there, norm_there, rate = training.take_step()
        x0, label = batches.batch(step)
        draw = Draw.of(8, (1, 8, 8), {"label": 0.5}, 4, step)
        alpha, sigma = (value.float().reshape(8, 1, 1, 1) for value in schedule.alpha_sigma(draw.t))
        x_t = (alpha * x0 + sigma * draw.eps).contiguous(memory_format=torch.channels_last)
        condition = Condition(8, {"label": label}, {"label": ~draw.dropped["label"]})
        loss = (network(x_t, (draw.t * 1000).float(), condition) - draw.eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
        optimizer.param_groups[0]["lr"] = learning_rate(config, step)
        optimizer.step()
        assert float(norm) > 0.3
        assert rate == learning_rate(config, step)
        torch.testing.assert_close(loss_there, loss.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(norm_there, norm, rtol=1e-5, atol=0)
    for key, value in training.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.3, 0.999])
def test_the_average_is_its_recursion_with_warm_up(decay):
    """e_1 = p_1; after k updates e <- d e + (1 - d) p with d = min(decay, (1 + k) / (10 + k))."""
    training = Training(digits(), tiny_config(ema=decay, warmup=0), None)
    expected: dict[str, torch.Tensor] = {}
    for k in range(5):
        training.take_step()
        d = min(decay, (1 + k) / (10 + k))
        for key, value in training.network.state_dict().items():
            value = value.double().clone()
            expected[key] = value if k == 0 else d * expected[key] + (1 - d) * value
    for key, value in training.average.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], rtol=0, atol=1e-6)


def test_the_decay_warms_up_to_its_end():
    averaged = [torch.zeros(1, dtype=torch.float64)]
    for k, weight in ((1, 9 / 11), (8, 0.5), (10_000, 0.1)):
        averaged[0].zero_()
        ema_average(0.9)(averaged, [torch.ones(1, dtype=torch.float64)], k)
        assert float(averaged[0]) == pytest.approx(weight, abs=1e-12)


def test_a_preview_of_the_average_disturbs_nothing():
    straight, _ = trained(tiny_config(), None)
    watched = Training(digits(), tiny_config(), None)
    for _ in watched.run():
        network = watched.averaged_network()
        assert not network.training
        torch.rand(5)
        with torch.no_grad():
            network.out.weight.fill_(9.0)  # type: ignore[union-attr, operator]
    for key, value in straight.average.module.state_dict().items():
        assert torch.equal(value, watched.average.module.state_dict()[key])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_neither_reads_nor_moves_the_global_stream(dropout):
    config = tiny_config(net=tiny_net(dropout=dropout), steps=3)
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        training, records = trained(config, None)
        assert torch.equal(state, torch.get_rng_state())
        runs.append((training.network.state_dict(), [record.loss for record in records]))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(runs[0][0][key], value) for key, value in runs[1][0].items())


def test_records_count_from_one_to_the_last_step_and_carry_the_rate():
    config = tiny_config()
    _, records = trained(config, None)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.lr for record in records] == [learning_rate(config, step) for step in range(6)]
    assert all(record.saved is None and record.images_per_second > 0 for record in records)


def test_the_first_loss_is_that_of_the_zero_network():
    """Networks start at zero output, so the first record is the power of the target: a closed form of the draw."""
    config = tiny_config(objective="flow", schedule={"name": "flow"})
    _, records = trained(config, None, until=1)
    x0, _ = Batches(digits(), 8, 0).batch(0)
    draw = Draw.of(8, (1, 8, 8), {"label": 0.1}, 0, 0)
    assert records[0].loss == pytest.approx(float((draw.eps - x0).square().mean()), rel=1e-6)


def fixed_loss(network: Callable[..., Tensor], config: TrainConfig, data: ImageData, t: Tensor | None = None) -> float:
    """On a draw that training has not seen, of 512 images, labels kept; ``t`` sets the times."""
    schedule = schedule_from_config(config.schedule)
    x0, label = Batches(data, 512, 77).batch(0)
    draw = Draw.of(512, data.shape, {}, 77, 0)
    draw = Draw(draw.t if t is None else t.expand(512), draw.eps, {})
    alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(draw.t))
    with torch.no_grad():
        output = network(
            alpha * x0 + sigma * draw.eps, schedule.network_time(draw.t).float(), Condition.of(label=label)
        )
    objective = config.objective
    assert objective != "label"
    assert objective != "l1"
    assert objective != "l2"
    return float(diffusion_loss(output, x0, draw, schedule, objective, "uniform"))


@pytest.fixture(scope="module")
def learned() -> tuple[Training, TrainConfig, ImageData]:
    """A hundred steps of an x0 network."""
    data, net = digits(1024), tiny_net(channels=16, conditioning="concat")
    config = tiny_config(net=net, objective="x0", steps=100, batch_size=64, lr=5e-3, warmup=10)
    return trained(config, None, data=data)[0], config, data


def test_it_learns_more_of_x0_than_the_best_constant(learned):
    """The best constant prediction is the mean image, its loss the variance of the pixels."""
    training, config, data = learned
    constant = float((data.images.float() / 127.5 - 1).var(dim=0, correction=0).mean())
    for network in (copy.deepcopy(training.network).eval(), training.averaged_network()):
        assert fixed_loss(network, config, data) < 0.6 * constant


def test_it_learns_more_of_eps_than_the_best_constant():
    """The best constant prediction is 0, its loss 1."""
    data = digits(1024)
    config = tiny_config(net=tiny_net(), objective="eps", steps=60, batch_size=64, lr=5e-3, warmup=10)
    training, _ = trained(config, None, data=data)
    assert fixed_loss(training.averaged_network(), config, data) < 0.6


def test_in_noise_the_label_is_worth_the_variance_between_classes(learned):
    """In almost pure noise the best guess is the mean of the class, or of all images without one: the gain is close to
    the variance between classes, and a wrong class costs more than none."""
    training, config, data = learned
    network = training.averaged_network()
    x = data.images.float() / 127.5 - 1

    def loss_of(change: Callable[[Condition], Condition]) -> float:
        return fixed_loss(lambda x, t, c: network(x, t, change(c)), config, data, torch.tensor(0.97).double())

    right = loss_of(lambda c: c)
    null = loss_of(lambda c: c.drop())
    wrong = loss_of(lambda c: Condition.of(label=(c.values["label"] + 1) % 10))
    means = torch.stack([x[data.labels == label].mean(dim=0) for label in range(10)])
    between = float((means[data.labels] - x.mean(dim=0)).square().mean())
    assert 0.5 * between < null - right < 1.2 * between
    assert wrong - null > 0.25 * between


def test_the_largest_seed_trains(tmp_path):
    _, records = trained(tiny_config(seed=2**63 - 1, steps=2, net=tiny_net(dropout=0.1)), None)
    assert len(records) == 2


@pytest.mark.parametrize(
    ("out", "message"),
    [("file", r"file is a file; choose another --out"), ("file/run", r"cannot write to .*file.*: .*; choose another")],
)
def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path, out, message):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=message):
        Training(digits(), tiny_config(), tmp_path / out)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write")
def test_a_folder_that_cannot_be_written_is_refused_before_training():
    with pytest.raises(UsageError, match=r"cannot write to /proc: .*; choose another --out"):
        Training(digits(), tiny_config(), Path("/proc"))


def test_the_folder_is_there_and_empty_once_training_can_begin(tmp_path):
    Training(digits(), tiny_config(), tmp_path / "a" / "run")
    assert list((tmp_path / "a" / "run").iterdir()) == []


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch, recwarn):
    """accelerate only says so in its debug log."""
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(UsageError, match=r"cannot log with tensorboard: not installed; `pip install tensorboard` or"):
        Training(digits(), tiny_config(), tmp_path, trackers=["tensorboard"])
    assert not recwarn.list
    with pytest.raises(UsageError, match=r"cannot log with tensorbored: Unsupported logging capability"):
        Training(digits(), tiny_config(), tmp_path, trackers=["tensorbored"])


def spoil(training: Training, after: int, change: Callable[[Any], object]) -> None:
    """Train, and change the network after a step."""
    for record in training.run():
        if record.step == after:
            change(training.network)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_checkpoint(tmp_path):
    training = Training(digits(), tiny_config(checkpoint_every=2), tmp_path)
    with pytest.raises(UsageError, match=r"the loss of step 4 is nan; lower --lr \(0.002\) or use --precision fp32"):
        spoil(training, 3, lambda network: torch.nn.init.constant_(network.out.bias, float("nan")))
    assert steps_of(tmp_path) == [2]


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_not_saved(tmp_path):
    """It has spoiled the weights: saving them would prune the last good checkpoint."""
    training = Training(digits(), tiny_config(checkpoint_every=2), tmp_path)
    with pytest.raises(UsageError, match=r"the gradient norm of step 4 is (inf|nan)"):
        spoil(training, 3, lambda network: network.out.bias.register_hook(lambda grad: grad * float("inf")))
    assert steps_of(tmp_path) == [2]
