"""What attaching a guidance to a diffusers pipeline costs a step, beside the pipeline's own guidance: same network,
same batch, runs that alternate in this one process.

    python -m benchmarks.attach --time
    python -m benchmarks.attach --time --times.device cuda

First Stable Diffusion's U-Net, with three guidances. On a CPU it has fewer and narrower levels, with random weights,
on latents of 16 x 16: it answers on one core in about the time that the real one takes on a GPU. On a GPU it is the
U-Net of Stable Diffusion 1.5 at its own size, in bfloat16, on latents of 64 x 64, with random weights. Prompts are
embeddings.

Then, on a CPU, ``cfg(5)`` on a pipeline of every pattern of calls, small ones with a larger network of at least 20 ms a
call. All times are those between two steps of the scheduler, so that the rehearsal is not in them; what it takes stands
beside the second, in steps.

Ratios are medians of the ratios of neighbours; on a machine that others use, look at the processor's time.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from tests.small_pipelines.build import arguments, make, run
from tests.small_pipelines.measure import pattern, watched
from tests.small_pipelines.table import SMALL

import fairlead as fl

ON_CPU, ON_GPU = (((32, 64), 16), ((64, 128, 256), 16)), (((320, 640, 1280, 1280), 64),)
"""Widths of the levels and size of the latents."""


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    repeats: int = 7
    steps: int = 10
    images: tuple[int, ...] = (1, 4)
    threads: int = 1
    device: str = "cpu"


def pipeline(widths: tuple[int, ...], size: int, device: str) -> Any:
    import diffusers

    torch.manual_seed(0)
    down = ("CrossAttnDownBlock2D",) * (len(widths) - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(widths) - 1)
    with torch.device(device):
        network = diffusers.UNet2DConditionModel(
            sample_size=size, block_out_channels=widths, down_block_types=down, up_block_types=up,
            cross_attention_dim=768,
        )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8),
        text_encoder=None,
        tokenizer=None,
        unet=network.eval().requires_grad_(False),
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, torch.bfloat16 if _on_gpu(device) else torch.float32)


def _on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


@dataclass(frozen=True)
class Taken:
    """Seconds on the clock and of the processor."""

    wall: float
    processor: float


def row(pipe: Any, arguments: dict[str, Any], guidance: str, options: Options) -> str:
    call = {"num_inference_steps": options.steps, "guidance_scale": 5.0, "output_type": "latent", **arguments}
    pairs = paired(pipe, call, guidance, options.repeats)
    added = 1e3 * statistics.median(b.step.processor - a.step.processor for a, b in pairs)
    text = guidance.replace("|", "\\|")
    return f"`{text}` | {own_ms(pairs):.1f} | {ratios(pairs)} | {added:.2f}"


DEEP: dict[str, Any] = {"num_attention_heads": 16, "num_layers": 3}
WIDE_UNET: dict[str, Any] = {"block_out_channels": (64, 96), "norm_num_groups": 32, "attention_head_dim": 8}
WIDE_WAN: dict[str, Any] = {"num_attention_heads": 16, "num_layers": 24, "ffn_dim": 512}
PATTERNS: dict[str, dict[str, Any]] = {  # -> changes to the configurations of its networks
    "BriaPipeline": {"transformer": {**DEEP, "num_single_layers": 3}},
    "WanPipeline": {"transformer": WIDE_WAN},
    "ChromaPipeline": {"transformer": {**DEEP, "num_single_layers": 6}},
    "StableDiffusionPAGPipeline": {"unet": WIDE_UNET},
    "MotifVideoPipeline": {"transformer": {**DEEP, "num_layers": 6, "num_single_layers": 6}},
    "ZImagePipeline": {"transformer": {"dim": 256, "n_heads": 16, "n_kv_heads": 16, "n_layers": 3}},
    "StableDiffusionInstructPix2PixPipeline": {"unet": WIDE_UNET},
    "WanPipeline, two networks": {"transformer": WIDE_WAN, "transformer_2": WIDE_WAN},
}


def pattern_pipeline(name: str, images: int, steps: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline of this pattern with a larger network, and a call of it."""
    small = SMALL[name]
    parts: dict[str, Any] = dict(small.parts)
    for part, change in PATTERNS[name].items():
        parts[part] = {**parts.get(part, {}), **change}
    call = {**arguments(name, small, images), "num_inference_steps": steps}
    if "num_frames" in call:
        call |= {"height": 32, "width": 32}
    return make(name, replace(small, parts=parts)), call


@dataclass(frozen=True)
class Steps:
    """Seconds on the clock and of the processor: of a step, and of all before the first ends."""

    step: Taken
    first: Taken


def steps_of(pipe: Any, call: dict[str, Any], guidance: str | None) -> Steps:
    """A run, its scheduler watched."""
    if guidance is not None:
        with fl.attach(pipe, guidance):
            return steps_of(pipe, call, None)
    kind: Any = type(pipe.scheduler)
    own, marks = kind.step, [_now(pipe)]

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        marks.append(_now(pipe))
        return own(self, *args, **kwargs)

    kind.step = step  # rehearsals give the scheduler a step of their own
    try:
        run(pipe, call)
    finally:
        kind.step = own
    between = [Taken(b.wall - a.wall, b.processor - a.processor) for a, b in pairwise(marks[1:])]
    median = Taken(
        *(statistics.median(values) for values in zip(*((t.wall, t.processor) for t in between), strict=True))
    )
    return Steps(median, Taken(marks[1].wall - marks[0].wall, marks[1].processor - marks[0].processor))


def _now(pipe: Any) -> Taken:
    if pipe.device.type == "cuda":
        torch.cuda.synchronize()
    return Taken(time.perf_counter(), time.process_time())


def paired(pipe: Any, call: dict[str, Any], guidance: str, repeats: int) -> list[tuple[Steps, Steps]]:
    """Runs of the pipeline's own guidance beside those of ours."""
    for text in (None, guidance):
        steps_of(pipe, {**call, "num_inference_steps": 2}, text)
    pairs = []
    for i in range(repeats):  # the two take turns at going first
        order = (None, guidance) if i % 2 else (guidance, None)
        both = {text: steps_of(pipe, call, text) for text in order}
        pairs.append((both[None], both[guidance]))
    return pairs


def own_ms(pairs: list[tuple[Steps, Steps]]) -> float:
    return 1e3 * statistics.median(a.step.wall for a, _ in pairs)


def ratios(pairs: list[tuple[Steps, Steps]]) -> str:
    """Of the wall time and of the processor's."""
    wall = statistics.median(b.step.wall / a.step.wall for a, b in pairs)
    processor = statistics.median(b.step.processor / a.step.processor for a, b in pairs)
    return f"{wall:.3f} | {processor:.3f}"


def pattern_row(name: str, images: int, options: Options) -> str:
    pipe, call = pattern_pipeline(name, images, options.steps)
    seen: list[tuple[str, int, bool, str]] = []
    with watched(pipe, seen):
        run(pipe, {**call, "num_inference_steps": 2})
    pairs = paired(pipe, call, "cfg(5)", options.repeats)
    own, calls = own_ms(pairs), len(seen) / 2
    rehearsal = statistics.median((b.first.processor - a.first.processor) / a.step.processor for a, b in pairs)
    title = f"{pattern(name, pipe, seen, images)} | {name.split(',')[0].replace('Pipeline', '')}"
    return f"{title} | {images} | {own / calls:.0f} | {own:.0f} | {ratios(pairs)} | {rehearsal:.1f}"


def main(options: Options) -> None:
    import diffusers

    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {options.device}, {options.threads} threads")
    print(f"of {os.cpu_count()} cores, {options.steps} steps, {options.repeats} pairs of runs\n")
    print("| U-Net | images | guidance | own ms per step | wall time | processor time | added processor ms per step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for widths, size in ON_GPU if _on_gpu(options.device) else ON_CPU:
        name = f"{'-'.join(map(str, widths))}, {size} x {size}"
        pipe = pipeline(widths, size, options.device)
        for images in options.images:
            embeds = [torch.randn(images, 77, 768, device=options.device, dtype=pipe.dtype) for _ in range(2)]
            given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
            given |= {"height": size * pipe.vae_scale_factor, "width": size * pipe.vae_scale_factor}
            for guidance in ("cfg(5)", "cfg(5) | rescale(0.7)", "apg(cfg(5), norm=10)"):
                print(f"| {name} | {images} | {row(pipe, given, guidance, options)} |", flush=True)
    if _on_gpu(options.device):
        return
    print(
        "\n| calls of a step | pipeline | images | own ms per call | own ms per step | wall time | processor time | "
        "rehearsal, in steps |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in PATTERNS:
        for images in options.images:
            print(f"| {pattern_row(name, images, options)} |", flush=True)
