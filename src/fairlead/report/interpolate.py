"""An interpolation as a strip of pictures and as columns of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairlead.measure.estimate import Estimate
from fairlead.measure.interpolate import Interpolation
from fairlead.report.columns import in_columns
from fairlead.report.grids import image_grid


def strip(found: Interpolation, provenance: Mapping[str, str] | None = None) -> bytes:
    """PNG: a row a seed, a column a frame."""
    first, last = (str(end) for end in found.ends)
    middle = [f"{100 * weight:.3g} %" for weight in found.weights[1:-1]]
    settings = found.run.settings
    return image_grid(
        found.images,
        row_labels=[str(seed) for seed in found.run.seeds[:: found.frames]],
        col_labels=[first, *middle, last],
        title=f"{first} to {last}, {settings['guidance']}, {settings['sampler']}, {settings['steps']} steps",
        provenance=provenance,
    )


def table(found: Interpolation, shares: Mapping[str, Sequence[Estimate]]) -> list[str]:
    """A line a frame: the share of the second end, and what the judge sees."""
    columns = [(f"share of {found.ends[1]}", [f"{weight:.3g}" for weight in found.weights])]
    columns += [(f"seen as {name}", [f"{100 * share.value:.0f} %" for share in row]) for name, row in shares.items()]
    return in_columns(columns)
