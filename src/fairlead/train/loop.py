"""The training loop: a generator of step records. The caller prints, logs, previews and stops; the loop saves.

    training = Training(data, config, out)
    for record in training.run():
        ...

Every random draw is a pure function of (seed, step): resuming needs no generator state, and the global batch does not
depend on the number of processes.

Over 300 lines: what a run consists of, its steps and its checkpoints share one state.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.arguments import as_path, shown
from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.launch import Launch
from fairlead.core.places import check_folder
from fairlead.core.schedule import schedule_from_config
from fairlead.data.batches import Batches, RecordedBatches
from fairlead.data.images import ImageData
from fairlead.data.latents import LatentBatches, LatentCodec, Latents, codec_from_config
from fairlead.data.text import encoder_from_config
from fairlead.nets.build import build_net, load_weights, parameter_count
from fairlead.nets.compiling import compile_in_place, no_compiler
from fairlead.nets.text_attention import TextInput
from fairlead.train.checkpoint import Checkpoint, prune, save_checkpoint, snapshots, step_folder
from fairlead.train.conditions import DataConditions
from fairlead.train.config import TrainConfig
from fairlead.train.description import check_fit, described
from fairlead.train.environment import accelerator_for, start_trackers
from fairlead.train.malloc import keep_freed_memory
from fairlead.train.optimizer import learning_rate, optimizer_of, restore_state, stored_state
from fairlead.train.reading import prepare_text
from fairlead.train.resume import differences, plans_until, previous, replanned, setup
from fairlead.train.steps.feed import StepFeed, StepSource
from fairlead.train.steps.outcomes import EVERY, Outcomes
from fairlead.train.steps.outcomes import StepRecord as StepRecord
from fairlead.train.tasks import Distillation, Guided, Teaches, task_of
from fairlead.train.weights.averages import average_of, averages, restore_averages
from fairlead.train.weights.initial import initialise


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
        compile: compile the network; where there is no compiler, a note says so.
        teacher: whose answers a student is trained on; needed exactly where the configuration says ``distill``.

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
        compile: bool = False,
        teacher: Teaches | None = None,
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
        check_fit(config.net, data, self.autoencoder)
        if compile and config.internal:
            raise UsageError("compile: the head in the middle (internal) runs uncompiled; train without one of them")
        if (teacher is None) != (not config.distill):
            raise UsageError("training: a student and a teacher go together; train a student with fl.distill(...)")
        self.task = Guided() if config.guided != 1 else task_of(config.objective)
        self.task = self.task if teacher is None else Distillation(teacher)
        names = self.task.conditions(config.net)
        self.drops = {name: config.drops.get(name, config.drop) for name in names}
        self._hold: Hold | None = None
        if self.out is not None and Launch.here().main:
            self.out.mkdir(parents=True, exist_ok=True)  # before the hold, which takes away with it what it made
            self._hold = Hold(self.out)
            weakref.finalize(self, self._hold.release)
        self.accelerator, self.precision = accelerator_for(config.precision, trackers or [], self.out)
        world = self.accelerator.num_processes
        parts = world * config.accumulate
        if config.batch_size % parts:
            each = f" in {config.accumulate} parts each" if config.accumulate > 1 else ""
            raise UsageError(
                f"batch size {config.batch_size} cannot be shared evenly by {world} processes{each}; expected a "
                f"multiple of {parts}"
            )
        checkpoint = previous(self.out, resume, data, config, self.precision)
        # of when there may have been more of them
        self._kept = [] if checkpoint is None or self.out is None else snapshots(self.out)
        self.notes: list[str] = []
        """What a user has to know: how a resumed run goes on otherwise than it began."""
        self.conditions = DataConditions.of(data, config.net, config.text, config.image) if names else None
        self.schedule = schedule_from_config(config.schedule)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_net(config.net)
        knows_text = False
        if checkpoint is None:
            if config.init:
                self.notes, knows_text = initialise(network, config, data)
            self.task.prepare(network, data)
        text = getattr(network, "text", None)
        if text is not None and text.keeps_empty:
            text.set_empty(encoder_from_config(config.text)([""])[0])
        self.batches = self._batches(config.batch_size, progress)
        known = teacher is not None or knows_text
        if isinstance(text, TextInput) and checkpoint is None and self.conditions is not None and not known:
            prepare_text(text, data, self.conditions, config, lambda size: self._batches(size, None), reading)
        self.parameters = parameter_count(network)
        self._dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
        device = self.accelerator.device
        if device.type == "cpu":
            keep_freed_memory()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        problem = no_compiler(device.type) if compile else ""
        if problem:
            self.notes.append(f"trains uncompiled: {problem}")
        self.compiled = compile and not problem
        self.average = average_of(network, config.ema).to(device)
        optimizer = optimizer_of(network, config)
        if self.compiled:
            compile_in_place(network)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.noise_shape: tuple[int, ...] = getattr(network, "latent_shape", self.batches.shape)
        source = StepSource(
            self.batches, self.conditions, self.task, config, self.schedule, self.drops, self.noise_shape,
            self.accelerator.process_index, world, config.accumulate,
        )  # fmt: skip
        self.feed = StepFeed(source, config.steps, device)
        self.outcomes = Outcomes(1 if device.type == "cpu" else EVERY, config.lr, self.accelerator.log)
        self.step, self._plans = 0, list[dict[str, int]]()
        if checkpoint is not None:
            self._restore(checkpoint)
        start_trackers(self.accelerator, trackers or [])

    def _batches(
        self, size: int, progress: Callable[[int], object] | None
    ) -> Batches | LatentBatches | RecordedBatches:
        images = Batches(self.data, size, self.config.seed)
        if isinstance(self.task, Distillation) and self.task.teacher.recorded is not None:
            return RecordedBatches(images, self.task.teacher.recorded)
        if self.autoencoder is None:
            return images
        if self._latents is None:
            self._latents = Latents.of(self.autoencoder.to(self.accelerator.device), self.data, progress)
            self.autoencoder.to("cpu")  # previews take it back
        return LatentBatches(images, self._latents)

    def _restore(self, checkpoint: Checkpoint) -> None:
        here = {**setup(self.accelerator, self.compiled), "accumulate": self.config.accumulate}
        self.notes += differences(checkpoint, here, self._dropout)
        self.notes += replanned(checkpoint, self.config)
        raw = checkpoint.tensors("raw")
        try:
            load_weights(self.accelerator.unwrap_model(self.network), raw)
            restore_averages(self.average, checkpoint.tensors, checkpoint.step)
        except UsageError as error:
            raise UsageError(f"cannot resume {self.out}: {error}; resume another checkpoint") from error
        try:
            restore_state(self.optimizer, checkpoint.tensors("training"))
        except ValueError as error:
            raise UsageError(f"cannot resume {self.out}: its training.safetensors is damaged ({error})") from error
        self.step, self._plans = checkpoint.step, plans_until(checkpoint, self.config)

    def about(self) -> dict[str, Any]:
        """The description that goes into the checkpoint: enough to rebuild the model and to know where it came from."""
        return {
            **setup(self.accelerator, self.compiled),
            **described(self.config, self.data, self.schedule, list(self.drops)),
            "parameters": self.parameters,
            "precision": self.precision,
            **({"plans": self._plans} if self._plans else {}),
        }

    def averaged_network(self) -> nn.Module:
        """A copy of the averaged network in eval mode, for previews; training goes on undisturbed."""
        network: nn.Module = copy.deepcopy(self.average.module).eval().requires_grad_(False)
        return network

    def take_step(self) -> tuple[Tensor, Tensor, float]:
        """One optimiser step: (loss, gradient norm, learning rate); the two tensors are scalars on the device."""
        config, accelerator = self.config, self.accelerator
        lr = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.train()
        losses = []
        for part in range(config.accumulate):
            last = part == config.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.network):
                losses.append(self._add_gradient(part))
        norm = accelerator.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(accelerator.unwrap_model(self.network))
        self.step += 1
        return torch.stack(losses).mean(), norm, lr

    def _add_gradient(self, part: int) -> Tensor:
        """That of one part of this process's share of the batch, divided by the number of parts; its loss."""
        config, accelerator, parts = self.config, self.accelerator, self.config.accumulate
        rank, world = accelerator.process_index * parts + part, accelerator.num_processes * parts
        device, data = accelerator.device, self.feed.of(self.step, part)
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self._dropout):
            if self._dropout:
                torch.manual_seed(((config.seed * 1_000_003 + self.step) * world + rank) % 2**63)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                output = self.task.output(self.network, data.inputs, config)
        loss = self.task.loss(output, data.x0, data.labels, data.draw, config, self.schedule)
        accelerator.backward(loss / parts)
        return loss.detach()

    def run(self) -> Iterator[StepRecord]:
        """Steps until ``config.steps``; saves by the configuration and at the end.

        Raises:
            UsageError: for the first loss or gradient that is not finite, naming its step, once it is read: at once on
                a CPU, up to ``EVERY`` steps later on a GPU. Nothing is saved after it; saved checkpoints stay.
        """
        try:
            yield from self._steps()
        finally:
            self.feed.close()
            if self._hold is not None:
                self._hold.release()

    def _steps(self) -> Iterator[StepRecord]:
        config, began, first = self.config, time.perf_counter(), self.step
        while self.step < config.steps:
            loss, norm, lr = self.take_step()
            outcome = self.outcomes.add(self.step, lr, self.accelerator.reduce(loss, "mean"), norm)
            speed = (self.step - first) * config.batch_size / (time.perf_counter() - began)
            yield StepRecord(self.step, lr, speed, self._save_if_due(), outcome)
        self.accelerator.end_training()

    def _save_if_due(self) -> Path | None:
        config = self.config
        due = self.step == config.steps or (config.checkpoint_every and self.step % config.checkpoint_every == 0)
        if due:
            return self.save()
        if config.snapshots_every and self.step % config.snapshots_every == 0 and self.out is not None:
            self.outcomes.read()
            self._write(averages(self.average))
        return None

    def save(self) -> Path | None:
        """Write a checkpoint of this moment, from which the run can be resumed, and remove those that are not kept.

        Every process has to call it, and gets its folder.

        Raises:
            UsageError: if a step before was not finite, which is then not saved; if it cannot be written.
        """
        self.outcomes.read()
        if self.out is None:
            return None
        network = self.accelerator.unwrap_model(self.network)
        trained = {"raw": network.state_dict(), "training": stored_state(self.optimizer)}
        self._write({**averages(self.average), **trained})
        if self.accelerator.is_main_process:
            prune(self.out, self.step, self.config.snapshots_every, self._kept, self.config.keep)
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
