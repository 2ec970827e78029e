"""The playground in chromium: what a person does there, by mouse and keys, wide and narrow; whom the browser asks."""

import base64
import gc
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fairlead as fl
from fairlead.app.serving import serving
from tests.app.browser import NARROW, Browser, browser, missing

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(missing()), reason=missing())]

ENTER, TAB, RIGHT, DOWN, SPACE = "\ue007", "\ue004", "\ue014", "\ue015", " "
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>${window.hacked=1}{{7*7}}'


@pytest.fixture(scope="module")
def address(demo: Path) -> Iterator[str]:
    with serving([str(demo)], port=0) as (where, _):
        yield where


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(window: Browser, address: str) -> Iterator[Browser]:
    """A fresh page, which asks nobody but this server while the test lasts."""
    window.hosts()
    window.open(address)
    window.one("#sample")
    yield window
    assert window.hosts() <= {"127.0.0.1", "data:", "blob:", "about:", "chrome:", "chrome-untrusted:"}
    assert window.script("return window.hacked") is None
    said = [entry["message"] for entry in window.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [
        one for one in said if "AbortError" not in one and "errored out" not in one
    ] == []  # of pages that were left


def sampled(page: Browser, button: str = "#sample", state: str = "#state") -> None:
    page.click(button)
    page.wait(lambda: "done" in page.text(state), "the images")


def shown(page: Browser, css: str) -> torch.Tensor:
    """The images below, uint8 [n, h, w]."""
    sources = [str(image.get_attribute("src")) for image in page.all(f"{css} .tiles img")]
    decoded = [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]
    return torch.from_numpy(np.stack([np.array(image) for image in decoded]))


def images_of(guidance: str, conds: list[str], n: int, steps: int = 20) -> torch.Tensor:
    given = [cond for cond in conds for _ in range(n)]
    run = fl.sample("demo/model", given, guidance=guidance, seeds=[*range(n)] * len(conds), steps=steps)
    assert run.images is not None
    return run.images[:, 0]


def written(page: Browser, css: str) -> str:
    return str(page.one(f"{css} textarea, {css} input").get_attribute("value"))


def test_two_settings_are_compared_from_one_noise(page: Browser, tmp_path: Path) -> None:
    sampled(page)
    assert torch.equal(shown(page, "#left-images"), images_of("none", ["zero", "one"], 3))
    assert torch.equal(shown(page, "#right-images"), images_of("cfg(3)", ["zero", "one"], 3))
    assert "20 network rows" in page.text("#left-images")
    assert "40 network rows" in page.text("#right-images")
    page.wait(lambda: page.all("#did svg"), "the plots")
    page.click("#take button")
    page.wait(lambda: "--guidance" in page.text("#right-command"), "the command")
    assert "fairlead sample demo/model --cond zero one --n 3 --guidance 'cfg(3)'" in page.text("#right-command")
    assert "guidance='cfg(3)'" in page.text("#right-python")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.click("#right-png")
    page.wait(lambda: [*tmp_path.glob("*.png")], "the download")
    picture = Image.open(tmp_path / "right.png")
    assert json.loads(picture.text["fairlead"])["guidance"] == "cfg(3)"  # type: ignore[attr-defined]


def test_an_error_is_read_while_typing_and_nothing_is_sampled(page: Browser) -> None:
    page.write("#left-guidance textarea, #left-guidance input", "cgf(3)")
    page.wait(lambda: "did you mean 'cfg'" in page.text("#left-said [role=alert]"), "the error")
    page.click("#sample")
    page.wait(lambda: "not sampled" in page.text("#state"), "the refusal")
    assert page.all("#left-images img") == []
    page.write("#left-guidance textarea, #left-guidance input", "cfg(2) + pag(1)")
    page.wait(lambda: "Perturbed-attention" in page.text("#left-said"), "what it means")
    page.wait(lambda: page.one("#left-knob-1").is_displayed(), "a slider for each number")
    assert "pag: scale" in page.text("#left-knob-1")


def test_a_slider_writes_the_expression_and_no_answer_is_for_another(page: Browser) -> None:
    slider = page.one("#right-knob-0 input[type=range]")
    page.script("arguments[0].scrollIntoView({block: 'center'})", slider)
    for value in np.linspace(0, 9.5, 20).round(2):
        page.script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            slider,
            float(value),
        )
    page.wait(lambda: written(page, "#right-guidance") == "cfg(9.5)", "the last place of the slider")
    time.sleep(0.5)
    assert written(page, "#right-guidance") == "cfg(9.5)"
    sampled(page)
    assert torch.equal(shown(page, "#right-images"), images_of("cfg(9.5)", ["zero", "one"], 3))


def test_menus_write_the_expression(page: Browser) -> None:
    page.click("#right-add input")
    page.keys("rescale", DOWN, ENTER)
    page.wait(lambda: written(page, "#right-guidance") == "cfg(3) | rescale(0.7)", "the method")
    page.click("#left-presets input")
    page.keys("apg(cfg(6))", DOWN, ENTER)
    page.wait(lambda: written(page, "#left-guidance").startswith("apg(cfg(6)"), "the preset")
    sampled(page)
    assert torch.equal(shown(page, "#right-images"), images_of("cfg(3) | rescale(0.7)", ["zero", "one"], 3))


def long_run(page: Browser) -> None:
    """Begin what takes long."""
    for css, value in (("#steps", "250"), ("#n", "16")):
        page.write(f"{css} input[type=number]", value + TAB)
    page.write("#left-guidance textarea, #left-guidance input", "cfg(2) + pag(2) + seg(2) + slg(1)")
    page.click("#sample")
    page.wait(lambda: "step 1" in page.text("#state") or "step 2" in page.text("#state"), "steps")


def working() -> bool:
    return any(thread.name == "fairlead-playground" for thread in threading.enumerate())


def test_a_run_is_stopped_and_the_next_one_begins(page: Browser) -> None:
    long_run(page)
    assert working()
    page.click("#stop")
    page.wait(lambda: not working(), "the end of the run", seconds=10)
    time.sleep(0.5)
    before = page.text("#left-images")
    assert 0 < int(before.split("step ")[1].split(" of 250")[0]) < 250
    time.sleep(0.5)
    assert page.text("#left-images") == before
    for css, value in (("#steps", "2"), ("#n", "1")):
        page.write(f"{css} input[type=number]", value + TAB)
    sampled(page)
    assert torch.equal(shown(page, "#right-images"), images_of("cfg(3)", ["zero", "one"], 1, steps=2))


def test_closing_the_page_stops_its_run(page: Browser, address: str) -> None:
    long_run(page)
    assert working()
    page.driver.get("about:blank")
    page.wait(lambda: not working(), "the end of the run", seconds=15)
    page.open(address)
    page.one("#sample")


def test_a_click_in_the_row_of_scales_makes_it_a_setting(page: Browser) -> None:
    page.tab("Scales")
    sampled(page, "#row-sample", "#row-state")
    images = page.wait(lambda: page.all("#row-images button img"), "the row")
    assert len(images) == 8
    images[4].click()
    page.wait(lambda: "cfg(3) is the right setting" in page.text("#row-said"), "the choice")
    page.click("#row-into input[value=Left]")
    page.all("#row-images button img")[6].click()
    page.wait(lambda: "cfg(6) is the left setting" in page.text("#row-said"), "the choice")
    page.tab("Compare")
    assert (written(page, "#left-guidance"), written(page, "#right-guidance")) == ("cfg(6)", "cfg(3)")
    page.tab("Scales")
    page.write("#row-scales textarea, #row-scales input", "1, many")
    page.click("#row-sample")
    page.wait(lambda: "expected numbers such as 0, 1, 1.5, 3, got 'many'" in page.text("#row-state"), "the error")


def test_conditions_are_mixed_and_joined(page: Browser) -> None:
    page.tab("Mix")
    sampled(page, "#mix-sample", "#mix-state")
    expected = images_of('compose({"zero": 2, "one": 2})', [None], 3)  # type: ignore[list-item]
    assert torch.equal(shown(page, "#mix-images"), expected)
    sampled(page, "#way-sample", "#way-state")
    way = fl.interpolate("demo/model", "zero", "one", n=3, frames=8, guidance="cfg(2)", steps=20)
    assert torch.equal(shown(page, "#way-images"), way.images.flatten(0, 1)[:, 0])


def test_two_dimensions(page: Browser) -> None:
    page.tab("Two dimensions")
    page.click("#plane-sample")
    page.wait(lambda: "80 evaluations per sample" in page.text("#plane-state"), "the walk")
    first = page.one("#plane-picture img").get_attribute("src")
    assert "score field, paths and samples of cfg(3)" in page.one("#plane-picture img").get_attribute("alt")
    page.write("#plane-step input[type=number]", f"5{TAB}")
    page.wait(lambda: page.one("#plane-picture img").get_attribute("src") != first, "another step")
    page.write("#plane-guidance textarea, #plane-guidance input", 'auto(2, weak="x")')
    page.click("#plane-sample")
    page.wait(lambda: "which no toy distribution has" in page.text("#plane-state"), "the error")


def test_a_sweep_is_opened_and_a_point_clicked(page: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    from fairlead.app.swept import Swept

    page.tab("Sweeps")
    page.click("#sweep input")
    page.keys(DOWN, ENTER)
    picture = page.wait(lambda: next(iter(page.all("#sweep-front img")), None), "the front")
    page.wait(lambda: "Recommended: " in page.text("#sweep-said"), "the findings")
    assert page.all("#sweep-curves svg")
    name, x, y = next(place for place in Swept.of("demo/sweep").front[1] if place[0] == "cfg(4)")
    width, height = (page.script(f"return arguments[0].natural{side}", picture) for side in ("Width", "Height"))
    page.script("arguments[0].scrollIntoView({block: 'center'})", picture)
    size = picture.size
    right, down = x / width * size["width"] - size["width"] / 2, y / height * size["height"] - size["height"] / 2
    ActionChains(page.driver).move_to_element_with_offset(picture, round(right), round(down)).click().perform()
    page.wait(lambda: page.text("#sweep-images").startswith(name), "the point")
    assert "difference: cfg(4) minus cfg(1), same seeds" in page.text("#sweep-images").replace("\n", " ")
    assert len(page.all("#sweep-images .tiles img")) == 40


def test_keyboard_only(page: Browser) -> None:
    def reach(own: str) -> None:
        for _ in range(60):
            if page.script("return document.activeElement.closest(arguments[0]) !== null", own):
                return
            page.keys(TAB)
        raise AssertionError(f"{own} is not reached by Tab")

    reach("#sample")
    reach("#left-guidance")
    page.keys(*["\ue003"] * 4, "cfg(2)", ENTER)  # backspace over "none"
    page.wait(lambda: "done" in page.text("#state"), "the images")
    assert torch.equal(shown(page, "#left-images"), images_of("cfg(2)", ["zero", "one"], 3))
    reach("#left-knob-0")
    while page.script("return document.activeElement.type") != "range":
        page.keys(TAB)
    page.keys(RIGHT)
    page.wait(lambda: written(page, "#left-guidance") == "cfg(2.05)", "the slider")
    outline = page.script(
        "return getComputedStyle(document.activeElement).outlineStyle + document.activeElement.tagName"
    )
    assert outline.endswith("INPUT")


@pytest.mark.parametrize("tab", ["Compare", "Scales", "Mix", "Two dimensions", "Sweeps"])
def test_a_narrow_screen_shows_all_of_it(page: Browser, tab: str) -> None:
    page.resize(NARROW)
    if tab == "Compare":
        sampled(page)
    else:
        page.tab(tab)
    if tab == "Scales":
        sampled(page, "#row-sample", "#row-state")
    if tab == "Two dimensions":
        page.click("#plane-sample")
        page.wait(lambda: page.all("#plane-picture img"), "the picture")
    time.sleep(0.3)
    assert page.overflow() <= 0
    cut = page.script(
        "return [...document.querySelectorAll('button, input, textarea, .tiles img')].filter(e => e.offsetParent &&"
        " !e.closest('.wide') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"
    )
    assert cut == []


def test_the_page_is_light_on_a_dark_system(page: Browser, address: str) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page.open(address)
    page.one("#sample")
    page.wait(lambda: not page.script("return document.body.classList.contains('dark')"), "the light page")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_hostile_text_is_shown_as_text(page: Browser) -> None:
    page.write("#left-guidance textarea, #left-guidance input", HOSTILE)
    page.wait(lambda: "<img src=x" in page.text("#left-said"), "the text")
    page.write("#conds input", HOSTILE + ENTER)
    page.write("#sampler input", HOSTILE + ENTER)
    page.click("#sample")
    page.wait(lambda: "not sampled" in page.text("#state"), "the refusal")
    page.write("#left-guidance textarea, #left-guidance input", "none")
    page.click("#sample")
    page.wait(lambda: "<img src=x" in page.text("#right-said"), "the text")
    page.tab("Scales")
    page.write("#row-guidance textarea, #row-guidance input", HOSTILE)
    page.click("#row-sample")
    page.wait(lambda: "<img src=x" in page.text("#row-state"), "the text")
    page.tab("Mix")
    page.write("#mix-0 input", HOSTILE + ENTER)
    page.click("#mix-sample")
    page.wait(lambda: "<img src=x" in page.text("#mix-state"), "the text")
    assert page.all("img[src=x]") == []


def test_hostile_names_of_classes_and_folders_are_shown_as_text(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    data = fl.data(images, labels=[i % 2 for i in range(40)], classes=[HOSTILE, "${window.hacked=1} {{7*7}} `x`"])
    fl.train("a <b>run&/model", data=data, net="8x8", channels=8, steps=2, batch_size=8)
    with serving(["a <b>run&"], port=0) as (where, _):
        window.open(where)
        sampled(window)
        window.click("#take button")
        window.wait(lambda: "<img src=x" in window.text("#right-command"), "the command")
        assert HOSTILE in window.text("#right-images")
        assert window.script("return window.hacked") is None
        assert window.all("img[src=x]") == []
        window.driver.get("about:blank")


@pytest.mark.slow
def test_fifty_pages_opened_and_dropped_leave_nothing(window: Browser, address: str) -> None:
    def memory() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    sizes = []
    for i in range(70):
        window.open(address)
        sampled(window)
        if i in (19, 69):
            window.driver.get("about:blank")
            window.wait(lambda: not working(), "the end of the run")
            time.sleep(2)
            sizes.append(memory())
    assert sizes[1] - sizes[0] < 20 * 2**20
