"""What a control network tells a pipeline's network, made anew for rows that the pipeline did not ask it for.

A pipeline calls its control network before its network, with the same samples and the same text, and passes the answers
on. A guidance asks for more: other prompts, which the control network reads too, and other samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.call_arguments import block, leaves, nested_again, picked, row_count
from fairlead.diffusers.guiding.pattern import Pattern
from fairlead.diffusers.guiding.recorder import Path, RecordedCall

_WHOLE: frozenset[Path] = frozenset()


class ControlCall:
    """The last call of a pipeline's control network, and the answer to it.

    Args:
        call: as the pipeline made it.
        answer: what the network returned.
        pattern: of the pipeline's calls.
        texts: kind of a condition -> arguments in the place of those of ``call``.
    """

    def __init__(
        self, call: RecordedCall, answer: Any, pattern: Pattern, texts: Mapping[int, Mapping[Path, Any]]
    ) -> None:
        self.call, self.pattern, self.texts = call, pattern, texts
        self._answers = list(_tensors(answer))

    def places(self, arguments: Mapping[Path, Any]) -> dict[Path, int]:
        """Argument of the pipeline's network, of the rows of the conditional prediction -> which answer it is."""
        found: dict[Path, int] = {}
        taken: set[int] = set()
        own = [self._rows(value, self.pattern.own_at) for value in self._answers]
        for path, value in arguments.items():
            if isinstance(value, Tensor) and value.ndim:
                place = next((j for j, part in enumerate(own) if j not in taken and _equal(part, value)), None)
                if place is not None:
                    found[path] = place
                    taken.add(place)
        return found

    def sees_null(self) -> bool:
        """Whether it is called for the null rows too, where the pipeline's batch has some (not so in guess mode)."""
        return self.pattern.count == 1 or self.call.rows != self.pattern.n

    def answers(self, kind: int, place: int, samples: Sequence[int], x: Tensor) -> list[Tensor]:
        """What the control network returns for these samples at ``x`` [rows, ...].

        Args:
            kind: of their condition.
            place: of the rows of that in the pipeline's batch.

        Raises:
            UsageError: where it takes its samples in another form than the network.
        """
        n, sample = self.pattern.n, (self.call.sample,)
        flat = {p: self._rows(v, place) for p, v in leaves(self.call.arguments, _WHOLE).items()}
        flat |= self.texts.get(kind, {})
        if not isinstance(flat[sample], Tensor) or flat[sample].shape[1:] != x.shape[1:]:
            raise UsageError(
                f"{type(self.call.network).__name__} takes its samples in another form than the network that it "
                "controls, so it cannot be evaluated for other prompts or samples; use cfg, and "
                "negative_prompt in the call"
            )
        flat = {p: picked(v, samples, n) if row_count(v) == n else v for p, v in flat.items()}
        flat[sample] = x.to(flat[sample].dtype)
        arguments = nested_again(self.call.arguments, _WHOLE, flat)
        if self.call.as_tuple:
            arguments["return_dict"] = False
        return list(_tensors(self.call.network(**arguments)))

    def _rows(self, value: Any, place: int) -> Any:
        """Those of one prediction, of what has rows for all."""
        n, count = self.pattern.n, self.pattern.count
        return block(value, place, count) if count > 1 and row_count(value) == count * n else value


def _tensors(answer: Any) -> Iterator[Tensor]:
    """All tensors of an answer, in order."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        for part in answer.values():
            yield from _tensors(part)
    elif isinstance(answer, list | tuple):
        for part in answer:
            yield from _tensors(part)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.dtype), b)
