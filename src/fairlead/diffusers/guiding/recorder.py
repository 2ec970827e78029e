"""Network calls of a pipeline as it made them, and the answers to them while it is rehearsed."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fairlead.diffusers.perturbation import inner_network

Path = tuple[str | int, ...]
CONTROL = "controlnet"
"""The component that is a control network, which a pipeline calls before its own and whose answers it passes on."""


class LastStep(BaseException):
    """Ends a rehearsal at a scheduler step; no handler of the pipeline's own catches it."""


@dataclass(eq=False)
class RecordedCall:
    """A call of a network as the pipeline made it.

    Attributes:
        name: of the component.
        sample: name of the argument with the noisy samples.
        arguments: all that were passed, by name, but ``return_dict``.
        as_tuple: whether the answer was asked for as a tuple.
    """

    name: str
    network: Any
    sample: str
    arguments: dict[str, Any]
    as_tuple: bool

    @classmethod
    def of(cls, name: str, network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RecordedCall:
        kind: Any = type(inner_network(network))
        parameters = _parameters(kind)
        named = dict(zip(parameters, args, strict=False)) | dict(kwargs)
        as_tuple = not named.pop("return_dict", True)
        return cls(name, network, parameters[0], _copied(named), as_tuple)

    @property
    def x(self) -> Any:
        """The noisy samples: a tensor, or a list with one for each."""
        return self.arguments[self.sample]

    @property
    def rows(self) -> int:
        return len(self.x)


def _copied(value: Any) -> Any:
    """Nested arguments as they are now: pipelines write into those of an earlier call."""
    if type(value) is dict:
        return {name: _copied(part) for name, part in value.items()}
    return [_copied(part) for part in value] if type(value) is list else value


@lru_cache(maxsize=64)
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@dataclass(eq=False)
class Rehearsal:
    """The first steps of a pipeline.

    Attributes:
        calls: of its network, in order.
        ends: how many of them had been made when each step ended.
        answer: what the first of them returned.
        output: what reached the scheduler last.
        sample: the samples that the scheduler was to step then.
        scheduler: the name of that scheduler.
        made: the made-up answers, one for each block of rows, in order.
        controls: calls of its control network, in order.
    """

    calls: list[RecordedCall] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    answer: Any = None
    output: Any = None
    sample: Any = None
    scheduler: str = ""
    made: list[Any] = field(default_factory=list)
    controls: list[RecordedCall] = field(default_factory=list)


class Recorder:
    """Answers a pipeline's network calls in a rehearsal.

    Args:
        template: the answer to a call at guidance off, of ``rows`` rows; None: the network is asked, once.
        answers: what networks have answered before, by the shape of what they were asked; these are not asked again,
            nor for half as many rows.
    """

    def __init__(self, template: Any = None, rows: int = 0, answers: dict[Hashable, Any] | None = None) -> None:
        self.found = Rehearsal(answer=template)
        self.rows, self.answers = rows, {} if answers is None else answers

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        call = RecordedCall.of(name, network, args, kwargs)
        if name == CONTROL:
            self.found.controls.append(call)
            return self._known(call, args, kwargs)
        self.found.calls.append(call)
        if self.found.answer is None:
            self.found.answer, self.rows = self._known(call, args, kwargs), call.rows
            if not answers_alone(self.found.answer):
                raise LastStep
            return self.found.answer
        blocks = max(1, call.rows // max(1, self.rows))
        output, made = output_of(self.found.answer), self.found.made
        made += [_made_up(output, len(made) + j) for j in range(blocks)]
        return with_output(self.found.answer, _together(made[-blocks:]), call)

    def _known(self, call: RecordedCall, args: Any, kwargs: Any) -> Any:
        key = id(call.network), call.as_tuple, _shapes(call.x)
        if key in self.answers:
            return self.answers[key]
        doubled = *key[:2], _shapes(call.x * 2 if isinstance(call.x, list) else torch.cat([call.x] * 2))
        both = self.answers.get(doubled)
        output = output_of(both) if both is not None and answers_alone(both) else ()
        if len(output) == 2 * call.rows:
            self.answers[key] = with_output(both, output[: call.rows], call)
        else:
            with torch.no_grad():
                self.answers[key] = call.network.forward(*args, **kwargs)
        return self.answers[key]


def _shapes(x: Any) -> Hashable:
    return tuple(_shapes(part) for part in x) if isinstance(x, list) else (x.shape, x.dtype, str(x.device))


def _made_up(output: Any, seed: int) -> Any:
    """Another answer of the same form, for a block of rows of its own."""
    if isinstance(output, list):
        return [_made_up(value, seed) for value in output]
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    return output + noise * output.float().std().clamp(min=1e-3).to(output) if output.numel() > 1 else output + noise


def output_of(answer: Any) -> Any:
    """The output of a network's answer: a tensor, or a list of tensors with one for each sample."""
    if isinstance(answer, Tensor):
        return answer
    return answer[0]


def answers_alone(answer: Any) -> bool:
    """Whether a network's answer is one tensor, or one list of them, and nothing beside."""
    if isinstance(answer, Tensor):
        return True
    if not isinstance(answer, tuple) and not hasattr(answer, "keys"):
        return False
    values = list(answer) if isinstance(answer, tuple) else list(answer.values())
    output = values[0] if values else None
    alone = all(v is None for v in values[1:])
    listed = isinstance(output, list) and bool(output) and all(isinstance(v, Tensor) for v in output)
    return alone and (isinstance(output, Tensor) or listed)


def with_output(answer: Any, output: Any, call: RecordedCall) -> Any:
    """An output in the form of the network's own answer."""
    if isinstance(answer, Tensor):
        return output
    if isinstance(answer, tuple) or call.as_tuple:
        return (output, *(answer[1:] if isinstance(answer, tuple) else ()))
    return type(answer)(**{next(iter(answer.keys())): output})


def _together(parts: Sequence[Any]) -> Any:
    return [value for part in parts for value in part] if isinstance(parts[0], list) else torch.cat(list(parts))
