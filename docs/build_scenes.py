"""Writes docs/scenes.png: the first images of the test split of `scenes`, each over its caption.

python docs/build_scenes.py
"""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from fairlead.data.hub import load_data

ROWS, COLUMNS = 4, 6


def main() -> None:
    data = load_data("scenes", "test")
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(1.9 * COLUMNS, 2.5 * ROWS), layout="constrained")
    for axis, image, caption in zip(axes.flat, data.images, data.captions, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel("\n".join(textwrap.wrap(caption, 26)), fontsize=8)
    figure.savefig(Path(__file__).parent / "scenes.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
