"""What attaching a guidance to a diffusers pipeline costs a step, beside the pipeline's own guidance: same network,
same batch, runs that alternate in this one process.

    python benchmarks/attach.py
    python benchmarks/attach.py --device cuda

On a CPU the networks are Stable Diffusion's U-Net with fewer and narrower levels, with random weights, on latents of
16 x 16: they answer on one core in about the time that the real one takes on a GPU. On a GPU it is the U-Net of Stable
Diffusion 1.5 at its own size, in bfloat16, on latents of 64 x 64, with random weights. Prompts are embeddings. Ratios
are medians of the ratios of neighbours; on a machine that others use, look at the processor's time.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro

import fairlead as fl

SMALL, LARGE = (((32, 64), 16), ((64, 128, 256), 16)), (((320, 640, 1280, 1280), 64),)
"""Widths of the levels and size of the latents."""


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    repeats: int = 7
    steps: int = 10
    images: tuple[int, ...] = (1, 4, 16)
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
    """Seconds of one step of the loop, and of the processor; what happens once a call is in it."""

    wall: float
    processor: float


def taken(pipe: Any, arguments: dict[str, Any], steps: int, guidance: str | None) -> Taken:
    if guidance is not None:
        with fl.attach(pipe, guidance):
            return taken(pipe, arguments, steps, None)
    _wait(pipe)
    wall, processor = time.perf_counter(), time.process_time()
    pipe(num_inference_steps=steps, guidance_scale=5.0, output_type="latent", **arguments)
    _wait(pipe)
    return Taken((time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps)


def _wait(pipe: Any) -> None:
    if pipe.device.type == "cuda":
        torch.cuda.synchronize()


def row(pipe: Any, arguments: dict[str, Any], guidance: str, options: Options) -> str:
    for text in (None, guidance):
        taken(pipe, arguments, 2, text)
    pairs = []
    for i in range(options.repeats):  # whoever goes first changes from pair to pair
        order = (None, guidance) if i % 2 else (guidance, None)
        both = {text: taken(pipe, arguments, options.steps, text) for text in order}
        pairs.append((both[None], both[guidance]))
    own = 1e3 * statistics.median(a.wall for a, _ in pairs)
    added = 1e3 * statistics.median(b.processor - a.processor for a, b in pairs)
    wall = statistics.median(b.wall / a.wall for a, b in pairs)
    processor = statistics.median(b.processor / a.processor for a, b in pairs)
    text = guidance.replace("|", "\\|")
    return f"`{text}` | {own:.1f} | {wall:.3f} | {processor:.3f} | {added:.2f}"


def main(options: Options) -> None:
    import diffusers

    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {options.device}, {options.threads} threads")
    print(f"of {os.cpu_count()} cores, {options.steps} steps, {options.repeats} pairs of runs\n")
    print("| U-Net | images | guidance | own ms a step | wall time | processor time | added processor ms a step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for widths, size in LARGE if _on_gpu(options.device) else SMALL:
        name = f"{'-'.join(map(str, widths))}, {size} x {size}"
        pipe = pipeline(widths, size, options.device)
        for images in options.images:
            embeds = [torch.randn(images, 77, 768, device=options.device, dtype=pipe.dtype) for _ in range(2)]
            arguments = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
            arguments |= {"height": size * pipe.vae_scale_factor, "width": size * pipe.vae_scale_factor}
            for guidance in ("cfg(5)", "cfg(5) | rescale(0.7)", "apg(cfg(5), norm=10)"):
                print(f"| {name} | {images} | {row(pipe, arguments, guidance, options)} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
