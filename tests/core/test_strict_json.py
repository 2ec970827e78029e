"""JSON is read with limits, every key once, and a seal is of what is said, not of how it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairlead.core.strict_json import SEAL, opened, parse_json, read_json, seal_of, sealed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * 50_000 + "]" * 50_000, "nested deeper"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested deeper than 64"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' is there twice"),
        ('{"n": ' + "9" * 5000 + "}", "4300 digits"),
        (b'{"a": "\xe9"}', "utf-8"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1] [2]", "Extra data"),
    ],
)
def test_what_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_what_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64) == json.loads("[" * 64 + "]" * 64)
    assert parse_json('{"a": "\\ud83d\\ude00", "b": [1.5, NaN]}'.replace("NaN", "null")) == {
        "a": "😀",
        "b": [1.5, None],
    }
    assert parse_json('{"a": "x\u2028y"}\n\n{"a": 2}\n', lines=True) == [{"a": "x\u2028y"}, {"a": 2}]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("{}")
    assert read_json(tmp_path / "a") == {}
    with pytest.raises(ValueError, match="no file"):
        read_json(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        read_json(tmp_path / "b")
    monkeypatch.setattr("fairlead.core.strict_json.LARGEST", 1)
    with pytest.raises(ValueError, match="larger"):
        read_json(tmp_path / "a")


def test_a_seal_is_of_what_is_said() -> None:
    said = {"a": (1, 2.5), "b": {"x": "é", "y": None}, "c": {3: 4}}
    other = {"c": {"3": 4}, "b": {"y": None, "x": "é"}, "a": [1, 2.5]}
    assert seal_of(said) == seal_of(other) == seal_of(sealed(said))
    assert opened(json.loads(json.dumps(sealed(said), indent=3))) == json.loads(json.dumps(said))
    assert opened(said) == said
    changes = ({"a": [1, 2.5000001]}, {"a": [2.5, 1]}, {"b": {"x": "é"}}, {"a": [1.0, 2.5]}, {"d": 1}, {SEAL: "0" * 16})
    for change in changes:
        with pytest.raises(ValueError, match="changed after it was written"):
            opened({**sealed(said), **change})
