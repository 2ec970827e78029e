"""A text-to-image pipeline of diffusers from nothing: VAE, text encoder, U-Net in latents of captioned digits, export.

    python -m benchmarks.pipeline --out runs/pipeline

Four stages, each kept in OUT and not done again: ``vae``, ``clip``, ``unet``, ``pipeline``. Then a process that never
imports fairlead loads the pipeline with plain ``StableDiffusionPipeline.from_pretrained`` and draws OUT/images.png. An
interrupted stage goes on where it was saved. ``benchmarks/pipeline_judged.py`` then judges guidances on it.

Images have 32 pixels because the pipeline wants sides that 8 divides; latents are 8x8. The table is vp_linear: latents
of flat colours keep their mean where noise does not end pure, and vp_scaled_linear ends at alpha 0.068.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.tiny_clip import TinyClip
from fairlead.core.files import replacing

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
"""Attention is at 4x4 only, where a token reaches all of the image: the captions name one of 3x3 places."""
PROMPTS = (
    "a large red seven at the top left on a white background",
    "a small yellow three in the center on a black background",
    "a large upright green zero on the right on a pink background",
    "a small blue four leaning left at the bottom on a yellow background",
)
OUTSIDE = """
import json, sys, numpy as np, torch
from diffusers import StableDiffusionPipeline
from PIL import Image
folder, out, prompts, each = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
pipe = StableDiffusionPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
rows = []
for i, prompt in enumerate(prompts):
    generator = torch.Generator().manual_seed(i)
    images = pipe(prompt, num_images_per_prompt=each, guidance_scale=3.0, generator=generator, output_type="np").images
    rows.append(np.concatenate(list(images), axis=1))
Image.fromarray((np.concatenate(rows) * 255).round().astype("uint8")).save(out)
assert "fairlead" not in sys.modules
"""


@dataclass(frozen=True)
class Pipeline:
    """Train and export a small Stable Diffusion on a captioned set."""

    out: Path
    """Folder of the stages."""
    data: str = "scenes(size=32, two=0)"
    """A captioned set of images whose sides 8 divides."""
    vae_steps: int = 1000
    """Of the VAE."""
    vae_batch_size: int = 32
    """Images of a step of the VAE."""
    latent: int = 8
    """Channels of the latents."""
    clip_steps: int = 500
    """Of the text encoder."""
    length: int = 24
    """Tokens of a prompt, start and end included."""
    widths: tuple[int, int] = (64, 96)
    """Of the U-Net's two levels; these have 2.5 million parameters and 115 MFLOP per row at 8x8."""
    blocks: int = 1
    """Residual blocks a level of the U-Net."""
    steps: int = 4000
    """Of the U-Net."""
    batch_size: int = 32
    """Images of a step of the U-Net."""
    lr: float = 2e-3
    drop: float = 0.1
    """Probability of the empty caption in training."""
    each: int = 8
    """Images a prompt at the end."""

    def main(self) -> None:
        vae, clip, unet, pipeline = (self.out / name for name in ("vae", "clip", "unet", "pipeline"))
        shared = ["--data", self.data]
        if not (vae / "config.json").is_file():
            wide = ["--channels", "32", "--latent", str(self.latent), "--steps", str(self.vae_steps)]
            wide += ["--batch-size", str(self.vae_batch_size)]
            rate = ["--objective", "l2", "--optimizer", "muon", "--lr", str(self.lr)]
            _run("train-autoencoder", *shared, "--recipe", "scenes", *wide, *rate, out=vae)
        if not (clip / "config.json").is_file():
            TinyClip(clip, self.data, self.clip_steps, length=self.length).main()
        if not pipeline.is_dir():
            settings = self.out / "unet.json"
            sized = {**UNET, "block_out_channels": list(self.widths), "layers_per_block": self.blocks}
            with replacing(settings) as partial:
                partial.write_text(json.dumps(sized, indent=1) + "\n")
            conditioning = [
                "--conditions",
                "text",
                "--text",
                f"clip:{clip}",
                "--latents",
                str(vae),
                "--drop",
                str(self.drop),
            ]
            rate = ["--steps", str(self.steps), "--batch-size", str(self.batch_size), "--lr", str(self.lr)]
            # at the default widths bf16 costs more than it gives on a CPU
            rate += ["--optimizer", "muon", "--precision", "fp32"]
            trained = [*rate, "--snapshot-every", str(max(1, self.steps // 4))]
            often = ["--checkpoint-every", "500", "--net-config", str(settings), "--schedule", "vp_linear"]
            _run("train", *shared, *conditioning, *trained, *often, out=unet)
            _run("export", str(unet), str(pipeline))
        pictures = self.out / "images.png"
        given = [str(pipeline), str(pictures), json.dumps(PROMPTS), str(self.each)]
        subprocess.run([sys.executable, "-W", "ignore", "-c", OUTSIDE, *given], check=True)
        print(f"{pictures}: {self.each} images each of: {'; '.join(PROMPTS)}")


def _run(*words: str, out: Path | None = None) -> None:
    """A command of fairlead, one that trains into ``out`` being resumed if it is there; ends the program where it
    fails."""
    more = [] if out is None else ["--out", str(out), *(["--resume"] if any(out.glob("step-*")) else [])]
    code = subprocess.run([sys.executable, "-m", "fairlead", *words, *more]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    tyro.cli(Pipeline).main()
