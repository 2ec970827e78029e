"""The site builds strictly; in a browser nothing is asked from anywhere else, no page is wider than a telephone, and
search and mathematics work."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from fairlead.core.registry import EXPRESSIONS, PUBLIC, REGISTRY
from tests.app.browser import NARROW, WIDE, Browser, browser, missing

ROOT = Path(__file__).parent.parent.parent
TASKS = {
    "guide my Wan pipeline": "pipelines/video.html",
    "train on my folder": "data.html",
    "pick a scale with an interval": "tune.html",
    "write a method": "CONTRIBUTING.html",
    "what does apg do and when": "methods/apg.html",
    "reproduce the MNIST page": "results/mnist.html",
}
"""What readers come for -> the page that has it."""
LOOKED_AT = (
    "index.html", "diffusers.html", "tune.html", "sweep.html", "measure.html", "python.html", "api.html",
    "methods/index.html", "methods/cfg.html", "methods/energy.html", "methods/gallery.html", "results/shootout.html",
    "results/pipelines.html", "course/guiding.html", "tutorials/guidance-by-hand.html", "explanations/statistics.html",
    "reference/sample-and-guide.html", "reference/train.html", "reference/terms.html", "CONTRIBUTING.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def targets(page: Path) -> list[str]:
    return re.findall(r'(?:href|src)="([^"]+)"', page.read_text())


def test_every_link_and_anchor_leads_somewhere_and_nothing_is_fetched(site: Path) -> None:
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in site.rglob("*.html")}
    assert len(anchors) > 90
    wrong = []
    for page in anchors:
        if page.name == "404.html":  # served from any depth
            continue
        for target in targets(page):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path not in ("", ".") else page
            if not file.exists() or (
                parts.fragment and file in anchors and unquote(parts.fragment) not in anchors[file]
            ):
                wrong.append(f"{page.relative_to(site)}: {target}")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"', page.read_text())
        fetched += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(https?:[^"]+)"', page.read_text())
        wrong += [f"{page.relative_to(site)} fetches {one}" for one in fetched]
    assert wrong == []


@pytest.mark.parametrize("page", TASKS.values(), ids=TASKS)
def test_what_readers_come_for_is_two_clicks_away(page: str, site: Path) -> None:
    start = site / "index.html"
    content = start.read_text()
    links = re.findall(r'href="([^"#:]+\.html)', content[content.index("<article") : content.index("</article>")])
    first = {(site / link).resolve() for link in links}
    second = {
        (near.parent / link).resolve()
        for near in first
        for link in re.findall(r'href="([^"#:]+\.html)', near.read_text())
    }
    assert (site / page).resolve() in first | second


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    names = [*PUBLIC, *(name for kind in EXPRESSIONS for name in REGISTRY[kind])]
    assert [name for name in names if not re.search(rf"<h2[^>]*>(?:\s|<[^>]+>)*fl\.{name}\b", text)] == []


def test_formulas_are_mathematics(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    assert [
        page.name for page, text in pages.items() if "arithmatex" in text or "\\frac" in text.split("<article")[-1]
    ] == []
    with_rules = [page for page, text in pages.items() if page.parent.name == "methods" and "<math" in text]
    assert len(with_rules) >= 25


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if lacking := missing():
        pytest.skip(lacking)
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.hosts()  # what the browser itself asks for at its start
        yield opened


@pytest.mark.browser
def test_no_page_asks_anybody_else_or_is_wider_than_the_window(window: Browser, address: str) -> None:
    wide = []
    for page in LOOKED_AT:
        window.resize(WIDE)
        window.driver.get(f"{address}/{page}")
        wide += [(page, "wide", over) for over in [window.overflow()] if over > 0]
        window.resize(NARROW)
        wide += [(page, "narrow", over) for over in [window.overflow()] if over > 0]
        assert {host for host in window.hosts() if not host.endswith(":")} == {"127.0.0.1"}, page
    assert wide == []


@pytest.mark.browser
def test_the_search_finds_a_method(window: Browser, address: str) -> None:
    window.resize(WIDE)
    window.driver.get(f"{address}/index.html")
    window.write(".md-search__input", "projected guidance")
    window.wait(lambda: "apg" in window.text(".md-search-result__list"), "apg among the results")


@pytest.mark.browser
def test_the_fonts_of_the_site_are_used(window: Browser, address: str) -> None:
    window.resize(WIDE)
    window.driver.get(f"{address}/methods/cfg.html")
    loaded = (
        "return [...document.fonts].filter(f => f.status == 'loaded').map(f => f.family.replaceAll('\"', '')).sort()"
    )
    window.wait(lambda: len(window.script(loaded)) >= 3, "three fonts")
    assert {"Inter", "JetBrains Mono", "STIX Two Math"} <= set(window.script(loaded))


@pytest.mark.browser
def test_there_is_a_dark_scheme(window: Browser, address: str) -> None:
    window.resize(WIDE)
    window.driver.get(f"{address}/index.html")
    seen = set()
    for _ in range(3):
        seen.add(window.script("return getComputedStyle(document.body).backgroundColor"))
        window.script("[...document.querySelectorAll('.md-header__option label')].find(l => !l.hidden).click()")
    assert len(seen) == 2
