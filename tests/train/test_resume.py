"""Stopping and resuming changes no bit; what cannot be continued is refused by name."""

import dataclasses
import json

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.strict_json import sealed
from fairlead.data.images import ImageData
from fairlead.train.checkpoint import find_checkpoint, steps_of
from fairlead.train.loop import Training
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, tiny_net, trained


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [({}, "adamw"), ({"dropout": 0.3}, "adamw"), ({"conditioning": "concat"}, "adamw"), ({"channels": 16}, "muon")],
    ids=["plain", "dropout", "concat", "muon"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_and_three_steps_are_six_to_the_bit(tmp_path, precision, net, optimizer):
    config = tiny_config(
        net=tiny_net(**net), precision=precision, checkpoint_every=3, weight_decay=0.01, optimizer=optimizer
    )
    _, straight = trained(config, tmp_path / "straight")
    _, before = trained(config, tmp_path / "halves", until=3)
    _, after = trained(config, tmp_path / "halves", resume=True)
    assert steps_of(tmp_path / "straight") == steps_of(tmp_path / "halves") == [6]
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))

    def numbers(records):
        return [(r.step, r.loss, r.lr, r.grad_norm) for r in records]

    assert numbers(straight) == numbers(before + after)


def test_a_checkpoint_holds_all_state_of_adam_for_every_parameter(tmp_path):
    training, _ = trained(tiny_config(), tmp_path)
    state = find_checkpoint(tmp_path).tensors("training")
    count = len(list(training.network.parameters()))
    assert set(state) == {f"{i}.{key}" for i in range(count) for key in ("step", "exp_avg", "exp_avg_sq")}
    assert all(float(state[f"{i}.step"]) == 6 for i in range(count))


def test_snapshots_stay_older_checkpoints_go_and_resume_takes_the_last_resumable(tmp_path):
    config = tiny_config(snapshot_every=2, checkpoint_every=3)
    trained(config, tmp_path / "run", until=4)
    holds = {
        step: sorted(find_checkpoint(f"{tmp_path}/run@{step}").about["files"]) for step in steps_of(tmp_path / "run")
    }
    assert holds == {2: ["ema"], 3: ["ema", "raw", "training"], 4: ["ema"]}
    with pytest.raises(UsageError, match=r"has no raw weights .it is a snapshot of averaged weights only"):
        find_checkpoint(f"{tmp_path}/run@step4").tensors("raw")

    _, after = trained(config, tmp_path / "run", resume=True)
    assert [record.step for record in after] == [4, 5, 6]
    assert [record.saved.name if record.saved else None for record in after] == [None, None, "step-000006"]
    assert steps_of(tmp_path / "run") == [2, 4, 6]

    trained(tiny_config(), tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))


def test_a_run_of_snapshots_only_cannot_be_resumed(tmp_path):
    trained(tiny_config(snapshot_every=2), tmp_path, until=2)
    with pytest.raises(UsageError, match="holds only snapshots of averaged weights, none can be resumed"):
        Training(digits(), tiny_config(snapshot_every=2), tmp_path, resume=True)


def test_a_finished_run_resumes_to_nothing_more(tmp_path):
    trained(tiny_config(), tmp_path)
    before = tensors_of(tmp_path)
    _, records = trained(tiny_config(), tmp_path, resume=True)
    assert records == []
    assert same_bits(before, tensors_of(tmp_path))


def test_saving_by_hand_at_any_step_can_be_resumed(tmp_path):
    """What the command line does on Ctrl-C; saving twice at a step leaves one whole checkpoint."""
    training, _ = trained(tiny_config(), tmp_path / "run", until=4)
    assert training.save() == training.save() == tmp_path / "run" / "step-000004"
    trained(tiny_config(), tmp_path / "run", resume=True)
    trained(tiny_config(), tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000006"]


def test_an_at_sign_in_the_path_is_only_a_path(tmp_path):
    out = tmp_path / "me@lab" / "run@home"
    trained(tiny_config(checkpoint_every=3), out, until=3)
    _, records = trained(tiny_config(checkpoint_every=3), out, resume=True)
    assert [record.step for record in records] == [4, 5, 6]
    assert find_checkpoint(f"{out}@step6").step == 6


def test_an_existing_run_is_not_overwritten(tmp_path):
    trained(tiny_config(), tmp_path)
    with pytest.raises(UsageError, match=r"already holds a run \(step 6\); continue it with --resume or choose"):
        Training(digits(), tiny_config(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 12}, r"cannot resume .*: steps was 6, now 12; pass what it was started with"),
        ({"lr": 0.5}, r"lr was 0.002, now 0.5"),
        ({"seed": 3}, r"seed was 0, now 3"),
        ({"drop": 0.2}, r"drop was 0.1, now 0.2"),
        ({"batch_size": 16, "ema": 0.5}, r"batch_size was 8, now 16; ema was 0.999, now 0.5"),
        ({"schedule": {"name": "vp_linear"}}, r"schedule was \{'name': 'vp_cosine'\}, now \{'name': 'vp_linear'\}"),
        ({"betas": (0.9, 0.999)}, r"betas was \[0.9, 0.99\], now \[0.9, 0.999\]"),
        ({"net": tiny_net(channels=16)}, r"net was \{.*'channels': 8.*\}, now \{.*'channels': 16"),
    ],
)
def test_a_changed_configuration_is_named(tmp_path, change, message):
    trained(tiny_config(), tmp_path)
    with pytest.raises(UsageError, match=message):
        Training(digits(), tiny_config(**change), tmp_path, resume=True)


def test_a_setting_that_this_version_lacks_is_named(tmp_path):
    trained(tiny_config(), tmp_path)
    path = tmp_path / "step-000006" / "model.json"
    about = json.loads(path.read_text())
    about["train"]["novelty"] = 3
    path.write_text(json.dumps(sealed(about)))
    with pytest.raises(UsageError, match="novelty was 3, now None"):
        Training(digits(), tiny_config(), tmp_path, resume=True)


def test_changed_data_are_named(tmp_path):
    trained(tiny_config(), tmp_path)
    data = digits()
    labels = data.labels.clone()
    labels[5] = (labels[5] + 1) % 10
    other: ImageData = dataclasses.replace(data, labels=labels)
    with pytest.raises(UsageError, match=f"data was '{data.fingerprint}', now '{other.fingerprint}'"):
        Training(other, tiny_config(), tmp_path, resume=True)


def test_resuming_in_an_empty_folder_is_starting(tmp_path):
    _, records = trained(tiny_config(), tmp_path / "new", resume=True)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]


def test_resumed_state_has_the_layout_of_a_fresh_one(tmp_path):
    """Moments in another memory format than their parameters would leave AdamW's fast path."""
    config = tiny_config(checkpoint_every=3)
    straight, _ = trained(config, None, until=3)
    trained(config, tmp_path, until=3)
    resumed = Training(digits(), config, tmp_path, resume=True)

    def strides(training: Training) -> dict[str, tuple[int, ...]]:
        state = training.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value.stride() for i, entry in state.items() for key, value in entry.items()}

    assert strides(straight) == strides(resumed)
