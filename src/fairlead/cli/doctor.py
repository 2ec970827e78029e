"""``fairlead doctor``"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.places import check_file
from fairlead.core.progress import working
from fairlead.core.registry import names


@dataclass(frozen=True)
class Doctor:
    """Examine a model, and a guidance on it: plain answers, each PASS, WARN or FAIL with its numbers.

    condition: does the output depend on it?  null: was the null token trained?  labels: is every class embedding
    trained, and its own?  guidance: does it do anything, and if not, why?  schedule: does it suit the objective and the
    sampler's grid?  network: are the weights finite, is nothing random active?  weights: does the average lag behind?

    Exit code 1 if any answer is FAIL, else 0; wrong options are 2.

    Example: fairlead doctor runs/digits --guidance "cfg(3).during(sigma=(0.3, 2))"
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    guidance: str = "none"
    """An expression to examine on this model; four images are sampled with it."""
    cond: str | None = None
    """Class name, index or prompt of these images; by default the first four classes or examples."""
    sampler: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    data: str | None = None
    """Where real images are, if not where they were in training; without any, samples of the model take their place."""
    json: Path | None = None
    """Also write the findings with all their numbers to this file."""
    weights: str = "ema"
    """ema (averaged) or raw (as trained)."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> int:
        from fairlead.core.files import replacing
        from fairlead.data.hub import load_data
        from fairlead.measure.doctor import doctor
        from fairlead.models.load import is_pipeline, load
        from fairlead.report.columns import WIDTH

        if self.json is not None:
            check_file(self.json, "choose another --json")
        with working(f"loading {self.model}"):
            model = load(self.model, self.weights, self.device)  # type: ignore[arg-type]
        size = model.image_shape[-1] if is_pipeline(self.model) else None
        data = None if self.data is None else load_data(self.data, split="test", size=size)
        with working("examining"):
            findings = doctor(
                model,
                self.guidance,
                cond=self.cond,
                data=data,
                sampler=self.sampler,
                steps=self.steps,
                grid=self.grid,
            )
        for finding in findings:
            print(textwrap.fill(str(finding), WIDTH, subsequent_indent="      "))
        if self.json is not None:
            try:
                with replacing(self.json) as partial:
                    partial.write_text(json.dumps([vars(finding) for finding in findings], indent=1))
            except OSError as error:
                raise UsageError(f"cannot write {self.json}: {error}") from error
        return int(any(finding.level == "FAIL" for finding in findings))
