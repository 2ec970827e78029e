"""Stopping and resuming changes no bit; what cannot be continued is refused by name."""

import dataclasses
import json
import math
import socket
import subprocess
import sys

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.core.hold import NAME
from fairlead.core.strict_json import sealed
from fairlead.data.images import ImageData
from fairlead.train.checkpoint import find_checkpoint, resumable_steps, steps_of
from fairlead.train.loop import Training
from fairlead.train.resume import compared
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, tiny_net, trained

HOLDER = """
import sys, time
from fairlead.core.hold import Hold
with Hold(sys.argv[1]):
    print(flush=True)
    time.sleep(100)
"""


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
        ({"lr": 0.5}, r"cannot resume .*: lr was 0.002, now 0.5; pass what it was started with"),
        (
            {"steps": 5},
            r"planned for 6 steps and is at step 6, got --steps 5; give more than 6 to go on further",
        ),
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


def test_more_steps_at_a_constant_rate_are_the_longer_run_to_the_bit(tmp_path):
    trained(tiny_config(decay="constant"), tmp_path / "run")
    training, records = trained(tiny_config(decay="constant", steps=12), tmp_path / "run", resume=True)
    assert [record.step for record in records] == [7, 8, 9, 10, 11, 12]
    assert training.notes == [
        "goes on from step 6 to 12, planned for 6 before: the learning rate of step 7 is 0.002 (constant over 12 "
        "steps), where the old plan was at its end"
    ]
    assert find_checkpoint(tmp_path / "run").about["plans"] == [{"until": 6, "steps": 6}]
    trained(tiny_config(decay="constant", steps=12), tmp_path / "straight")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "straight"))


def test_a_cosine_goes_on_as_the_new_plan_has_it(tmp_path):
    """16 steps, 2 of warm-up: 1 + cos(4 pi / 14) in step 7, where the plan of 8 steps had 1 + cos(2 pi / 3)."""
    trained(tiny_config(steps=8, checkpoint_every=6), tmp_path / "run", until=6)
    config = tiny_config(steps=16, checkpoint_every=9)
    training, records = trained(config, tmp_path / "run", until=9, resume=True)
    assert [record.lr for record in records] == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * k / 14)) for k in (4, 5, 6)]
    )
    rate = f"{1e-3 * (1 + math.cos(4 * math.pi / 14)):.2g}"
    assert training.notes[0].endswith(f"7 is {rate} (cosine over 16 steps), where the old plan was at 0.0005")
    _, again = trained(config, tmp_path / "run", resume=True)  # the new plan is the run's own by now
    assert again[0].step == 10
    assert again[0].lr == pytest.approx(1e-3 * (1 + math.cos(math.pi / 2)))
    assert find_checkpoint(tmp_path / "run").about["plans"] == [{"until": 6, "steps": 8}]


def test_so_many_checkpoints_are_kept_as_asked_beside_the_snapshots(tmp_path):
    trained(tiny_config(checkpoint_every=2, keep=2, snapshot_every=3, steps=8), tmp_path)
    assert (steps_of(tmp_path), resumable_steps(tmp_path)) == ([3, 6, 8], [6, 8])


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


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_every": 2},
        {"checkpoint_minutes": 0.0, "keep": 3},
        {"snapshot_every": 5},
        {"precision": "auto"},
        {"data": {"spec": "digits"}},
        {"drop": 0.7, "drops": {"label": 0.1}},
    ],
    ids=["checkpoints", "kept", "snapshots", "auto", "data", "drops"],
)
def test_what_changes_no_bit_may_be_another(tmp_path, monkeypatch, change):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    trained(tiny_config(checkpoint_every=3), tmp_path / "run", until=3)
    trained(tiny_config(**{"checkpoint_every": 3, **change}), tmp_path / "run", resume=True)
    trained(tiny_config(), tmp_path / "plain")
    assert same_bits(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "plain"))


def test_snapshots_of_before_stay_whatever_is_kept_now(tmp_path):
    trained(tiny_config(snapshot_every=2, checkpoint_every=3), tmp_path, until=3)
    trained(tiny_config(), tmp_path, resume=True)
    assert steps_of(tmp_path) == [2, 6]


def test_the_advice_on_precision_works_on_another_machine(tmp_path, monkeypatch):
    """auto is bf16 where the processor has matrix units for it, and fp32 where it has none."""
    trained(tiny_config(precision="auto", checkpoint_every=3), tmp_path, until=3)
    was = find_checkpoint(tmp_path).about["precision"]
    other = "fp32" if was == "bf16" else "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: other == "bf16")
    message = f"it was trained in {was}, here {other} would be used; pass --precision {was}"
    with pytest.raises(UsageError, match=message):
        Training(digits(), tiny_config(precision="auto"), tmp_path, resume=True)
    with pytest.raises(UsageError, match=message):
        Training(digits(), tiny_config(precision=other), tmp_path, resume=True)
    trained(tiny_config(precision=was), tmp_path, resume=True)
    assert find_checkpoint(tmp_path).step == 6


def test_mirroring_is_part_of_the_data(tmp_path):
    trained(tiny_config(checkpoint_every=3), tmp_path, until=3)
    other: ImageData = dataclasses.replace(digits(), flip=True)
    with pytest.raises(UsageError, match="flip was False, now True"):
        Training(other, tiny_config(checkpoint_every=3), tmp_path, resume=True)


def test_another_setup_goes_on_and_is_said(tmp_path):
    trained(tiny_config(checkpoint_every=3), tmp_path, until=3)
    assert Training(digits(), tiny_config(), tmp_path, resume=True).notes == []
    path = tmp_path / "step-000003" / "model.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(sealed({**about, "processes": 2, "device": "cuda"})))
    (note,) = Training(digits(), tiny_config(), tmp_path, resume=True).notes
    assert note == (
        "goes on from step 3 in another setup (device was cuda, now cpu; processes was 2, now 1): equal to rounding, "
        "not to the bit"
    )


def test_what_is_known_by_its_contents_may_lie_elsewhere():
    for name, place, contents in (
        ("latents", "source", "hash"), ("text", "source", "weights"), ("net", "pipeline", "base")
    ):  # fmt: skip
        here, there = ({place: where, contents: "a", "width": 3} for where in ("here", "there"))
        assert compared(name, here) == compared(name, there)
        assert compared(name, here) != compared(name, {**here, contents: "b"})
    assert compared("text", {"source": "here"}) != compared("text", {"source": "there"})  # nothing says what it is


def test_a_run_holds_its_folder_until_its_end(tmp_path):
    training = Training(digits(), tiny_config(), tmp_path)
    steps = training.run()
    next(steps)
    assert (tmp_path / NAME).exists()
    list(steps)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000006"]


def test_a_held_folder_is_refused_before_any_work(tmp_path):
    trained(tiny_config(checkpoint_every=3), tmp_path, until=3)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(UsageError, match=rf"is held by process {process.pid} on host {socket.gethostname()}"):
        Training(digits(), tiny_config(checkpoint_every=3), tmp_path, resume=True)
    process.kill()
    process.wait()
    _, records = trained(tiny_config(checkpoint_every=3), tmp_path, resume=True)
    assert [record.step for record in records] == [4, 5, 6]
