"""Text encoders behind one small interface: prompts -> the value of the condition "text".

A spec names one: ``words`` (token ids for a small encoder inside the network), ``clip:SOURCE``,
``t5:SOURCE``, ``sd3:SOURCE``, ``sentence:SOURCE`` (pretrained ones through `transformers`; SOURCE is a folder or a hub
name).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.core.places import place_of
from fairlead.core.registry import lookup, names
from fairlead.core.typed import check_arguments


class TextEncoder(Protocol):
    """A prompt of up to ``length`` tokens -> one row of the condition "text"."""

    @property
    def length(self) -> int:
        """Tokens a prompt may have, start and end tokens included."""
        ...

    @property
    def width(self) -> int:
        """Of the token states."""
        ...

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Token ids int64 [n, length], or states float32 [n, 1 + length, width + 1] as in
        :mod:`fairlead.nets.packed_text`.

        Raises:
            UsageError: for a prompt that is too long, naming the words that would be lost, or that has unknown words.
        """
        ...

    def config(self) -> dict[str, Any]:
        """JSON-ready; :func:`encoder_from_config` makes the encoder again from it."""
        ...

    def net(self) -> dict[str, Any]:
        """Arguments of the ``TextInput`` of a network that reads its values."""
        ...


def make_encoder(spec: str, captions: Sequence[str] = (), **settings: Any) -> TextEncoder:
    """The encoder that a spec names.

    Args:
        captions: of the training data, for encoders that take their vocabulary from it.
        settings: of the encoder, e.g. ``windows``.

    Raises:
        UsageError: for an unknown name or setting, a source that cannot be had or that is not one.
    """
    name, _, source = spec.partition(":")
    if name not in names("text"):
        raise unknown("text encoder", name, names("text"))
    kind = lookup("text", name)
    if name == "words":
        other = set(settings) - {"read", "sketch", "rule"}
        if source or other:
            what = f"no {sorted(other)[0]}" if other else "no source"
            raise UsageError(f"text encoder {spec!r}: 'words' takes its vocabulary from the captions, and {what}")
        made: TextEncoder = kind.of(captions, **settings)
        return made
    if not source:
        raise UsageError(f"text encoder {spec!r}: expected a source, {name}:FOLDER or {name}:OWNER/NAME of the hub")
    if "read" in settings:
        raise UsageError(f"text encoder {spec!r}: it can read already; leave out its steps of reading")
    settings.pop("rule", None)  # of words
    if "sketch" in settings:
        raise UsageError(f"text encoder {spec!r}: only 'words' has a sketch; leave out its steps")
    made = kind(source, **settings)
    return made


def encoder_from_config(config: Mapping[str, Any], near: Path | None = None) -> TextEncoder:
    """The encoder of a checkpoint.

    Args:
        near: a source that is not there is looked for in the folders above this one, see ``place_of``.

    Raises:
        UsageError: if it is of an unknown kind, or its source cannot be had, or has other weights than in training; for
            settings that it does not have.
    """
    check_encoder(config)
    arguments = dict(config)
    name = arguments.pop("name")
    if near is not None and isinstance(arguments.get("source"), str):
        arguments["source"] = place_of(arguments["source"], near)
    made: TextEncoder = lookup("text", name)(**arguments)
    return made


def check_encoder(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that no encoder has; nothing is loaded.

    Raises:
        UsageError: for an unknown kind, and for settings that it does not have.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in names("text"):
        raise unknown("text encoder", name, names("text"))
    check_arguments(lookup("text", name), arguments, f"text encoder {name!r}")


def word_list(words: Sequence[str], most: int = 8) -> str:
    """Words for a message, the first few of many."""
    shown = ", ".join(shortened(word) for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most:,} more"
