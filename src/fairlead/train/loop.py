"""The training loop: a generator of step records. The caller prints, logs, previews and stops; the loop saves.

    training = Training(data, config, out)
    for record in training.run():
        ...

Every random draw is a pure function of (seed, step): resuming needs no generator state, and the global batch does not
depend on the number of processes.
"""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from fairlead.core.arguments import as_path, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.launch import Launch
from fairlead.core.memory import keep_freed_memory
from fairlead.core.places import check_folder
from fairlead.core.schedule import schedule_from_config
from fairlead.data.degrade import DRAWS
from fairlead.data.images import Attribute, Batches, ImageData, stratified_order, stream
from fairlead.data.latents import LatentBatches, LatentCodec, Latents, codec_from_config
from fairlead.data.specs import Spec, data_specs
from fairlead.data.text import encoder_from_config
from fairlead.nets.build import build_net, load_weights, parameter_count
from fairlead.nets.classifier import NoisyClassifier
from fairlead.nets.inputs import condition_names
from fairlead.nets.text import TextInput
from fairlead.train.checkpoint import Checkpoint, prune, save_checkpoint, snapshots, step_folder
from fairlead.train.conditions import DataConditions
from fairlead.train.config import OTHER_KINDS, TrainConfig
from fairlead.train.environment import accelerator_for, start_trackers
from fairlead.train.moments import class_moments
from fairlead.train.objective import Draw, diffusion_loss, drop_condition, level_of, reconstruction_loss
from fairlead.train.optimizer import Muon, matrices_of, optimizer_state
from fairlead.train.reading import SKETCH_BATCH, learn_to_read, learn_to_sketch
from fairlead.train.resume import differences, previous, setup

EXAMPLES = 8
"""Conditions of the data that a checkpoint names."""
MEASURED = 4096
"""Captions from which a network learns how far they differ."""


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step (1-based). ``loss`` and ``grad_norm`` are of this step, ``images_per_second`` since the
    start of this process; ``saved`` is the checkpoint written after it from which the run can be resumed: a snapshot
    is none."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    images_per_second: float
    saved: Path | None = None


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, at most half of the run, then cosine to 0 at ``config.steps`` or constant; ``step`` counts
    from 0."""
    warmup = min(config.warmup, config.steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.decay == "constant":
        return config.lr
    progress = (step - warmup) / (config.steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_average(decay: float) -> Any:
    """For ``AveragedModel``: decay min(decay, (1 + k) / (10 + k)) after k updates."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        k = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return update


class Training:
    """One training run of a denoiser, of a classifier of noisy images (objective "label") or of an autoencoder ("l1",
    "l2"): network, average, optimiser, data order; can be resumed at any checkpoint. It holds its folder from here to
    the end of ``run``.

    Args:
        data: training images; ``config.net`` must have been made for their shape, or that of their latents, and
            classes.
        config: everything that decides the bits.
        out: folder of the run; None trains without saving.
        resume: continue from the last checkpoint in ``out``.
        trackers: names of accelerate trackers, e.g. ["tensorboard"]; logs go to ``out``.
        progress: called with numbers of images as an autoencoder encodes them.
        reading: called with numbers of steps as a text encoder learns to read and to sketch.

    Raises:
        UsageError: if ``out`` already holds a run and ``resume`` is False, or holds another configuration and it is
            True; if another run works in ``out``, or it cannot be written; if a tracker is unknown or not installed; if
            a variable of the environment asks accelerate for another training; if the network cannot be built, or was
            made for other images or classes.
    """

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        out: str | Path | None,
        resume: bool = False,
        trackers: list[str] | None = None,
        progress: Callable[[int], object] | None = None,
        reading: Callable[[int], object] | None = None,
    ) -> None:
        if not isinstance(data, ImageData):
            raise UsageError(f"training: expected data from fl.load_data(...), got {shown(data)}")
        if not isinstance(config, TrainConfig):
            raise UsageError(f"training: expected a configuration fl.TrainConfig(...), got {shown(config)}")
        if not isinstance(trackers, list | tuple | None) or not all(isinstance(name, str) for name in trackers or ()):
            raise UsageError(f"training: expected trackers to be a list of names, got {shown(trackers)}")
        self.data, self.config, self.out = data, config, None if out is None else as_path("training: out", out)
        if self.out is not None:
            check_folder(self.out)
        self.autoencoder: LatentCodec | None = None
        self._latents: Latents | None = None
        if config.latents:
            self.autoencoder = codec_from_config(config.latents, "this run", self.out)
        _check_fit(config.net, data, self.autoencoder)
        names = condition_names(config.net) if config.objective not in OTHER_KINDS else []
        self.drops = {name: config.drops.get(name, config.drop) for name in names}
        self._hold: Hold | None = None
        if self.out is not None and Launch.here().main:
            self.out.mkdir(parents=True, exist_ok=True)  # before the hold, which takes away with it what it made
            self._hold = Hold(self.out)
            weakref.finalize(self, self._hold.release)
        self.accelerator, self.precision = accelerator_for(config.precision, trackers or [], self.out)
        world = self.accelerator.num_processes
        if config.batch_size % world:
            raise UsageError(
                f"batch size {config.batch_size} cannot be shared evenly by {world} processes; expected a multiple of "
                f"{world}"
            )
        checkpoint = previous(self.out, resume, data, config, self.precision)
        # of when there may have been more of them
        self._kept = [] if checkpoint is None or self.out is None else snapshots(self.out)
        self.notes: list[str] = []
        """What a user has to be told: how a resumed run goes on otherwise than it began."""
        self.conditions = DataConditions.of(data, config.net, config.text, config.image) if names else None
        self.schedule = schedule_from_config(config.schedule)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_net(config.net)
        if isinstance(network, NoisyClassifier) and network.gaussians is not None and checkpoint is None:
            network.gaussians.set_moments(class_moments(data, network.gaussians.axes.shape[1]))
        text = getattr(network, "text", None)
        if text is not None and text.keeps_empty:
            text.set_empty(encoder_from_config(config.text)([""])[0])
        self.batches = self._batches(config.batch_size, progress)
        if isinstance(text, TextInput) and checkpoint is None:
            self._prepare(text, reading)
        self.parameters = parameter_count(network)
        self._dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
        device = self.accelerator.device
        if device.type == "cpu":
            keep_freed_memory()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(network, multi_avg_fn=ema_average(config.ema), use_buffers=True).to(device)
        optimizer = _optimizer(network, config)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.noise_shape: tuple[int, ...] = getattr(network, "latent_shape", self.batches.shape)
        self.step = 0
        if checkpoint is not None:
            self._restore(checkpoint)
        start_trackers(self.accelerator, trackers or [])

    def _batches(self, size: int, progress: Callable[[int], object] | None) -> Batches | LatentBatches:
        images = Batches(self.data, size, self.config.seed)
        if self.autoencoder is None:
            return images
        if self._latents is None:
            self._latents = Latents.of(self.autoencoder.to(self.accelerator.device), self.data, progress)
            self.autoencoder.to("cpu")  # previews take it back
        return LatentBatches(images, self._latents)

    def _prepare(self, text: TextInput, reading: Callable[[int], object] | None) -> None:
        """Let the text encoder in a fresh network learn to read, measure what it makes of captions, and learn to
        sketch from that."""
        assert self.conditions is not None
        captions = self.conditions.text
        assert captions is not None
        if not text.fixed:
            return
        image, caption = self.conditions.pairs()
        attributes = {name: Attribute(a.values, a.labels[image]) for name, a in self.data.attributes.items()}
        if text.encoder is not None:
            steps, seed = self.config.text.get("read", 0), self.config.seed
            learn_to_read(text.encoder, captions[caption], attributes, steps, seed, reading)
        some = torch.randperm(len(captions), generator=stream("captions", self.config.seed, 0))[:MEASURED]
        text.measure(captions[some])
        if text.sketch is not None:
            batches = self._batches(SKETCH_BATCH, None)
            learn_to_sketch(
                text.sketch,
                text.pooled(captions)[caption],
                attributes,
                lambda step: (self._pair(batches.index(step), image, step), batches.batch(step)[0]),
                self.config.text["sketch"],
                self.config.seed,
                reading,
            )

    def _pair(self, index: Tensor, image: Tensor, step: int) -> Tensor:
        """For each of the images ``index`` [b] one of its captions, by its place in ``image`` [p], the image of each
        caption in order."""
        first, after = torch.searchsorted(image, index), torch.searchsorted(image, index, right=True)
        draw = torch.rand(len(index), generator=stream("sketch", self.config.seed, step))
        return first + (draw * (after - first)).long()

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.notes += differences(checkpoint, setup(self.accelerator), self._dropout)
        raw, average = checkpoint.tensors("raw"), checkpoint.tensors("ema")
        try:
            load_weights(self.accelerator.unwrap_model(self.network), raw)
            load_weights(self.average.module, average)
        except UsageError as error:
            raise UsageError(f"cannot resume {self.out}: {error}; resume another checkpoint") from error
        self.average.n_averaged.fill_(checkpoint.step)
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            state = optimizer_state(checkpoint.tensors("training"), parameters)
        except ValueError as error:
            raise UsageError(f"cannot resume {self.out}: its training.safetensors is damaged ({error})") from error
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step = checkpoint.step

    def about(self) -> dict[str, Any]:
        """The description that goes into the checkpoint: enough to rebuild the model and to know where it came from."""
        data, net_attributes = self.data, self.config.net.get("attributes") or {}
        return {
            **setup(self.accelerator),
            "net": self.config.net,
            "schedule": self.schedule.config(),
            "objective": self.config.objective,
            "data": {
                "name": data.name,
                "split": data.split,
                "n": len(data),
                "fingerprint": data.fingerprint,
                "flip": data.flip,
                "shape": list(data.shape),
                "classes": list(data.classes),
                "attributes": {name: list(data.attributes[name].values) for name in net_attributes},
                "examples": self._examples(),
                "by_name": True,
            },
            "train": self.config.to_json(),
            "parameters": self.parameters,
            "precision": self.precision,
        }

    def _examples(self) -> list[Spec]:
        """Some conditions of the data, for models that are told more than a label."""
        names = [name for name in self.drops if name != "image"]
        if not names or names == ["label"]:
            return []
        some = stratified_order(self.data.labels, seed=0)[:EXAMPLES]
        return list(dict.fromkeys(data_specs(names, self.data, some)))

    def averaged_network(self) -> nn.Module:
        """A copy of the averaged network in eval mode, for previews; training goes on undisturbed."""
        network: nn.Module = copy.deepcopy(self.average.module).eval().requires_grad_(False)
        return network

    def take_step(self) -> tuple[Tensor, Tensor, float]:
        """One optimiser step: (loss, gradient norm, learning rate); the two tensors are scalars on the device."""
        config, accelerator = self.config, self.accelerator
        rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
        x0, labels = self.batches.batch(self.step, rank, world)
        draw = Draw.of(config.batch_size, self.noise_shape, self.drops, config.seed, self.step, config.drop_all).part(
            rank, world
        )
        condition = self._condition(x0, draw)
        x0 = x0.to(device)
        inputs = self._inputs(x0, draw, condition)
        lr = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self._dropout):
            if self._dropout:
                torch.manual_seed(((config.seed * 1_000_003 + self.step) * world + rank) % 2**63)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                output = self.network(*inputs)
        loss = self._loss(output, x0, labels.to(device), draw)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(accelerator.unwrap_model(self.network))
        self.step += 1
        return loss.detach(), norm, lr

    def _condition(self, x0: Tensor, draw: Draw) -> Condition:
        """What the network is told of the samples x0, after dropout."""
        if self.conditions is None:
            return Condition(len(x0))
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        index = self.batches.index(self.step, rank, world)
        condition = self.conditions.at(index, x0, self._draws(rank, world), self._which(rank, world))
        return drop_condition(condition, draw.dropped)

    def _inputs(self, x0: Tensor, draw: Draw, condition: Condition) -> tuple[Any, ...]:
        """What the network is called with."""
        device, eps = x0.device, draw.eps.to(x0.device)
        if OTHER_KINDS.get(self.config.objective) == "autoencoder":
            return x0.contiguous(memory_format=torch.channels_last), eps
        alpha, sigma = (expand_like(value, x0) for value in self.schedule.alpha_sigma(draw.t))
        x_t = (alpha * x0 + sigma * eps) * expand_like(self.schedule.input_scale(draw.t), x0)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        time_input = self.schedule.network_time(draw.t).to(device, torch.float32)
        if self.config.objective == "label":
            return x_t, time_input, level_of(self.schedule, draw.t).to(device, torch.float32)
        return x_t, time_input, condition.to(device)

    def _loss(self, output: Any, x0: Tensor, labels: Tensor, draw: Draw) -> Tensor:
        config = self.config
        if config.objective == "label":
            return F.cross_entropy(output.float(), labels)
        if config.objective == "l1" or config.objective == "l2":
            return reconstruction_loss(output, x0, config.objective, config.kl)
        return diffusion_loss(output, x0, draw, self.schedule, config.objective, config.weighting)

    def _draws(self, rank: int, world: int) -> Tensor | None:
        """This process's share of the numbers that decide what is shown of the images of this step."""
        if not self.config.image:
            return None
        generator = stream("image condition", self.config.seed, self.step)
        return torch.rand(self.config.batch_size, DRAWS, generator=generator).chunk(world)[rank]

    def _which(self, rank: int, world: int) -> Tensor | None:
        """This process's share of the numbers that decide which of its captions each image of this step is told."""
        if self.conditions is None or self.conditions.captions is None:
            return None
        return torch.rand(self.config.batch_size, generator=stream("caption", self.config.seed, self.step)).chunk(
            world
        )[rank]

    def run(self) -> Iterator[StepRecord]:
        """Steps until ``config.steps``; saves by the configuration and at the end.

        Raises:
            UsageError: at the first loss that is not finite, naming the step; saved checkpoints stay.
        """
        try:
            yield from self._steps()
        finally:
            if self._hold is not None:
                self._hold.release()

    def _steps(self) -> Iterator[StepRecord]:
        config, began, first = self.config, time.perf_counter(), self.step
        while self.step < config.steps:
            loss, norm, lr = self.take_step()
            value = float(self.accelerator.reduce(loss, "mean"))
            # a gradient that is not finite has already spoiled the weights, even under a finite loss
            for what, number in (("loss", value), ("gradient norm", float(norm))):
                if not math.isfinite(number):
                    raise UsageError(
                        f"training: the {what} of step {self.step} is {number}; lower --lr ({config.lr:g}) or use "
                        "--precision fp32, with another --out"
                    )
            speed = (self.step - first) * config.batch_size / (time.perf_counter() - began)
            self.accelerator.log({"loss": value, "lr": lr, "grad_norm": float(norm)}, step=self.step)
            yield StepRecord(self.step, value, lr, float(norm), speed, self._save_if_due())
        self.accelerator.end_training()

    def _save_if_due(self) -> Path | None:
        config = self.config
        due = self.step == config.steps or (config.checkpoint_every and self.step % config.checkpoint_every == 0)
        if due:
            return self.save()
        if config.snapshot_every and self.step % config.snapshot_every == 0 and self.out is not None:
            self._write({"ema": self.average.module.state_dict()})
        return None

    def save(self) -> Path | None:
        """Write a checkpoint of this moment, from which the run can be resumed, and remove the one before.

        Every process has to call it, and gets its folder.
        """
        if self.out is None:
            return None
        state = self.optimizer.state_dict()
        training = {f"{index}.{key}": value for index, entry in state["state"].items() for key, value in entry.items()}
        network = self.accelerator.unwrap_model(self.network)
        parts = {"ema": self.average.module.state_dict(), "raw": network.state_dict(), "training": training}
        self._write(parts)
        if self.accelerator.is_main_process:
            prune(self.out, self.step, self.config.snapshot_every, self._kept)
        return step_folder(self.out, self.step)

    def _write(self, parts: dict[str, dict[str, Tensor]]) -> None:
        if self.accelerator.is_main_process and self.out is not None:
            with Hold(self.out) as hold:  # beside that of the run: the caller may save after its end
                hold.check()
                save_checkpoint(self.out, self.step, self.about(), parts)
        self.accelerator.wait_for_everyone()

    def anywhere(self, number: int) -> int:
        """The largest ``number`` of all processes; every process has to ask."""
        if self.accelerator.num_processes == 1:
            return number
        numbers = self.accelerator.gather(torch.tensor([number], device=self.accelerator.device))
        return int(numbers.max())


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Of parameters in the memory format that they will keep."""
    lr, weight_decay, betas = config.lr, config.weight_decay, config.betas
    if config.optimizer == "muon":
        return Muon(*matrices_of(network), lr, weight_decay, betas)
    return torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, betas=betas, fused=True)


def _check_fit(net: dict[str, Any], data: ImageData, autoencoder: LatentCodec | None) -> None:
    channels, height, width = data.shape if autoencoder is None else autoencoder.latent_shape(data.shape)
    size, classes = net.get("size"), net.get("classes")
    if (net.get("channels_in"), size, size) != (channels, height, width):
        what = "images" if autoencoder is None else "latents"
        raise UsageError(
            f"data {data.name!r} has {what} {channels}x{height}x{width}, the network is made for "
            f"{net.get('channels_in')}x{size}x{size}; make it with net_config(preset, {channels}, {height}, ...)"
        )
    if classes and classes != len(data.classes):
        raise UsageError(
            f"data {data.name!r} has {len(data.classes)} classes, the network is made for {classes}; "
            "0 makes it unconditional"
        )
