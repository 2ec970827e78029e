"""Attaching a guidance to diffusers' pipelines: what it does to each class, and with ``--time`` what it costs a step.

    python -m benchmarks.attach         # a row for every class, written to docs/results/pipelines.md
    python -m benchmarks.attach --time  # the time of a step beside the pipeline's own, for every pattern of calls

The pipelines are small and random; ``tests/small_pipelines`` makes them.
"""

from __future__ import annotations

import platform
import re
import textwrap
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
import transformers
import tyro
from tests.small_pipelines.measure import APG, COMPOSED, SKIPPED, Measured, measured
from tests.small_pipelines.table import SMALL

from benchmarks import attach_times

PAGE = Path(__file__).parent.parent / "docs" / "results" / "pipelines.md"
EQUAL = 1e-4


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark.

    Attributes:
        only: classes whose name has this regular expression in it; the page is then printed, not written.
        time: measure times instead.
        times: how.
    """

    only: str = ""
    time: bool = False
    times: attach_times.Options = field(default_factory=attach_times.Options)


def equal(found: Measured) -> str:
    if found.apart is None:
        return short(found.attached)
    return f"{found.apart:.0e}" if found.apart < EQUAL else f"**{found.apart:.0e}**"


def short(answer: str) -> str:
    """Whether it works, or the first clause of the reason."""
    reason = re.split(r"; | \(| so | for this network", answer)[0].strip(" ,")
    return reason if len(reason) <= 130 else textwrap.shorten(reason, 130, placeholder=" ...")


def page(rows: dict[str, Measured], seconds: float) -> str:
    """The table, and above it what it says in numbers."""
    met = [found for found in rows.values() if found.apart is not None]
    patterns = Counter(found.pattern for found in rows.values())
    counts = ", ".join(f"{pattern} {n}" for pattern, n in patterns.most_common())
    worked = {
        name: sum(getattr(found, name) == "works" for found in rows.values())
        for name in ("composed", "apg", "skipped", "load")
    }
    machine = f"{platform.machine()}, one core, torch {torch.__version__}, transformers {transformers.__version__}"
    same = sum(found.apart < EQUAL for found in met if found.apart is not None)
    kept = sum(found.same for found in rows.values())
    lines = [
        "# Guidance on every class of pipelines",
        "",
        f"What `fl.attach` does to a small random pipeline of each class of diffusers "
        f"{diffusers.__version__} that guides",
        "by itself and can be made without a hub: two steps, one sample, fixed seeds.",
        f"`python -m benchmarks.attach` wrote this page in {seconds:.0f} s ({machine}).",
        "",
        f"- {len(rows)} pipelines; {len(met)} are guided, {same} of them equal to their own "
        f"guidance within {EQUAL:.0e}",
        f"  of the largest value; {kept} are after the blocks what they were, to the bit and the attribute.",
        f"- `{COMPOSED}` works on {worked['composed']},",
        f"  `{APG}` on {worked['apg']}, `{SKIPPED}` on {worked['skipped']}, `fl.load` with two steps of",
        f"  `fl.sample` on {worked['load']}; the others refuse it in one line.",
        f"- Calls of a step: {counts}.",
        "",
        "*own* is how far attached `cfg(5)` is from the pipeline's own guidance at a scale of 5 (4 where its scale is",
        "ours minus 1; `pag_scale=0` on PAG pipelines), *guides* how far its own answer moves when that scale is 2",
        f"instead. *composed* is `{COMPOSED}`, with four steps.",
        "",
        "| pipeline | calls of a step | guides | own | composed | `apg(cfg(5))` | `cfg(5) + slg(1)` | `fl.load` |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in sorted(rows.items()):
        cells = [
            name.replace("Pipeline", ""), found.pattern, f"{found.guides:.0e}", equal(found), short(found.composed),
            short(found.apg), short(found.skipped), short(found.load),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    if options.time:
        attach_times.main(options.times)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    started, rows, failed = time.perf_counter(), {}, []
    for name in SMALL:
        if re.search(options.only, name):
            try:
                rows[name] = measured(name)
            except Exception as error:  # nothing measured is lost
                failed.append(f"{name}: {type(error).__name__}: {error}")
                print(failed[-1], flush=True)
                continue
            answers = (getattr(rows[name], what) for what in ("composed", "apg", "skipped", "load"))
            print(
                f"{name}: {rows[name].pattern}, {equal(rows[name])}, {[short(answer) for answer in answers]}",
                flush=True,
            )
    text = page(rows, time.perf_counter() - started)
    if options.only:
        print(text)
    else:
        PAGE.write_text(text)
        print(PAGE)
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
