"""``fl.reward_of``: what a reward gives the images of one folder."""

from __future__ import annotations

import json as json_text
from pathlib import Path

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.places import check_file
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.guide.rewards.reward import Fn, Reward
from fairlead.measure.comparison import read_prompts
from fairlead.measure.image_sets import read_images
from fairlead.measure.rewards.image_reward import RewardedImages, images_rewarded
from fairlead.models.load import usable_device


def reward_of(
    images: str | Path,
    reward: Reward | Fn | str,
    *,
    prompts: str | Path | None = None,
    resize: int | None = None,
    json: str | Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
    command: str = "",
) -> RewardedImages:
    """What a reward gives a set of images: its mean with an error, and the value of each image.

    Args:
        images: a folder or a data set, as in ``fl.measure``. The conditions of a folder that ``fairlead sample`` wrote,
            and names of sub-folders, are what rewards of the condition read.
        reward: an expression such as 'judged("seven", data="digits")', an object, or a function (x0, t, condition) ->
            [n] that sees images in [-1, 1].
        prompts: JSON lines or CSV with a file name and a prompt for each image, in the place of these conditions.
        resize: bring every image to this size first.
        json: file for the mean, the value of each image, and what was measured.
        command: said in the file as what made it.

    Raises:
        UsageError: for images that cannot be read, what is no reward, or one that does not suit them.
    """
    file = None if json is None else Path(json)
    if file is not None:
        check_file(file, "choose another file")
    with progress("reading the images"):
        given = read_images(str(images), resize)
    asked = [] if prompts is None else read_prompts(Path(prompts), given.files)
    with progress("the reward of the images"):
        found = images_rewarded(given, reward, usable_device(device), asked)
    if file is not None:
        try:
            with unbroken(), replacing(file) as partial:
                partial.write_text(json_text.dumps({**found.as_dict(), "command": command}, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error}") from error
    return found
