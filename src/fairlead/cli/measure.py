"""``fairlead measure``"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fairlead.cli.typed_options import as_given
from fairlead.core.errors import UsageError
from fairlead.core.progress import bars
from fairlead.core.registry import names


@dataclass(frozen=True)
class Measure:
    """Compare two folders of images: how far are the fakes from the real ones, and is the difference significant? Or
    measure a reward of the images of one folder.

    Prints distance, precision, recall and variety of FAKE with error bars, beside the noise floor: the scores that
    held-out real images get under the same protocol. Then it states what can be concluded. If both folders have one
    sub-folder per class, the accuracy of a judge is measured too.

    Example: fairlead measure real-images generated-images --out measured
    """

    real: Annotated[str, tyro.conf.Positional]
    """A folder of images, flat or with one sub-folder per class; or data as in train, with @test for that split."""
    fake: Annotated[str | None, tyro.conf.Positional] = None
    """The images to be measured, given in the same way; without it --reward of the first folder is measured alone."""
    features: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"{', '.join(names('extractor'))}; dinov2:PATH, clip:PATH, classifier:DATA. By default dinov2 if "
            "its weights are cached or can be downloaded, else random."
        ),
    ] = None
    metrics: tuple[str, ...] = ()
    """Some of distance, kid, cmmd, precision, recall, density, coverage, vendi, accuracy, inception_style; by default
    all that apply."""
    prompts: Path | None = None
    """JSON lines or CSV with a file name and a prompt for each image of FAKE; measures how well they fit, by CLIP."""
    clip: str | None = None
    """The network that embeds --prompts: clip:PATH or other features that embed text; by default --features if they
    embed text, else clip."""
    judge: Literal["quick", "thorough"] = "quick"
    """Judge of accuracy: quick, trained in half a minute; thorough, for photographs, in half an hour of a core."""
    reward: str | None = None
    """A reward of each image, as for particles, e.g. 'judged("seven", data="digits")': its mean and the error."""
    k: int = 5
    """Number of neighbours that define a neighbourhood, for precision, recall, density and coverage."""
    resize: int | None = None
    """Resize every image to this size first: shorter side resized, centre cropped."""
    out: Path | None = None
    """Folder for measure.html (pictures, all numbers) and measure.json; earlier ones are replaced."""
    json: Path | None = None
    """Write the numbers and their protocol to this file."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        if self.fake is None:
            from fairlead.measure.rewards.folder_reward import reward_of

            reward = self._alone()
            given = {name: getattr(self, name) for name in ("prompts", "resize", "json", "device")}
            print(reward_of(self.real, reward, **given, progress=bars, command=as_given()))
            return
        from fairlead.report.comparisons import comparison_text, measure

        found = measure(**vars(self), progress=bars, command=as_given())
        print(f"features: {found.protocol.features}\n\n{comparison_text(found)}")
        if self.out is not None:
            print(f"report: {self.out / 'measure.html'}")

    def _alone(self) -> str:
        """The reward of a single folder.

        Raises:
            UsageError: without one, or for what only the comparison of two folders takes.
        """
        if self.reward is None:
            raise UsageError("measure: expected two folders of images, REAL and FAKE, or one and --reward; got one")
        for field in fields(self):
            if (
                field.name in ("features", "metrics", "clip", "judge", "k", "out")
                and getattr(self, field.name) != field.default
            ):
                raise UsageError(
                    f"measure: --{field.name} is for the comparison of two folders, and one is given; leave it out"
                )
        return self.reward
