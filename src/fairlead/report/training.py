"""The training verbs: train, measure what came of it, draw it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.signals import unbroken
from fairlead.core.typed import check_arguments
from fairlead.data.arrays import with_held_out
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.diffusers.kl_autoencoder import finished_autoencoder, save_autoencoder
from fairlead.measure.metrics import Estimate, check_classes
from fairlead.models.load import load, model_of
from fairlead.models.noisy_classifier_model import classifier_of, load_classifier
from fairlead.nets.build import AUTOENCODER_PRESETS, CLASSIFIER_PRESETS, PRESETS
from fairlead.report.held_out import (
    NoiseBin,
    accuracy_by_noise,
    accuracy_plot,
    reconstruction_error,
    reconstruction_grid,
)
from fairlead.report.pictures import class_grid
from fairlead.report.trainings.next_steps import made, next_commands
from fairlead.report.trainings.training_page import write_training_page
from fairlead.report.trainings.validation import HeldOutLoss, held_out_lines
from fairlead.report.trainings.watch import Watch
from fairlead.train.config import AUTOENCODER_RECIPES, CLASSIFIER_RECIPES, RECIPES
from fairlead.train.denoiser_options import DenoiserOptions
from fairlead.train.loop import Training
from fairlead.train.options import AutoencoderOptions, ClassifierOptions, TrainOptions
from fairlead.train.session import train_to_end

P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a finished training.

    Attributes:
        folder: of the run.
        step: its last one.
        loss: averaged over the last steps; None where the run was trained already.
        notes: what was said of the data, and of a run that goes on otherwise than it began.
        accuracy: of a classifier on the test images, by noise level.
        errors: of an autoencoder on the test images, "l1" and "psnr".
        held_out: of a denoiser, its loss on held-out images after the last step, by noise level.
    """

    folder: Path
    step: int
    loss: float | None
    notes: tuple[str, ...]
    accuracy: tuple[NoiseBin, ...] = ()
    errors: Mapping[str, Estimate] = field(default_factory=dict)
    held_out: tuple[HeldOutLoss, ...] = ()
    _load: Callable[[str], Any] = field(default=load, kw_only=True)

    __repr__ = brief

    @cached_property
    def model(self) -> Any:
        """What was trained, loaded: a ``Model``, a classifier of noisy images or an autoencoder."""
        return self._load(str(self.folder))


def denoiser_trained(options: DenoiserOptions) -> Trained:
    """``fairlead train``"""
    if options.validate_every is not None and options.validate_every < 0:
        raise UsageError(f"validate_every: expected 0 or more steps, got {options.validate_every}")
    with options.started(RECIPES, PRESETS, ("conditioning", "channels")) as training:
        main = training.accelerator.is_main_process
        with closing(
            Watch(
                training, options.preview_every, write_preview, with_held_out(options.data)[1], options.validate_every
            )
        ) as watch:
            loss = train_to_end(training, watch)
        if main:
            with _finishing(options.folder):
                page = write_training_page(training, loss)
            if watch.held_out:
                print("\n".join(held_out_lines(watch.held_out)))
            print(f"{made(training, loss)}; report: {page}; next: {'; '.join(next_commands(training))}")
        return _trained(training, loss, held_out=watch.held_out)


def classifier_trained(options: ClassifierOptions) -> Trained:
    """``fairlead train-classifier``"""
    with options.started(CLASSIFIER_RECIPES, CLASSIFIER_PRESETS) as training:
        held_out, main = _test_images(training, with_held_out(options.data)[1]), training.accelerator.is_main_process
        for note in check_classes(training.data, held_out) if main and held_out is not None else ():
            print(note, file=sys.stderr)
        loss = train_to_end(training)
        bins: tuple[NoiseBin, ...] = ()
        if main and held_out is not None:
            with _finishing(options.folder):
                bins = _measure(training, held_out)
        return _trained(training, loss, accuracy=bins, _load=load_classifier)


def autoencoder_trained(options: AutoencoderOptions) -> Trained:
    """``fairlead train-autoencoder``"""
    with options.started(AUTOENCODER_RECIPES, AUTOENCODER_PRESETS, ("channels", "latent")) as training:
        loss = train_to_end(training)
        errors: Mapping[str, Estimate] = {}
        if training.accelerator.is_main_process:
            with _finishing(options.folder):
                errors = _finish(training, with_held_out(options.data)[1])
        return _trained(training, loss, errors=errors, _load=load_autoencoder)


def _trained(training: Training, loss: float | None, **more: Any) -> Trained:
    assert training.out is not None
    return Trained(training.out, training.step, loss, (*training.data.notes, *training.notes), **more)


def _verb(options: Callable[P, TrainOptions], work: Callable[[Any], Trained], name: str) -> Callable[P, Trained]:
    """A function that takes the options by name."""

    def verb(*args: P.args, **kwargs: P.kwargs) -> Trained:
        check_arguments(options, {**inspect.signature(options).bind_partial(*args).arguments, **kwargs}, name)
        return work(options(*args, **kwargs))

    verb.__name__ = verb.__qualname__ = name
    verb.__doc__ = f"""{work.__doc__} in Python.

    It takes the options of the command by their names, with _ for -, and as ``data`` also a set in memory, see
    ``fl.data``. It prints what the command prints.

    Raises:
        UsageError: for what the command refuses.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is finished and saved; ``resume=True`` goes on.
    """
    verb.__signature__ = inspect.signature(options).replace(return_annotation=Trained)  # type: ignore[attr-defined]
    return verb


train = _verb(DenoiserOptions, denoiser_trained, "train")
train_classifier = _verb(ClassifierOptions, classifier_trained, "train_classifier")
train_autoencoder = _verb(AutoencoderOptions, autoencoder_trained, "train_autoencoder")


def _test_images(training: Training, held_out: ImageData | None) -> ImageData | None:
    """None for data in memory without any."""
    given = training.config.data
    return load_data(**given, split="test") if given else held_out


@contextmanager
def _finishing(out: Path) -> Iterator[None]:
    """For what a command measures and draws once its network is trained: an interruption says what is there."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{out} is trained and saved; the same command with --resume finishes it", file=sys.stderr)
        raise


def _measure(training: Training, data: ImageData) -> tuple[NoiseBin, ...]:
    assert training.out is not None
    classifier = classifier_of(
        training.averaged_network(), training.about(), {"step": training.step}, training.accelerator.device
    )
    bins = accuracy_by_noise(classifier, data)
    print(f"{'log-SNR':>10}  accuracy on {len(data):,} test images")
    for entry in bins:
        print(f"{entry.low:>4g} to {entry.high:>2g}  {100 * entry.accuracy.value:.1f} %")
    path = training.out / "accuracy.png"
    try:
        with replacing(path, durable=False) as partial:
            partial.write_bytes(accuracy_plot(bins, len(data.classes)))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the classifier itself is saved") from error
    print(f"plot: {path}; guide with it: fairlead sample RUN --cond ... --guidance 'classifier(2, \"{training.out}\")'")
    return tuple(bins)


def _finish(training: Training, held_out: ImageData | None) -> Mapping[str, Estimate]:
    assert training.out is not None
    autoencoder = finished_autoencoder(training)
    given = {name: value for name, value in training.config.data.items() if name != "limit"}
    data = load_data(**given, split="test") if given else held_out or training.data
    errors = reconstruction_error(autoencoder, data)
    measured = {"data": data.name, "split": data.split, "fingerprint": data.fingerprint}
    with unbroken():
        save_autoencoder(autoencoder, training, {**measured, **{name: asdict(e) for name, e in errors.items()}})
    shape = autoencoder.latent_shape(data.shape)
    print(
        f"{len(data):,} {data.split} images: PSNR {errors['psnr']} dB, mean absolute error {errors['l1']} of the "
        f"range; latents {'x'.join(map(str, shape))}, scale {autoencoder.scale:.4g}, weights {autoencoder.hash}"
    )
    path = training.out / "reconstructions.png"
    try:
        with replacing(path, durable=False) as partial:
            partial.write_bytes(reconstruction_grid(autoencoder, data))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the autoencoder itself is saved") from error
    print(f"pictures: {path}; train on its latents: fairlead train --latents {training.out} --out RUN")
    return errors


def write_preview(training: Training) -> None:
    """OUT/previews/step-N.png: four images of each class, or of eight conditions, at scale 2, from the average."""
    if training.out is None:
        return
    model = model_of(
        training.averaged_network(),
        training.about(),
        {"step": training.step},
        training.accelerator.device,
        training.autoencoder,
    )
    conds = list(model.examples)[:8] if model.condition_kind != "label" else []
    guidance = "cfg(2)" if conds or model.classes else None
    title = f"step {training.step}, {guidance or 'no guidance'}"
    picture = class_grid(model, guidance, conds=conds, rows=4, title=title)
    try:
        preview = training.out / "previews" / f"step-{training.step:06d}.png"
        with replacing(preview, durable=False) as path:
            path.write_bytes(picture)
    except OSError as error:
        raise UsageError(f"cannot write a preview to {training.out}: {error}; the last checkpoint is whole") from error
