"""``fairlead train-classifier``"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fairlead.cli.training import ScheduleName, TrainOptions, train_with_progress
from fairlead.core.errors import UsageError
from fairlead.nets.build import CLASSIFIER_PRESETS
from fairlead.train.config import CLASSIFIER_RECIPES, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from fairlead.data.images import ImageData
    from fairlead.models.model import Model
    from fairlead.train.loop import Training


@dataclass(frozen=True)
class TrainClassifier(TrainOptions):
    """Train a classifier of noisy images, p(class | x_t, t), for guidance by its gradient.

    With --model it is trained for this model: besides telling the classes apart, its gradient is to lead the model's
    unconditional prediction to the image. Without, it must be trained on the noise schedule of the model that it is to
    guide. At the end its accuracy on the test split is measured by noise level, printed, and drawn to OUT/accuracy.png.
    Ctrl-C saves a checkpoint and stops; the same command with --resume goes on to the bits of an uninterrupted run.

    Example: fairlead train-classifier --recipe digits --out runs/digits-classifier
    """

    recipe: Annotated[str, tyro.conf.arg(help=f"Preset of all below: {', '.join(CLASSIFIER_RECIPES)}.")] = "digits"
    net: Annotated[str | None, tyro.conf.arg(help=f"Network preset: {', '.join(CLASSIFIER_PRESETS)}.")] = None
    schedule: ScheduleName = None
    model: str | None = None
    """The run that it is to guide, unconditional or used without its condition; a step then costs about three times as
    much."""
    guided: float | None = None
    """With --model: weight of the squared error of the guided prediction, beside the cross-entropy."""

    def run(self) -> None:
        training = self.start(CLASSIFIER_RECIPES, CLASSIFIER_PRESETS)
        train_with_progress(training)
        if training.accelerator.is_main_process:
            self._measure(training)

    def _process(self, recipe: Recipe) -> dict[str, Any]:
        """The noise schedule: that of the model, if there is one."""
        model = self._model
        if self.guided is not None and model is None:
            raise UsageError(f"--guided {self.guided:g} needs --model: the run that the classifier is to guide")
        given = super()._process(recipe)
        if model is None:
            return given
        from fairlead.core.schedule import schedule_from_config

        own = model.schedule.config()
        if given and schedule_from_config(given["schedule"]).config() != own:
            raise UsageError(f"--schedule {self.schedule}: {self.model} was trained on {own}; leave the option out")
        return {"schedule": own}

    @cached_property
    def _model(self) -> Model | None:
        from fairlead.models.load import load

        return None if self.model is None else load(self.model)

    def _guides(self, data: ImageData) -> tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor] | None]:
        from fairlead.core.denoiser import x0_of

        model = self._model
        if model is None:
            return {}, None
        if model.shape != data.shape or (model.classes and model.classes != data.classes):
            raise UsageError(
                f"--model {self.model}: it makes {list(model.shape)} of {len(model.classes)} classes, the data are "
                f"{list(data.shape)} of {len(data.classes)}; train the classifier on the model's own data"
            )
        denoise = x0_of(model.denoiser)

        def unconditional(x_t: Tensor, t: Tensor) -> Tensor:
            return denoise(x_t, t, model.encode([None] * len(x_t)).to(x_t.device))

        return {"source": self.model, "weights": model.metadata["weights_hash"]}, unconditional

    def _measure(self, training: Training) -> None:
        from fairlead.core.files import replacing
        from fairlead.data.hub import load_data
        from fairlead.measure.noisy import accuracy_by_noise
        from fairlead.models.classifier import classifier_of
        from fairlead.report.accuracy import accuracy_plot

        classifier = classifier_of(
            training.averaged_network(), training.about(), {"step": training.step}, training.accelerator.device
        )
        data = load_data(**training.config.data, split="test")
        bins = accuracy_by_noise(classifier, data)
        print(f"{'log-SNR':>10}  accuracy on {len(data):,} test images")
        for entry in bins:
            print(f"{entry.low:>4g} to {entry.high:>2g}  {100 * entry.accuracy.value:.1f} %")
        path = self.out / "accuracy.png"
        try:
            with replacing(path) as partial:
                partial.write_bytes(accuracy_plot(bins, len(data.classes)))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}; the classifier itself is saved") from error
        print(f"plot: {path}; guide with it: fairlead sample RUN --cond ... --guidance 'classifier(2, \"{self.out}\")'")
