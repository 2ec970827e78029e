"""The bundled data set: scikit-learn's 1,797 handwritten digits, 8 x 8 (UCI "Optical Recognition of Handwritten
Digits"). Needs no download."""

from __future__ import annotations

import numpy as np
import torch

from fairlead.core.errors import unknown
from fairlead.data.images import ImageData, stratified_split

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLIT_SEED = 0


def load_digits(split: str = "train") -> ImageData:
    """uint8 images [n, 1, 8, 8]: a fixed, stratified 80 % as "train" (1,438 images), 20 % as "test" (359).

    The source's grey levels 0..16 become round(level * 255 / 16).

    Raises:
        UsageError: for any other split.
    """
    # scikit-learn takes a second to import
    from sklearn.datasets import load_digits as sklearn_digits

    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    levels, labels = sklearn_digits(return_X_y=True)
    pixels = np.round(levels.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    whole = ImageData(
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        DIGIT_NAMES,
        "digits",
        split,
        flip=False,
    )
    test, train = stratified_split(whole, 0.2, SPLIT_SEED)
    return train if split == "train" else test
