"""The hub is asked once and briefly; where it does not answer, `datasets` reads its cache at once."""

from typing import Any

import datasets
import pytest
from huggingface_hub import HfApi, constants

from fairlead.core.errors import UsageError
from fairlead.data.connection import WAIT, cache_at_once_if_offline
from fairlead.data.hub import load_data


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def answering(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[Any]:
    """What the hub was asked; it answers, or fails so."""
    asked: list[Any] = []

    def info(self: HfApi, name: str, **options: Any) -> None:
        asked.append((name, options))
        if error is not None:
            raise error

    monkeypatch.setattr(HfApi, "dataset_info", info)
    return asked


def offline() -> tuple[bool, bool]:
    return datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("online")
def test_without_a_connection_the_cache_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, OSError("Name or service not known"))
    with cache_at_once_if_offline("ylecun/mnist"):
        assert offline() == (True, True)
    assert offline() == (False, False)
    assert asked == [("ylecun/mnist", {"timeout": WAIT})]


@pytest.mark.usefixtures("online")
def test_with_one_nothing_changes_and_folders_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, None)
    for path, count in (("ylecun/mnist", 1), ("parquet", 1)):
        with cache_at_once_if_offline(path):
            assert offline() == (False, False)
        assert len(asked) == count


def test_the_message_says_what_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, OSError("Name or service not known"))
    with pytest.raises(UsageError, match="the hub cannot be reached; check the connection, give a local folder, or"):
        load_data("nobody/has-this-set")
