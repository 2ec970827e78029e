"""Whether the hub can be reached, asked once and briefly: without a connection `datasets` would try for half a minute
before it looks into its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

WAIT = 5.0
"""Seconds in which the hub must answer."""


@contextmanager
def cache_at_once_if_offline(path: str) -> Iterator[None]:
    """Within the block `datasets` reads only what it has, if ``path`` is a set of the hub and that does not answer."""
    import datasets
    from huggingface_hub import constants

    if "/" not in path or hub_answers(path):
        yield
        return
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def hub_answers(name: str) -> bool:
    """Whether the hub says anything of this data set, be it that it does not exist."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=WAIT)
    except HfHubHTTPError as error:
        return getattr(error, "response", None) is not None
    except Exception:  # of the connection, whatever the client below the hub's raises
        return False
    return True
