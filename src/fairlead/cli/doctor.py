"""``fairlead doctor``"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.cli.typed_options import GridText, SamplerText
from fairlead.core.progress import bars


@dataclass(frozen=True)
class Doctor:
    """Examine a model and a guidance: every finding is PASS, WARN or FAIL, with its numbers.

    condition: does the output depend on it?  null: was the null token trained?  labels: is every class embedding
    trained and distinct?  guidance: does it have an effect, and if not, why?  schedule: does it suit the objective and
    the sampler's grid?  network: are the weights finite, are random layers off?  weights: does the average lag?
    teacher: how far is a student from its teacher's predictions, by noise level?

    The exit code is 1 if any finding is FAIL, else 0; 2 for wrong options.

    Example: fairlead doctor runs/digits --guidance "cfg(3).during(sigma=(0.3, 2))"
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    guidance: str = "none"
    """An expression to examine on this model; four images are sampled with it."""
    cond: str | None = None
    """Class name, index or prompt of these images; by default the first four classes or examples."""
    sampler: SamplerText = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: GridText = "trailing"
    data: str | None = None
    """Where real images are, if not where they were in training; without real images, samples of the model are used."""
    json: Path | None = None
    """Also write the findings with all their numbers to this file."""
    weights: str = "ema"
    """ema (averaged), raw (as trained), or ema:0.08, see `fairlead sample`."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> int:
        from fairlead.measure.examination import doctor
        from fairlead.report.text_table import WIDTH

        findings = doctor(**vars(self), progress=bars)
        for finding in findings:
            print(textwrap.fill(str(finding), WIDTH, subsequent_indent="      "))
        return int(any(finding.level == "FAIL" for finding in findings))
