"""Model guidance: a network that answers as under cfg is what its training ends at (2502.12154)."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Mixing, Objective
from fairlead.models.load import load
from fairlead.train.objective import Draw, diffusion_loss, drop_condition
from fairlead.train.tasks import Guided
from tests.guide.toy import LABELS, MIXTURE, MODEL, N, close
from tests.train.tiny import tiny_config, tiny_net, trained


@pytest.mark.parametrize("objective", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_what_answers_as_under_cfg_stays_as_it_is(objective: Objective, scale: float) -> None:
    """Its output less what its target is moved by is the mean of the target: there is no loss to lose. So its null."""
    t = torch.full((N,), 0.4, dtype=torch.float64)
    mixing = Mixing(*(level[:, None] for level in MODEL.schedule.alpha_sigma(t)))
    x_t = torch.randn(N, 2, dtype=torch.float64)
    keep = torch.tensor([True, True, False, True, True])

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        label, kept = condition.values["label"], condition.keep["label"]
        x0 = MIXTURE.guided_denoise(x, mixing.alpha, mixing.sigma, label, torch.where(kept, scale, 0.0))
        return mixing.output(x0, x, objective)

    condition = Condition(N, {"label": LABELS}, {"label": keep})
    config = tiny_config(guided=scale)
    given, moved = Guided().output(cast(Any, network), (x_t, t, condition), config)
    wanted = MIXTURE.denoise(x_t, mixing.alpha, mixing.sigma, LABELS, keep)
    close(given - moved, mixing.output(wanted, x_t, objective), 1e-10)
    assert not bool(moved[~keep].any())


def test_a_step_has_the_loss_of_the_moved_target_and_no_gradient_through_it() -> None:
    training, _ = trained(tiny_config(guided=3.0, steps=3), None, until=2)
    x0, _ = training.batches.batch(2)
    draw = Draw.of(8, (1, 8, 8), training.drops, 0, 2)
    assert training.conditions is not None
    condition = training.conditions.drawn(training.batches.index(2), x0, training.config, 2)
    inputs = training.task.inputs(x0, draw, drop_condition(condition, draw.dropped), training.schedule)
    given, moved = training.task.output(training.network.train(), inputs, training.config)
    assert given.requires_grad
    assert not moved.requires_grad
    with torch.no_grad():
        null = training.network(inputs[0], inputs[1], inputs[2].drop())
    close(moved, (given - null).detach() * 2 / 3, 1e-6)
    loss = diffusion_loss(given - moved, x0, draw, training.schedule, "v", "uniform")
    step, _, _ = training.take_step()
    close(step, loss.detach(), 1e-6)


def test_a_run_says_so_and_is_a_model(tmp_path) -> None:
    trained(tiny_config(guided=1.5, steps=2), tmp_path / "run")
    assert load(tmp_path / "run").conditional
    _, plain = trained(tiny_config(steps=1), None)
    _, off = trained(tiny_config(steps=1, guided=1), None)
    assert plain[0].loss == off[0].loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guided": 0.5}, "guided: expected a scale from 1"),
        ({"guided": 2.0, "drop": 0.0}, "which it has to be trained on too"),
        ({"guided": 2.0, "net": tiny_net(classes=0)}, "which it has to be trained on too"),
        ({"guided": 2.0, "net": tiny_net(internal=True), "internal": 0.5}, "of a denoiser alone"),
    ],
)
def test_what_it_cannot_go_with(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_config(**changes)
