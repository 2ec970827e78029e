"""What adapters of a pipeline are taught: the guided predictions along the paths that it takes under a guidance
(adapter guidance distillation, 2503.07274, section 4).

A path is drawn once, by DDIM from noise to an image of a prompt. Guided paths leave the noised images that a network is
usually trained on, so that it is on them that the adapters have to be right. No teacher is asked in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule, schedule_from_config
from fairlead.core.strict_json import read_json
from fairlead.data.arrays import data
from fairlead.data.images import ImageData, to_uint8
from fairlead.data.tensor_cache import cached
from fairlead.data.text import encoder_from_config
from fairlead.diffusers.autoencoder import Autoencoder, load_autoencoder
from fairlead.diffusers.lora import COMPONENT, Base, LoraNet
from fairlead.guide.expression import to_guidance
from fairlead.models.load import model_of
from fairlead.models.model import Model
from fairlead.nets.build import build_net
from fairlead.sample.noise import NoiseStream
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Sampling
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.description import described
from fairlead.train.objective import Draw

RATE, STEPS, BATCH = 1e-4, 500, 8
"""Defaults of the training."""


@dataclass(frozen=True, eq=False)
class Paths:
    """The paths of n samples, as what a student is taught.

    Attributes:
        recorded: float32 [n, 2, steps, ...]: x_t at the beginning of every step, and the guided x0 there.
        times: of these steps, float64 [steps].
    """

    recorded: Tensor
    times: Tensor

    __repr__ = brief

    def noised(self, x0: Tensor, draw: Draw, schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor]:
        """x_t [b, ...], its times [b] and the guided x0, of one step each.

        Args:
            x0: the paths of b samples, [b, 2, steps, ...].
            draw: its times, in (0, 1], choose the steps.
        """
        steps, rows = len(self.times), torch.arange(len(x0), device=x0.device)
        place = ((1 - draw.t) * steps).long().clamp(0, steps - 1)
        x_t, answer = x0[rows, :, place.to(x0.device)].unbind(1)
        return x_t, self.times[place], answer

    def answer(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        raise UsageError("recorded paths answer nowhere else")

    def begin(self, network: nn.Module) -> None:
        """Adapters change nothing at first."""


def adapter_lesson(
    pipeline: str,
    guidance: str,
    rank: int,
    prompts: Sequence[str],
    n: int,
    path_steps: int,
    settings: Mapping[str, Any],
    device: torch.device,
    progress: Callable[[int], object],
) -> tuple[ImageData, TrainConfig, Paths]:
    """The images that a pipeline draws under a guidance, the training of its adapters, and what they are taught.

    Args:
        pipeline: folder or hub name of a pipeline of Stable Diffusion 1 or 2.
        prompts: taken in turn; image i has seed i.
        n: number of paths; ``path_steps`` of DDIM each.
        settings: of the training, by the names of ``TrainConfig``.
        progress: called with numbers of steps of batches.

    Raises:
        UsageError: if there is no such pipeline; for a guidance that it cannot take, or that re-noises.
    """
    base = Base.of(pipeline)
    codec = load_autoencoder(base.folder).to(device)
    latents = _latent_shape(base)
    factor = 2 ** (len(codec.network.config.block_out_channels) - 1)  # type: ignore[union-attr,arg-type]
    sides = (len(prompts), 3, latents[1] * factor, latents[2] * factor)
    blank = data(torch.zeros(sides, dtype=torch.uint8), captions=list(prompts), name=base.source)
    _, inputs, text = asked(blank, ["text"], base.text, settings={"masked": False})
    objective: Any = base.objective
    config = TrainConfig(
        base.net(latents[0], latents[1], rank, inputs["text"]),
        text=text,
        latents=codec.config(blank.shape),
        schedule=base.schedule,
        objective=objective,
        distill={"teacher": base.source, "weights": "ema", "hash": base.base, "guidance": guidance},
        drop=0.0,
        **{"steps": STEPS, "batch_size": BATCH, "lr": RATE, **settings},
    )
    model = _untaught(config, blank, codec, device)
    if to_guidance(guidance).renoising():
        raise UsageError(
            f"distill: {to_guidance(guidance).renoising()[0]} re-noises with another prediction than its x0; a student "
            "has one"
        )
    conds = [prompts[i % len(prompts)] for i in range(n)]
    plan = Plan.of(model, conds, guidance, Sampling("ddim", path_steps, batch_size=config.batch_size), seeds=0)
    described_by = [base.base, codec.hash, text, str(plan.guidance), conds, path_steps]
    shape = (n, 2, path_steps, *latents)
    recorded = cached("paths", described_by, shape, torch.float32, lambda: _drawn(plan, progress))
    with torch.no_grad():
        ends = torch.split(recorded[:, 1, -1], config.batch_size)  # where the last step arrives
        images = torch.cat([to_uint8(model.decode(part.to(device))).cpu() for part in ends])
    return data(images, captions=conds, name=f"drawn by {base.source}"), config, Paths(recorded, plan.times[:-1])


def _latent_shape(base: Base) -> tuple[int, int, int]:
    """Of the samples that the pipeline's network was made for."""
    settings = read_json(base.folder / COMPONENT / "config.json")
    channels, side = settings.get("in_channels"), settings.get("sample_size")
    if not isinstance(channels, int) or not isinstance(side, int):
        raise UsageError(
            f"pipeline {base.source!r}: its network does not say channels and size, got {channels}, {side}"
        )
    return channels, side, side


def _untaught(config: TrainConfig, images: ImageData, codec: Autoencoder, device: torch.device) -> Model:
    """The pipeline with adapters that change nothing, conditioned as these will be."""
    network = build_net(config.net)
    assert isinstance(network, LoraNet)
    assert network.text is not None
    network.text.set_empty(encoder_from_config(config.text)([""])[0])
    about = described(config, images, schedule_from_config(config.schedule), ["text"])
    return model_of(network, about, {}, device, codec)


def _drawn(plan: Plan, progress: Callable[[int], object]) -> Tensor:
    """Of every sample x_t and the guided x0, float32 [n, 2, steps, ...] on the CPU."""
    model, found = plan.model, []
    _, sigma = model.schedule.alpha_sigma(plan.times[0])
    for batch in plan.batches:
        x_t = NoiseStream(plan.seeds[batch], model.shape).start() * float(sigma)
        path = []
        for frame in plan.frames(batch):
            path.append(torch.stack([x_t, frame.prediction.x0.float().cpu()], 1))
            x_t = frame.x_t.float().cpu()
            progress(1)
        found.append(torch.stack(path, 2))
    return torch.cat(found)
