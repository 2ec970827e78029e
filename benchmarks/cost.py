"""What guidance and training cost beside the bare network: ratios, each from interleaved runs in this one process.

    python benchmarks/cost.py                       every table, a few minutes on two cores
    python benchmarks/cost.py --only sampling

Rows are counted where the network is called; times are medians; a ratio is the median of the ratios of neighbours. As
after ``fl.load``, the process keeps the memory that it frees.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
import tyro
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser, expand_like
from fairlead.core.prediction import Objective, target
from fairlead.core.schedule import NoiseSchedule, VPCosine, vp_linear
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.images import ImageData
from fairlead.models.model import LabelEncoder, Model, Spec, identity
from fairlead.nets.build import build_net, net_config
from fairlead.sample.run import sample
from fairlead.sample.sampling import Precision
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.malloc import keep_freed_memory

STEPS = 20


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    only: str | None = None
    """rows, fused, sampling, guidance, training or lesson; nothing for all."""
    repeats: int = 7
    threads: int = 2


def model_for(
    preset: str, channels_in: int, size: int, schedule: NoiseSchedule, objective: Objective, **changes: Any
) -> Model:
    torch.manual_seed(0)
    network = build_net(net_config(preset, channels_in, size, 10, **changes)).eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(
        NetworkDenoiser(network, schedule, objective),
        schedule,
        (channels_in, size, size),
        LabelEncoder(DIGIT_NAMES),
        identity,
        DIGIT_NAMES,
        (-1.0, 1.0),
        objective,
        network.layers() if hasattr(network, "layers") else {},
        network.label.embed if hasattr(network, "label") else None,
    )


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def rounds(actions: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of every action in every round, each second round in the other order; one warm-up each."""
    for action in actions:
        action()
    taken = []
    for i in range(repeats):
        backwards = -1 if i % 2 else 1
        taken.append([timed(action) for action in actions[::backwards]][::backwards])
    return taken


def ratio_of(taken: Sequence[Sequence[float]], a: int, b: int) -> float:
    """The median over rounds of action a over action b."""
    return statistics.median(times[a] / times[b] for times in taken)


def interleaved(a: Callable[[], Any], b: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median seconds of a and of b, and the median of a / b over rounds."""
    taken = rounds((a, b), repeats)
    one, two = (statistics.median(times) for times in zip(*taken, strict=True))
    return one, two, ratio_of(taken, 0, 1)


def rows() -> None:
    """Rows a sample, measured and by the formula (one per branch whose coefficient is not 0, per step)."""
    model = model_for("8x8", 1, 8, VPCosine(), "v")
    inside = sum(0.28 < level <= 1.6 for level in VPCosine().ratio(1 - torch.arange(STEPS) / STEPS).tolist())
    cases = {
        "none": STEPS,
        "cfg(0)": STEPS,
        "cfg(1)": STEPS,
        "cfg(3)": 2 * STEPS,
        "cfg(3).during(sigma=(0.28, 1.6))": STEPS + inside,
        "cfg(3) + cfg(2)": 2 * STEPS,
        'cfg(3) + cfg(2, negative="one")': 3 * STEPS,
        "cfg(3) | threshold(0.995)": 2 * STEPS,
    }
    print(f"| guidance | rows per sample, {STEPS} steps | formula |\n| --- | --- | --- |")
    for guidance, formula in cases.items():
        run = sample(model, ["seven"] * 4, guidance=guidance, steps=STEPS)
        assert run.cost.rows == 4 * formula, guidance
        print(f"| `{guidance}` | {run.cost.rows // 4} | {formula} |")


def fused(repeats: int) -> None:
    """One bare network call with both branches beside two calls with one each."""
    print("| network | batch | one call ms | two calls ms | two / one |\n| --- | --- | --- | --- | --- |")
    for preset, size in (("8x8", 8), ("28x28", 28), ("32x32", 32)):
        model = model_for(preset, 3 if size == 32 else 1, size, VPCosine(), "v")
        for batch in (1, 4, 16, 32, 64, 128):
            calls = max(1, 64 // batch)  # small calls are timed together
            one, two, ratio = interleaved(
                bare_calls(model, [2 * batch] * calls), bare_calls(model, [batch] * (2 * calls)), repeats
            )
            print(f"| {preset} | {batch} | {one * 1e3 / calls:.1f} | {two * 1e3 / calls:.1f} | {1 / ratio:.2f} |")


def bare_calls(model: Model, sizes: Sequence[int]) -> Callable[[], None]:
    """Calls of the model's network for so many rows each, with nothing around them."""
    assert isinstance(model.denoiser, NetworkDenoiser)
    network = model.denoiser.network
    inputs = {
        n: (
            torch.randn(n, *model.shape),
            torch.full((n,), 500.0),
            Condition.of(label=torch.ones(n, dtype=torch.long)),
        )
        for n in set(sizes)
    }

    def call() -> None:
        with torch.no_grad():
            for n in sizes:
                network(*inputs[n])

    return call


def by_hand(model: Model, batch: int, scale: float, calls: int) -> Callable[[], torch.Tensor]:
    """Guided sampling as one writes it down: a loop over diffusers' DDIM with one or two network calls per step."""
    from diffusers import DDIMScheduler

    assert isinstance(model.denoiser, NetworkDenoiser)
    network = model.denoiser.network
    scheduler = DDIMScheduler(
        1000, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(STEPS)
    cond = Condition.of(label=torch.ones(batch, dtype=torch.long))
    null = cond.drop()
    both = Condition.cat([cond, null])

    @torch.no_grad()
    def loop() -> torch.Tensor:
        x = torch.randn(batch, *model.shape)
        for k in scheduler.timesteps:
            if calls == 1:
                c, u = network(torch.cat([x, x]), k.float().expand(2 * batch), both).chunk(2)
            else:
                time = k.float().expand(batch)
                c, u = network(x, time, cond), network(x, time, null)
            x = scheduler.step(u + scale * (c - u), k, x).prev_sample
        return x

    return loop


def sampling(repeats: int) -> None:
    """Guided sampling beside loops written by hand and beside the bare calls of its network, all in one run."""
    print("| network | batch | `fl.sample` ms | over a hand loop, one call | over one, two calls | over bare calls |")
    print("| --- | --- | --- | --- | --- | --- |")
    for preset, size in (("8x8", 8), ("28x28", 28)):
        model = model_for(preset, 1, size, VPCosine(), "v")
        for batch in (1, 16, 64):
            taken = rounds(
                (
                    partial(sample, model, ["one"] * batch, guidance="cfg(3)", steps=STEPS),
                    by_hand(model, batch, 3.0, calls=1),
                    by_hand(model, batch, 3.0, calls=2),
                    bare_calls(model, [2 * batch] * STEPS),
                ),
                repeats,
            )
            full = statistics.median(times[0] for times in taken)
            ratios = " | ".join(f"{ratio_of(taken, 0, other):.3f}" for other in (1, 2, 3))
            print(f"| {preset} | {batch} | {full * 1e3:.1f} | {ratios} |")


FEWER_ROWS = (
    "cfg(3).during(sigma=(0.28, 1.6))",
    "adaptive(cfg(3), 0.99)",
    "cached(cfg(3))",
    "cached(cfg(3), every=4, order=1)",
)
CHEAP = ("cfg(levels({14: 1, 2: 3, 0.5: 5}))", "none | history(0.5)", "none | higs()", "internal(1.5)", "fbg(0.9)")
TEN_TERMS = (
    'cfg(3) + cfg(1.5, negative="one") + pag(1) + seg(0.5) + slg(0.5) + icg(1.5) + sag(0.2) + apg(cfg(2), norm=10) '
    "+ bands([1.2, 1.1]) + tcfg(cfg(1.5)) | rescale(0.7)"
)


def guidance(repeats: int) -> None:
    """What methods that save rows save in time, and what many methods at once add to the network's time.

    ``bare`` is the network called for the same rows with nothing around it.
    """
    print("| network | batch | guidance | rows over `cfg(3)` | time over `cfg(3)` | bare over bare | time over bare |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for preset, size, batch in (("8x8", 8, 64), ("28x28", 28, 16)):
        model = model_for(preset, 1, size, VPCosine(), "v")
        seven: list[Spec] = ["seven"] * batch
        plain = partial(sample, model, seven, guidance="cfg(3)", steps=STEPS)
        for text in FEWER_ROWS:
            fewer = partial(sample, model, seven, guidance=text, steps=STEPS)
            sizes = [call_sizes(model, seven, each) for each in (text, "cfg(3)")]
            taken = rounds((fewer, plain, *(bare_calls(model, calls) for calls in sizes)), repeats)
            times = " | ".join(f"{ratio_of(taken, a, b):.3f}" for a, b in ((0, 1), (2, 3), (0, 2)))
            print(f"| {preset} | {batch} | `{text}` | {sum(sizes[0]) / sum(sizes[1]):.3f} | {times} |")
    print(
        "\n| guidance | network | calls per step | network ms per step | added ms per step |\n| --- | --- | --- | --- "
        "| --- |"
    )
    model, clock = clocked(model_for("8x8", 1, 8, VPCosine(), "v", internal=True))
    for text in ("none", "cfg(3)", *CHEAP, TEN_TERMS):
        inside, beside, calls = [], [], 0
        for _ in range(repeats + 1):  # the first is a warm-up
            clock.seconds = 0.0
            run = sample(model, ["seven"] * 2, guidance=text, steps=STEPS, batching="fused")
            inside.append(clock.seconds / STEPS)
            beside.append((run.seconds - clock.seconds) / STEPS)
            calls = run.cost.calls
        times = f"{1e3 * statistics.median(inside[1:]):.2f} | {1e3 * statistics.median(beside[1:]):.2f}"
        print(f"| `{text}` | 8x8 | {calls / STEPS:g} | {times} |")


class Clock:
    """A network that counts the seconds spent in it, and the rows of every call."""

    def __init__(self, network: Callable[..., torch.Tensor]) -> None:
        self.network, self.seconds = network, 0.0
        self.rows: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        began = time.perf_counter()
        output = self.network(x, t, condition)
        self.seconds += time.perf_counter() - began
        self.rows.append(len(x))
        return output


def clocked(model: Model) -> tuple[Model, Clock]:
    assert isinstance(model.denoiser, NetworkDenoiser)
    clock = Clock(model.denoiser.network)
    return replace(model, denoiser=NetworkDenoiser(clock, model.schedule, model.denoiser.objective)), clock


def call_sizes(model: Model, specs: list[Spec], guidance: str) -> list[int]:
    """The rows of each network call of a run."""
    model, clock = clocked(model)
    sample(model, specs, guidance=guidance, steps=STEPS)
    return clock.rows


def training(repeats: int) -> None:
    """A step of the training loop over the same step written out in plain PyTorch."""
    print("| network | precision | our step ms | bare step ms | ratio |\n| --- | --- | --- | --- | --- |")
    for preset, size in (("8x8", 8), ("28x28", 28)):
        for precision in ("fp32", "bf16"):
            images = torch.randint(0, 256, (2048, 1, size, size), dtype=torch.uint8)
            data = ImageData(images, torch.arange(2048) % 10, DIGIT_NAMES, "random", "train", False)
            net = net_config(preset, 1, size, 10)
            config = TrainConfig(net, batch_size=128, steps=10_000, precision=precision)
            ours = Training(data, config, None)
            bare = bare_step(build_net(net), data, bf16=precision == "bf16")
            one, two, ratio = interleaved(partial(loop_step, ours), bare, 2 * repeats)
            print(f"| {preset} | {precision} | {one * 1e3:.1f} | {two * 1e3:.1f} | {ratio:.3f} |")


def loop_step(loop: Training) -> float:
    return float(loop.take_step()[0])


def bare_step(network: torch.nn.Module, data: ImageData, bf16: bool) -> Callable[[], float]:
    """The same work with nothing around it: batch, noise, dropout, forward, loss, backward, clip, AdamW, EMA."""
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99), foreach=True)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    schedule = VPCosine()

    def step() -> float:
        index = torch.randint(0, len(data), (128,))
        x0, label = data.images[index].float() / 127.5 - 1, data.labels[index]
        t, eps = torch.rand(128, dtype=torch.float64), torch.randn_like(x0)
        alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(t))
        condition = Condition(128, {"label": label}, {"label": torch.rand(128) >= 0.1})
        x_t = (alpha * x0 + sigma * eps).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = network(x_t, (t * 1000).float(), condition)
        loss = F.mse_loss(output.float(), target(x0, eps, "v", alpha, sigma))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [parameter.detach() for parameter in network.parameters()], 1e-3)
        return float(loss.detach())

    return step


@torch.no_grad()
def lesson(repeats: int, batch: int = 16) -> None:
    """An image by our default recipe over one by the lessons': 1,000 DDPM steps of two separate calls, their network.

    The lesson's time is that of 10 steps times 100: every step costs the same.
    """
    print(
        "| data | precision | our ms per image | lesson ms per image | lesson / ours |\n| --- | --- | --- | --- | --- |"
    )
    table = vp_linear()
    for preset, size in (("8x8", 8), ("28x28", 28)):
        ours, theirs = model_for(preset, 1, size, VPCosine(), "v"), model_for("lesson-mnist", 1, size, table, "eps")
        seven = ["seven"] * batch
        for precision in get_args(Precision):
            slow, fast, ratio = interleaved(
                partial(sample, theirs, seven, guidance="cfg(5)", sampler="ddpm", steps=10, batching="sequential"),
                partial(sample, ours, seven, guidance="cfg(2)", steps=STEPS, precision=precision),
                repeats,
            )
            times = f"{1e3 * fast / batch:.2f} | {1e5 * slow / batch:.0f} | {100 * ratio:.0f}"
            print(f"| {size}x{size} | {precision} | {times} |")


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {options.threads} threads of {os.cpu_count()} cores, {options.repeats} repeats")
    tables: dict[str, Callable[[], None]] = {
        "rows": rows,
        "fused": lambda: fused(options.repeats),
        "sampling": lambda: sampling(options.repeats),
        "guidance": lambda: guidance(options.repeats),
        "training": lambda: training(options.repeats),
        "lesson": lambda: lesson(options.repeats),
    }
    for name, table in tables.items():
        if options.only in (None, name):
            print(f"\n## {name}\n")
            table()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
