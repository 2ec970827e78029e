"""What the text encoders of a pipeline have answered, so that rehearsals and the call itself encode a prompt once."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.diffusers.guiding.stand_in import PipelineCall, behind

_REMEMBERED = 64


def encoders_of(pipe: Any) -> tuple[str, ...]:
    """Names of the components of a pipeline that encode its prompts."""
    parts = pipe.components.items()
    return tuple(n for n, part in parts if n.startswith("text_encoder") and isinstance(behind(part), nn.Module))


class EncoderMemory:
    """Answers of the text encoders of one pipeline, by everything that they were called with."""

    def __init__(self, pipe: Any) -> None:
        self.names = encoders_of(pipe)
        self._answers: dict[Hashable, Any] = {}
        self._hooks = {key for name in self.names for key in _hooks(behind(getattr(pipe, name)))}

    def around(self, run: PipelineCall) -> PipelineCall:
        """``run``, but that encoders answer from memory."""
        return _Remembering(self, run)

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        """What the encoder returns; it is called for what it was not called with before."""
        hooked = not _hooks(network) <= self._hooks  # the pipeline has just put one in, to read what a layer returns
        key = None if network.training or hooked else _key((name, args, kwargs))
        if key is None:
            return network(*args, **kwargs)
        if key not in self._answers:
            if len(self._answers) >= _REMEMBERED:
                self._answers.pop(next(iter(self._answers)))
            self._answers[key] = network(*args, **kwargs)
        return copy.deepcopy(self._answers[key])  # pipelines may write into what they are given


def _hooks(network: Any) -> set[int]:
    """Keys of the forward hooks in a network, which torch makes unique."""
    return {key for part in network.modules() for key in part._forward_hooks}


class _Remembering:
    def __init__(self, memory: EncoderMemory, run: PipelineCall) -> None:
        self.memory, self.run = memory, run

    def answer(self, name: str, network: Any, *args: Any, **kwargs: Any) -> Any:
        answers: PipelineCall = self.memory if name in self.memory.names else self.run
        return answers.answer(name, network, *args, **kwargs)


def _key(value: Any) -> Hashable | None:
    """A key of the contents of nested arguments; None where something has no such key."""
    if isinstance(value, Tensor):
        if value.requires_grad or value.device.type == "meta":
            return None
        plain = value.detach().to("cpu").contiguous()
        return (
            str(value.device),
            str(value.dtype),
            tuple(value.shape),
            plain.flatten().view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, Mapping):
        value = [(str(name), part) for name, part in sorted(value.items())]
    if isinstance(value, list | tuple):
        keys = [_key(part) for part in value]
        return None if any(key is None for key in keys) else tuple(keys)
    return ("is", repr(value)) if isinstance(value, str | int | float | bool | None) else None
