"""``fairlead train-classifier``"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.cli.training import ScheduleName, TrainOptions, finishing, train_with_progress
from fairlead.core.errors import UsageError
from fairlead.nets.build import CLASSIFIER_PRESETS
from fairlead.train.config import CLASSIFIER_RECIPES

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.train.loop import Training


@dataclass(frozen=True)
class TrainClassifier(TrainOptions):
    """Train a classifier of noisy images, p(class | x_t, t), for guidance by its gradient.

    It must be trained on the noise schedule of the model it is to guide. At the end its accuracy on the test split is
    measured by noise level, printed, and drawn to OUT/accuracy.png. Ctrl-C or SIGTERM saves a checkpoint and stops; the
    same command with --resume goes on to the same bits as an uninterrupted run.

    Example: fairlead train-classifier --recipe digits --out runs/digits-classifier
    """

    recipe: Annotated[str, tyro.conf.arg(help=f"Preset of all below: {', '.join(CLASSIFIER_RECIPES)}.")] = "digits"
    net: Annotated[str | None, tyro.conf.arg(help=f"Network preset: {', '.join(CLASSIFIER_PRESETS)}.")] = None
    schedule: ScheduleName = None

    def run(self) -> None:
        with self.started(CLASSIFIER_RECIPES, CLASSIFIER_PRESETS) as training:
            held_out = self._held_out(training)
            train_with_progress(training)
            if training.accelerator.is_main_process:
                with finishing(self.out):
                    self._measure(training, held_out)

    def _held_out(self, training: Training) -> ImageData:
        """The test images; what is too few is refused or said, before anything is trained."""
        from fairlead.data.hub import load_data
        from fairlead.measure.metrics import check_classes

        held_out = load_data(**training.config.data, split="test")
        notes = check_classes(training.data, held_out)
        if training.accelerator.is_main_process:
            for note in notes:
                print(note, file=sys.stderr)
        return held_out

    def _measure(self, training: Training, data: ImageData) -> None:
        from fairlead.core.files import replacing
        from fairlead.models.classifier import classifier_of
        from fairlead.report.held_out import accuracy_by_noise, accuracy_plot

        classifier = classifier_of(
            training.averaged_network(), training.about(), {"step": training.step}, training.accelerator.device
        )
        bins = accuracy_by_noise(classifier, data)
        print(f"{'log-SNR':>10}  accuracy on {len(data):,} test images")
        for entry in bins:
            print(f"{entry.low:>4g} to {entry.high:>2g}  {100 * entry.accuracy.value:.1f} %")
        path = self.out / "accuracy.png"
        try:
            with replacing(path, durable=False) as partial:
                partial.write_bytes(accuracy_plot(bins, len(data.classes)))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}; the classifier itself is saved") from error
        print(f"plot: {path}; guide with it: fairlead sample RUN --cond ... --guidance 'classifier(2, \"{self.out}\")'")
