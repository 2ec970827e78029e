"""``fairlead train-classifier``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.cli.training import ScheduleName, TrainOptions, train_with_progress
from fairlead.core.errors import UsageError
from fairlead.nets.build import CLASSIFIER_PRESETS
from fairlead.train.config import CLASSIFIER_RECIPES

if TYPE_CHECKING:
    from fairlead.train.loop import Training


@dataclass(frozen=True)
class TrainClassifier(TrainOptions):
    """Train a classifier of noisy images, p(class | x_t, t), for guidance by its gradient.

    It must be trained on the noise schedule of the model it is to guide. At the end its accuracy on the test split is
    measured by noise level, printed, and drawn to OUT/accuracy.png. Ctrl-C saves a checkpoint and stops; the same
    command with --resume goes on to the same bits as an uninterrupted run.

    Example: fairlead train-classifier --recipe digits --out runs/digits-classifier
    """

    recipe: Annotated[str, tyro.conf.arg(help=f"Preset of all below: {', '.join(CLASSIFIER_RECIPES)}.")] = "digits"
    net: Annotated[str | None, tyro.conf.arg(help=f"Network preset: {', '.join(CLASSIFIER_PRESETS)}.")] = None
    schedule: ScheduleName = None

    def run(self) -> None:
        training = self.start(CLASSIFIER_RECIPES, CLASSIFIER_PRESETS)
        train_with_progress(training)
        if training.accelerator.is_main_process:
            self._measure(training)

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
