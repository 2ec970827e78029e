"""``fairlead train``"""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.train.denoiser_options import DenoiserOptions
from fairlead.train.options import DataName, OutFolder


@dataclass(frozen=True)
class Train(DenoiserOptions):
    """Train a conditional model with condition dropout.

    A recipe sets the data, the network and all settings; every option overrides one of them. Ctrl-C or SIGTERM saves a
    checkpoint and stops; the same command with --resume continues to the same bits as an uninterrupted run.

    Example: fairlead train --recipe digits --out runs/digits
    """

    out: OutFolder
    data: DataName = None

    def run(self) -> None:
        from fairlead.report.training import denoiser_trained

        denoiser_trained(self)
