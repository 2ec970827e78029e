"""The page and its server, without a browser: what is refused, what is escaped, what may be asked for."""

import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fairlead.app import tiles
from fairlead.app.serving import USER, serving
from fairlead.cli import main
from fairlead.core.errors import UsageError

gradio = pytest.importorskip("gradio", reason="the playground needs gradio: pip install 'fairlead[app]'")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e${7*7}{{7*7}}"


@pytest.fixture(scope="module")
def address(demo: Path) -> Iterator[str]:
    with serving([str(demo)], port=0) as (where, password):
        assert password == ""
        yield where.rstrip("/")


def get(url: str, **headers: str) -> tuple[int, dict[str, str], str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), ""


def test_it_is_on_this_machine_alone(address: str) -> None:
    assert urllib.parse.urlsplit(address).hostname == "127.0.0.1"
    assert get(address)[0] == 200
    assert get(address, Host="evil.example")[0] == 400  # a page that rebinds its name to 127.0.0.1


def test_the_browser_may_ask_nobody_else(address: str) -> None:
    status, headers, page = get(address)
    assert status == 200
    policy = {part.split()[0]: part.split()[1:] for part in headers["content-security-policy"].split("; ")}
    assert policy["default-src"] == ["'self'", "data:", "blob:"]
    assert policy["connect-src"] == ["'self'"]
    config = json.loads(page.split("window.gradio_config = ")[1].split(";</script>")[0])
    assert config["analytics_enabled"] is False
    assert not config.get("share_url")
    assert [sheet for sheet in config["stylesheets"] if sheet] == []


def test_files_of_this_machine_are_not_served(address: str, demo: Path) -> None:
    for path in ("/etc/passwd", str(Path(demo / "model").resolve()), str(Path(__file__))):
        assert get(f"{address}/gradio_api/file={path}")[0] in (403, 404)


def test_no_event_is_a_public_endpoint(address: str) -> None:
    status, _, body = get(f"{address}/gradio_api/info")
    assert status == 200
    assert json.loads(body)["named_endpoints"] == json.loads(body)["unnamed_endpoints"] == {}


def test_another_host_needs_a_password(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_PASSWORD", "short")
    with pytest.raises(UsageError, match="at least 8 characters"), serving([], host="0.0.0.0", port=0):
        pass
    monkeypatch.delenv("FAIRLEAD_PASSWORD")
    with serving([], host="0.0.0.0", port=0) as (where, password):
        assert len(password) >= 12
        there = f"http://127.0.0.1:{urllib.parse.urlsplit(where).port}"
        assert get(f"{there}/gradio_api/info")[0] == 401
        assert get(f"{there}/config")[0] == 401
        wrong = urllib.parse.urlencode({"username": USER, "password": "guess"}).encode()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{there}/login", wrong, timeout=30)
        right = urllib.parse.urlencode({"username": USER, "password": password}).encode()
        assert urllib.request.urlopen(f"{there}/login", right, timeout=30).status == 200


def test_hostile_text_is_text() -> None:
    for shown in (tiles.line(HOSTILE, wrong=True), tiles.tiles(torch.zeros(1, 1, 2, 2).byte(), [HOSTILE], HOSTILE, 1)):
        assert "<script" not in shown
        assert "<img src=x" not in shown
        assert "\u202e" not in shown
        assert "&lt;script&gt;" in shown


def test_nothing_is_left_when_it_ends(demo: Path) -> None:
    before = threading.active_count()
    with serving([], port=0) as (where, _):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_dir()
        assert get(where)[0] == 200
    assert not folder.exists()
    assert threading.active_count() <= before + 1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(where, timeout=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "expected a training run, a pipeline, or a folder with runs"),
        (["--port", "70000"], "port: expected 0 to 65535"),
    ],
)
def test_what_cannot_be_opened_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = urllib.parse.urlsplit(address).port
    assert main(["app", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err
