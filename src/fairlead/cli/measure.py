"""``fairlead measure``"""

from __future__ import annotations

import json
import math
import shlex
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.places import check_file, check_folder
from fairlead.core.progress import Bar, working
from fairlead.core.registry import names
from fairlead.core.signals import unbroken

if TYPE_CHECKING:
    from fairlead.measure.comparison import Comparison
    from fairlead.measure.extractors import Extractor
    from fairlead.measure.folders import ImageSet


@dataclass(frozen=True)
class Measure:
    """Compare two folders of images: how far are the fakes from the real ones, and is it more than chance?

    Prints distance, precision, recall and variety of FAKE with error bars, the same for real images as far as they are
    from each other, and what can be concluded. With one sub-folder a class in both also the accuracy of a judge.

    Example: fairlead measure real-images generated-images --out measured
    """

    real: Annotated[str, tyro.conf.Positional]
    """A folder of images, flat or with a sub-folder a class; or data as in train, with @test for that split."""
    fake: Annotated[str, tyro.conf.Positional]
    """The images to be measured, likewise."""
    features: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"{', '.join(names('extractor'))}; dinov2:PATH, clip:PATH, classifier:DATA. By default dinov2 where "
            "its weights can be had, else random."
        ),
    ] = None
    metrics: tuple[str, ...] = ()
    """Some of distance, kid, cmmd, precision, recall, density, coverage, vendi, accuracy, inception_style; by default
    all that apply."""
    prompts: Path | None = None
    """JSON lines or CSV with a file name and a prompt for each image of FAKE: how well they fit, by CLIP."""
    clip: str | None = None
    """The CLIP for --prompts: clip:PATH; by default that of --features, or clip."""
    k: int = 5
    """Which neighbour makes a neighbourhood, for precision, recall, density and coverage."""
    resize: int | None = None
    """Bring every image to this size first: shorter side resized, centre cropped."""
    out: Path | None = None
    """Folder for measure.html (pictures, all numbers) and measure.json; earlier ones are replaced."""
    json: Path | None = None
    """Write the numbers and their protocol to this file."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.measure.comparison import CHOICES

        self._check(CHOICES)
        with nullcontext() if self.out is None else Hold(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.measure.compare import compare
        from fairlead.measure.folders import read_images
        from fairlead.measure.prompts import read_prompts

        with working("reading the images"):
            real = read_images(self.real, self.resize, "REAL")
            fake = read_images(self.fake, self.resize, "FAKE")
        prompts = [] if self.prompts is None else read_prompts(self.prompts, fake.files)
        with working("loading the network of the features"):
            extractor, why = self._extractor()
            clip = self._clip(extractor)
        bars = _Bars()
        try:
            found = compare(
                real,
                fake,
                extractor,
                metrics=self.metrics,
                k=self.k,
                resize=self.resize,
                prompts=prompts,
                clip=clip,
                progress=bars,
            )
        finally:
            bars.close()
        self._print(found, why)
        self._write(found, real, fake)

    def _check(self, choices: tuple[str, ...]) -> None:
        """What can be said before anything is read."""
        from fairlead.core.errors import unknown

        for name in self.metrics:
            if name not in choices:
                raise unknown("metric", name, choices)
        if self.k < 1:
            raise UsageError(f"--k: expected at least 1, got {self.k}")
        if self.clip is not None and self.prompts is None:
            raise UsageError(
                "--clip is for --prompts, which are not given; for clip features pass --features clip:PATH"
            )
        if self.clip is not None and self.clip.partition(":")[0] != "clip":
            raise UsageError(f"--clip: expected clip or clip:PATH, got {self.clip!r}")
        if self.out is not None:
            check_folder(self.out, files=["measure.json", "measure.html"])
        if self.json is not None:
            check_file(self.json, "choose another --json")

    def _extractor(self) -> tuple[Extractor, str]:
        from fairlead.measure.extractors import default_extractor, extractor

        if self.features is None:
            return default_extractor(self.device)
        made = extractor(self.features, device=self.device)
        return made, f"features: {made.name}"

    def _clip(self, given: Extractor) -> Extractor | None:
        from fairlead.measure.extractors import extractor

        if self.prompts is None or (self.clip is None and given.kind == "clip"):
            return None
        return extractor(self.clip or "clip", device=self.device)

    def _print(self, found: Comparison, why: str) -> None:
        from fairlead.report.columns import WIDTH
        from fairlead.report.measure import as_lines, class_table, findings, measure_table

        def say(text: str, lead: str = "") -> None:
            print(textwrap.fill(lead + text, WIDTH, subsequent_indent="  " if lead else ""))

        say(why)
        print("\n" + "\n".join(as_lines(*measure_table(found))) + "\n")
        if found.classes:
            print("\n".join(as_lines(*class_table(found))) + "\n")
        for sentence in findings(found):
            say(sentence)
        for name, reason in found.missing.items():
            say(reason, f"no {name}: ")
        for warning in found.warnings:
            say(warning, "mind: ")

    def _write(self, found: Comparison, real: ImageSet, fake: ImageSet) -> None:
        from fairlead.core.files import replacing
        from fairlead.report.measure import findings, measure_page

        command = f"fairlead {shlex.join(sys.argv[1:])}"
        text = json.dumps(_plain({**found.as_dict(), "findings": findings(found), "command": command}), indent=1)
        paths = [path for path in (self.json, self.out and self.out / "measure.json") if path is not None]
        page = None if self.out is None else self.out / "measure.html"
        path = page
        try:
            with unbroken():
                for path in paths:
                    with replacing(path) as partial:
                        partial.write_text(text + "\n")
                if page is not None:
                    path = page
                    with working("writing the report"):
                        measure_page(path, found, real, fake, command)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}") from error
        if page is not None:
            print(f"report: {page}")


class _Bars:
    """A progress bar for the kind of work that goes on."""

    def __init__(self) -> None:
        self.kind = ""
        self.bar: Bar | None = None

    def __call__(self, kind: str, count: int) -> None:
        if kind != self.kind:
            self.close()
            title, unit = ("features", "image") if kind == "features" else ("training the judge", "step")
            self.kind, self.bar = kind, Bar(None, unit, title)
        assert self.bar is not None
        self.bar.update(count)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _plain(value: Any) -> Any:
    """JSON has no nan: None."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
