"""How samples are made, whatever they show: sampler, steps, time grid, batches, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fairlead.core.arguments import chosen, is_count, plain, shown
from fairlead.core.errors import UsageError
from fairlead.guide.batching import Batching
from fairlead.sample.grids import check_grid
from fairlead.sample.sampler import Sampler, parse_sampler

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, init=False)
class Sampling:
    """Settings of a run, checked when they are put together.

    Attributes:
        sampler: an object; given as text too, such as "ddim(eta=0.5)".
        steps: of the sampler, at least 1; the grid refuses more than the schedule's table has.
        grid: name of the time grid, or "sigmas(3.4, 1.5, 0.2)".
        batch_size: samples denoised together; does not change the result beyond rounding.
        precision: "bf16" autocasts the network.
        batching: how branches share network calls, see ``GuidedDenoiser``.
        compile: networks trained here run compiled, see :mod:`fairlead.nets.compiling`.

    Raises:
        UsageError: for a name that is not known, or a number that is no count.
    """

    sampler: Sampler
    steps: int
    grid: str
    batch_size: int
    precision: Precision
    batching: Batching
    compile: bool

    def __init__(
        self,
        sampler: Sampler | str = "ddim",
        steps: int = 20,
        grid: str = "trailing",
        batch_size: int = 64,
        precision: Precision = "fp32",
        batching: Batching = "auto",
        compile: bool = False,
    ) -> None:
        steps, batch_size = plain(steps), plain(batch_size)
        if not is_count(batch_size):
            raise UsageError(f"batch_size: expected an integer of at least 1, got {shown(batch_size)}")
        if not is_count(steps):
            raise UsageError(f"steps {shown(steps)}: expected an integer of at least 1")
        chosen("precision", precision, get_args(Precision))
        chosen("batching", batching, get_args(Batching))
        if not isinstance(compile, bool):
            raise UsageError(f"compile: expected True or False, got {shown(compile)}")
        sampler = parse_sampler(sampler) if isinstance(sampler, str) else sampler
        if not isinstance(sampler, Sampler):
            raise UsageError(
                f"sampler: expected an expression such as 'ddim' or a sampler object, got {shown(sampler)}"
            )
        check_grid(grid, steps)
        for name, value in (
            ("sampler", sampler),
            ("steps", steps),
            ("grid", grid),
            ("batch_size", batch_size),
            ("precision", precision),
            ("batching", batching),
            ("compile", compile),
        ):
            object.__setattr__(self, name, value)

    def described(self) -> dict[str, str | int]:
        """What decides the samples, JSON-ready."""
        return {
            **({"compile": True} if self.compile else {}),
            "sampler": str(self.sampler),
            "steps": self.steps,
            "grid": self.grid,
            "precision": self.precision,
        }
