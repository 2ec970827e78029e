"""A run: image i depends on its own seed and condition only, costs what the formula says, and can be repeated from its
PNG; everything that cannot be sampled is refused before sampling starts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.models.model import LabelEncoder, Model, encode_nothing, identity
from fairlead.models.toy import toy_model
from fairlead.nets.unet import UNet
from fairlead.sample.ddim import DDIM
from fairlead.sample.noise import NoiseStream
from fairlead.sample.result import Run
from fairlead.sample.run import Plan, sample
from fairlead.sample.sampling import Sampling

NAMES = ("zero", "one", "two")


def network_model(channels: int = 1) -> Model:
    """A small U-Net with random weights everywhere, also in the last layer, which starts at zero."""
    torch.manual_seed(1)
    network = UNet(channels, 8, len(NAMES), channels=8, multipliers=(1, 2), blocks=1, embed=16).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.requires_grad_(False)
    schedule = VPCosine(log_snr_min=-torch.inf)
    return Model(
        denoiser=NetworkDenoiser(network, schedule, "v"),
        schedule=schedule,
        shape=(channels, 8, 8),
        encode=LabelEncoder(NAMES),
        decode=identity,
        classes=NAMES,
        data_range=(-1.0, 1.0),
        metadata={"name": "random", "schedule": schedule.config()},
    )


MODEL = network_model()
TOY = toy_model(GaussianMixture.ring(), vp_linear())
FLOW_TOY = toy_model(GaussianMixture.ring(), RectifiedFlow())
CONDS = ("two", "zero", None, "one", "two", 1)
SEEDS = (11, 7, 2**63 - 1, 0, 7, 500)
SETTINGS: dict[str, Any] = {
    "guidance": "cfg([3, 1, 2, 0, -1, 4]) | threshold(0.9)",
    "sampler": "ddim(eta=0.4)",
    "steps": 4,
}


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def whole() -> Run:
    return sample(MODEL, CONDS, seeds=SEEDS, **SETTINGS)


# --- one image is one image ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 100])
@pytest.mark.parametrize("batching", ["fused", "sequential"])
def test_batch_size_and_batching_do_not_matter(whole: Run, batch_size: int, batching) -> None:
    run = sample(MODEL, CONDS, seeds=SEEDS, batch_size=batch_size, batching=batching, **SETTINGS)
    close(run.x0, whole.x0)
    assert run.seeds == whole.seeds == SEEDS
    assert run.conds == whole.conds == (*CONDS[:-1], "one")  # an index is written by its name


def test_order_does_not_matter(whole: Run) -> None:
    order = [4, 0, 3, 1, 5, 2]
    guidance = f"cfg({[[3, 1, 2, 0, -1, 4][i] for i in order]}) | threshold(0.9)"
    conds, seeds = [CONDS[i] for i in order], [SEEDS[i] for i in order]
    run = sample(MODEL, conds, seeds=seeds, **{**SETTINGS, "guidance": guidance}, batch_size=4)
    close(run.x0, whole.x0[order])


def test_two_runs_are_one(whole: Run) -> None:
    first, second = (
        sample(MODEL, CONDS[part], seeds=SEEDS[part], **{**SETTINGS, "guidance": f"cfg({scales}) | threshold(0.9)"})
        for part, scales in ((slice(0, 2), [3, 1]), (slice(2, 6), [2, 0, -1, 4]))
    )
    close(torch.cat([first.x0, second.x0]), whole.x0)


def test_twice_is_the_same_bits(whole: Run) -> None:
    again = sample(MODEL, CONDS, seeds=SEEDS, **SETTINGS)
    assert torch.equal(again.x0, whole.x0)
    assert again.images is not None
    assert whole.images is not None
    assert torch.equal(again.images, whole.images)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_every_sample_starts_at_the_noise_of_its_seed_to_the_bit(batch_size: int) -> None:
    """A zero-terminal-SNR run starts at sigma = 1: the first x_t is the stream's start. ddim of the prediction x0 = 0,
    eps = x_t then scales it by sigma'; here both steps' levels are powers of two, so scaling is exact."""
    seen: list[torch.Tensor] = []

    def watch(x_t, t, condition):
        if float(t) == 1.0:
            seen.append(x_t)
        return Prediction(torch.zeros_like(x_t), x_t)

    model = replace(MODEL, denoiser=watch, schedule=RectifiedFlow())
    run = sample(model, seeds=SEEDS, steps=2, batch_size=batch_size)
    start = NoiseStream(SEEDS, MODEL.shape).start()
    assert torch.equal(torch.cat(seen), start)
    assert torch.equal(run.x0, torch.zeros_like(start))
    plan = Plan.of(model, sampling=Sampling(steps=2, batch_size=batch_size), seeds=SEEDS)
    middle = [next(plan.frames(batch)).x_t for batch in plan.batches]
    assert torch.equal(torch.cat(middle), start / 2)


def test_a_first_seed_means_consecutive_ones() -> None:
    assert sample(TOY, n=3, seeds=40, steps=1).seeds == (40, 41, 42)
    assert sample(TOY, ["1", "2"], steps=1).seeds == (0, 1)
    run = sample(TOY, seeds=range(5, 8), cond="1", steps=1)
    assert (run.seeds, run.conds) == ((5, 6, 7), ("1", "1", "1"))
    one = sample(TOY, steps=1)
    assert (one.seeds, one.conds, len(one.x0)) == ((0,), (None,), 1)


# --- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize(
    ("guidance", "sampler", "rows"),
    [  # of 5 samples at 20 steps, t = 1, 0.95, ..., 0.05
        ("none", "ddim", 5 * 20),
        ("cfg(1)", "ddim", 5 * 20),
        ("cfg(0)", "ddim", 5 * 20),
        ("cfg(3)", "ddim", 2 * 5 * 20),
        ("cfg(3)", "heun", 2 * 5 * 39),
        ("cfg(3).during(t=(0.22, 0.77))", "ddim", 5 * (20 + 11)),
        ("cfg(3).during(t=(0.22, 0.77))", "heun", 5 * (39 + 22)),
        ("cfg(3).during(sigma=(1.1, inf))", "ddim", 5 * (20 + 10)),  # sigma of a flow is t / (1 - t)
        ("cfg(3, negative=0) + cfg(2)", "ddim", 3 * 5 * 20),
        ("cfg([0, 1, 2, 3, 1])", "ddim", (3 + 2 * 2) * 20),
        ("cfg(ramp(0, 2, 'step', by='progress'))", "ddim", 5 * (10 + 2 * 10)),
    ],
)
def test_rows(guidance: str, sampler: str, rows: int, batch_size: int) -> None:
    run = sample(FLOW_TOY, "2", guidance=guidance, n=5, steps=20, sampler=sampler, batch_size=batch_size)
    assert run.cost.rows == rows
    assert run.summary()["rows"] == rows
    batches = -(-5 // batch_size)
    assert run.cost.calls == batches * (39 if sampler == "heun" else 20)


def test_conditions_that_are_null_for_a_whole_batch_are_no_error() -> None:
    """Whether a guidance has something to steer towards is a question to the run, not to a batch of it."""
    conds = [None, "1", None]
    apart, together = (sample(TOY, conds, guidance="cfg(3)", steps=3, batch_size=size) for size in (1, 3))
    close(apart.x0, together.x0)


# --- provenance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_repeats_itself(tmp_path: Path, channels: int) -> None:
    model = network_model(channels)
    run = sample(model, CONDS, seeds=SEEDS, **SETTINGS)
    paths = run.save(tmp_path / "run")
    assert [path.name for path in paths] == [f"{i:05d}.png" for i in range(6)]
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            about = json.loads(image.text["fairlead"], parse_constant=pytest.fail)  # type: ignore[attr-defined]
            pixels = torch.tensor(list(image.convert("RGB").tobytes())).reshape(8, 8, 3).permute(2, 0, 1)
        assert about["model"] == dict(model.metadata)
        settings = {name: about[name] for name in ("guidance", "sampler", "steps", "grid", "precision")}
        again = sample(model, about["cond"], seeds=[about["seed"]], **settings)
        assert again.images is not None
        assert torch.equal(again.images[0].expand(3, 8, 8), pixels)
        assert again.provenance(0) == about
        assert about["guidance"] == ("none" if i == 2 else f"cfg([{[3, 1, 2, 0, -1, 4][i]}])") + " | threshold(0.9)"


def test_run_json_holds_the_whole_run(tmp_path: Path, whole: Run) -> None:
    whole.save(tmp_path)
    about = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert about == json.loads(json.dumps(whole.summary()))
    assert (tuple(about["conds"]), tuple(about["seeds"])) == ((*CONDS[:-1], "one"), SEEDS)
    settings = {name: about[name] for name in ("guidance", "sampler", "steps", "grid", "precision")}
    assert torch.equal(sample(MODEL, about["conds"], seeds=about["seeds"], **settings).x0, whole.x0)
    assert about["rows"] == 4 * (2 * 6 - 2)  # scales 0 and 1 cost one row; null samples of a mixed batch two


def test_images_are_the_rounded_x0(whole: Run) -> None:
    assert whole.images is not None
    expected = ((whole.x0.clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal(whole.images.float(), expected)
    assert whole.x0.dtype == torch.float32


def test_saving_twice_is_refused(tmp_path: Path, whole: Run) -> None:
    whole.save(tmp_path / "a")
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(UsageError, match="already holds a run; choose another folder"):
        whole.save(tmp_path / "a")
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, whole: Run, monkeypatch) -> None:
    write, calls = Image.Image.save, []

    def full(self, fp, *args, **options):
        calls.append(fp)
        if len(calls) == 3:
            Path(fp).write_bytes(b"half a picture")
            raise OSError(28, "No space left on device")
        write(self, fp, *args, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UsageError, match=r"cannot save images to .*No space left on device.*; 2 of 6 are written"):
        whole.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.png", "00001.png"]
    whole.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 7


def test_a_disk_full_at_the_last_file_leaves_all_images(tmp_path: Path, whole: Run, monkeypatch) -> None:
    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="6 of 6 are written"):
        whole.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i:05d}.png" for i in range(6)]


def test_a_file_in_the_way_and_samples_that_are_no_images(tmp_path: Path, whole: Run) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"taken is a file; choose another folder"):
        whole.save(tmp_path / "taken")
    with pytest.raises(UsageError, match=r"samples are not images; use run\.x0"):
        sample(TOY, steps=1).save(tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


# --- refusals ------------------------------------------------------------------------------------------------------


def never(x_t, t, condition):
    raise AssertionError("the network was called")


CLOSED = replace(TOY, denoiser=never)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cond": ["1", "2"], "n": 3}, "the numbers of samples disagree: cond gives 2, n gives 3"),
        ({"cond": ["1", "2"], "seeds": [1, 2, 3]}, "cond gives 2, seeds gives 3"),
        ({"seeds": [1, 2], "n": 1}, "seeds gives 2, n gives 1"),
        ({"cond": []}, "expected at least 1 sample, got none"),
        ({"n": 0}, "n: expected an integer of at least 1, got 0"),
        ({"n": 2.0}, "n: expected an integer of at least 1, got 2.0"),
        ({"n": True}, "n: expected an integer"),
        ({"cond": "9"}, "class index 9 is out of range"),
        ({"cond": ["1", "nine"]}, "unknown class 'nine'"),
        ({"cond": True}, "unknown class True"),
        ({"cond": 1.0}, "cond: expected a class name, a prompt, an index, None, or a list of those, got 1.0"),
        ({"cond": "1", "guidance": "compose({1: 2})"}, "replaces the run's condition"),
        ({"cond": [None, "1"], "guidance": "compose({1: 2})", "batch_size": 1}, "replaces the"),
        ({"guidance": "cfg(3)"}, "steers towards the run's condition, but none was given"),
        ({"cond": [None, None], "guidance": "cfg(3)"}, "steers towards the run's condition"),
        ({"cond": "1", "guidance": "cfg(3, negative='x')"}, "unknown class 'x'"),
        ({"cond": "1", "guidance": "cfg([1, 2])", "n": 3}, "has scales for 2 samples, the run has 3"),
        ({"cond": "1", "guidance": "cfg(3) | clip()"}, "data has no fixed range"),
        ({"cond": "1", "guidance": "cgf(3)"}, "did you mean 'cfg'"),
        ({"cond": "1", "guidance": 3}, "guidance: expected an expression"),
        ({"sampler": "dimm"}, "unknown sampler 'dimm'"),
        ({"sampler": "ddim(eta=2)"}, "ddim eta 2"),
        ({"sampler": DDIM}, "sampler: expected an expression such as 'ddim' or a sampler object"),
        ({"sampler": None}, "sampler: expected an expression"),
        ({"grid": "trailling"}, "unknown grid 'trailling'; did you mean 'trailing'"),
        ({"grid": None}, "unknown grid 'None'"),
        ({"steps": 0}, "steps 0: expected an integer"),
        ({"steps": 1001}, "steps 1001: expected an integer from 1 to 1000"),
        ({"steps": 2.5}, "steps 2.5: expected an integer"),
        ({"seeds": -1}, "seed -1: expected an integer from 0"),
        ({"seeds": [0, 1, -5], "batch_size": 1}, "seed -5: expected an integer from 0"),
        ({"seeds": [0, 1.5]}, "seed 1.5: expected an integer"),
        ({"seeds": [0, "1"]}, "seed '1': expected an integer"),
        ({"seeds": 2**63 - 1, "n": 2}, "seed 9223372036854775808: expected an integer from 0"),
        ({"seeds": 1.5}, "seeds: expected an integer or a list of integers, got 1.5"),
        ({"seeds": True}, "seeds: expected an integer"),
        ({"seeds": None}, "seeds: expected an integer"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size: expected an integer of at least 1, got 1.5"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; did you mean 'bf16'"),
        ({"batching": "none"}, "unknown batching 'none'"),
    ],
)
def test_refused_before_the_first_call(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")) as error:
        sample(CLOSED, **arguments)
    assert "\n" not in str(error.value)


def test_an_unconditional_model_refuses_conditions() -> None:
    model = replace(CLOSED, encode=encode_nothing)
    with pytest.raises(UsageError, match="this model is unconditional, but the condition 'one' was given"):
        sample(model, "one")
    with pytest.raises(UsageError, match=r"cfg\(3\) steers towards the run's condition, but none was given"):
        sample(model, guidance="cfg(3)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_first_step_that_is_not_finite_is_named_with_its_seed(value: float, batch_size: int) -> None:
    """Class 1 breaks from t = 0.5 on: of 4 steps the third, which goes to t = 0.25."""

    def breaking(x_t, t, condition):
        broken = (condition.values["label"] == 1) & (t <= 0.5)
        return Prediction(torch.where(broken[:, None], value, x_t), x_t)

    model = replace(TOY, denoiser=breaking)
    message = r"step 3 of 4 \(to t = 0.250\) gave values that are not finite, first for seed 8;"
    with pytest.raises(UsageError, match=message + r" lower the scale of cfg\(2\)"):
        sample(model, ["0", "1", "1"], seeds=[7, 8, 9], guidance="cfg(2)", steps=4, batch_size=batch_size)
    with pytest.raises(UsageError, match=message + " the model itself gives them"):
        sample(model, ["0", "1", "1"], seeds=[7, 8, 9], steps=4, batch_size=batch_size)


def test_huge_but_finite_values_are_no_error() -> None:
    """Their sum overflows float32."""
    huge = replace(TOY, denoiser=lambda x, t, c: Prediction(torch.full_like(x, 3e38), torch.zeros_like(x)))
    assert torch.equal(sample(huge, n=4, steps=1).x0, torch.full((4, 2), 3e38))


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("guidance", "most"), [("none", 7), ("cfg(1)", 9), ("cfg(3)", 12), ("cfg(ramp(1, 7))", 12)])
def test_a_step_makes_few_operations_beside_the_network(guidance: str, most: int) -> None:
    """A loop written by hand around diffusers' DDIM makes 45 a step for cfg."""
    model = replace(MODEL, denoiser=NetworkDenoiser(lambda x, t, condition: x, MODEL.schedule, "v"))
    counts = []
    for steps in (4, 14):
        sample(model, CONDS, guidance=guidance, seeds=SEEDS, steps=steps)  # the levels of the schedule are kept
        with Operations() as made:
            sample(model, CONDS, guidance=guidance, seeds=SEEDS, steps=steps)
        counts.append(made.count)
    assert (counts[1] - counts[0]) / 10 <= most
