"""Sets of digits with few images of some classes, and evaluators on them: made in milliseconds."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData, stratified_split
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import train_classifier

NAMES = ("zero", "one", "two")


def uneven(sizes: Sequence[int]) -> tuple[ImageData, ImageData]:
    """(training images, held-out ones) of so many zeros, ones and twos, of which a tenth is held out, as
    ``load_data`` does it."""
    data = load_digits("train")
    index = torch.cat([(data.labels == label).nonzero()[:size, 0] for label, size in enumerate(sizes)])
    held_out, training = stratified_split(replace(data.subset(index), classes=NAMES), 0.1, 0)
    return replace(training, name="uneven"), replace(held_out, name="uneven", split="test")


@cache
def evaluator_of(sizes: tuple[int, ...]) -> Evaluator:
    training, held_out = uneven(sizes)
    judge, features = (train_classifier(training, seed, 1, width=4, features=6) for seed in (1, 2))
    return Evaluator(training, held_out, judge, features)
