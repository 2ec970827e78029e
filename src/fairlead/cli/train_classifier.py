"""``fairlead train-classifier``"""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.train.options import ClassifierOptions, DataName, OutFolder


@dataclass(frozen=True)
class TrainClassifier(ClassifierOptions):
    """Train a classifier of noisy images, p(class | x_t, t), for guidance by its gradient.

    It must be trained on the noise schedule of the model it is to guide. At the end its accuracy on the test split is
    measured by noise level, printed, and drawn to OUT/accuracy.png. Ctrl-C or SIGTERM saves a checkpoint and stops; the
    same command with --resume continues to the same bits as an uninterrupted run.

    Example: fairlead train-classifier --recipe digits --out runs/digits-classifier
    """

    out: OutFolder
    data: DataName = None

    def run(self) -> None:
        from fairlead.report.training import classifier_trained

        classifier_trained(self)
