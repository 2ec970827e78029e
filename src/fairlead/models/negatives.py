"""Common negative prompts by domain, for models that read free text: ``cfg(7, negative="@portrait")``.

They are data, ``negatives.json``: starting points for pictures from the web, to be measured on one's own model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from fairlead.core.errors import unknown


@cache
def negatives() -> Mapping[str, str]:
    """Domain -> prompt."""
    found: dict[str, str] = json.loads((files("fairlead.models") / "negatives.json").read_text(encoding="utf-8"))
    return found


def expanded(prompt: str) -> str:
    """The prompt, or the preset that ``@domain`` names.

    Raises:
        UsageError: for an unknown domain; lists those there are.
    """
    if not prompt.startswith("@"):
        return prompt
    if prompt[1:] not in negatives():
        raise unknown("preset of negative prompts", prompt, [f"@{name}" for name in negatives()])
    return negatives()[prompt[1:]]
