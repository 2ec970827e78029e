"""A real browser for the tests: Debian's chromium, driven by selenium, with everything that it asks for on record."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDE, NARROW = (1280, 1000), (380, 820)


def missing() -> str:
    """What browser tests lack here; "" if nothing."""
    try:
        import gradio
        import selenium
    except ImportError as error:
        return f"{error.name} is not installed (pip install 'fairlead[app]' selenium)"
    del gradio, selenium
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} here; `make test-browser` installs them" if lacking else ""


class Browser:
    """One window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str, size: tuple[int, int] = WIDE) -> None:
        self.resize(size)
        self.driver.get(address)
        self.wait(lambda: self.all(".gradio-container button"), "the page")

    def resize(self, size: tuple[int, int]) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )

    def all(self, css: str) -> list[Any]:
        return [*self.driver.find_elements("css selector", css)]

    def one(self, css: str) -> Any:
        return self.wait(lambda: next(iter(self.all(css)), None), css)

    def text(self, css: str) -> str:
        return "\n".join(str(each.get_attribute("innerText")) for each in self.all(css))

    def script(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def click(self, css: str) -> None:
        found = self.one(css)
        self.script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def tab(self, name: str) -> None:
        """Choose a tab of the page by its name, where need be from the menu of those that have no room."""

        def found(css: str) -> Any:
            return next((one for one in self.all(css) if one.text.strip() == name and one.is_displayed()), None)

        self.wait(lambda: self.all("button[role=tab]"), "the tabs")
        if not _quietly(lambda: found("button[role=tab]")):
            menus = self.all(".overflow-menu > button")
            next(one for one in menus if one.is_displayed()).click()
            self.wait(lambda: found(".overflow-dropdown button"), f"tab {name}").click()
        else:
            self.wait(lambda: found("button[role=tab]"), f"tab {name}").click()

    def write(self, css: str, text: str) -> None:
        """Type into a field in place of what is there."""
        from selenium.webdriver.common.keys import Keys

        field = self.one(css)
        self.script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, until: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := _quietly(until)):
            assert time.monotonic() < end, f"not seen within {seconds} s: {what}"
            time.sleep(0.05)
        return found

    def hosts(self) -> set[str]:
        """Every host that anything was asked from since the last call, and schemes beside http."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = urlsplit(message["params"].get("request", message["params"])["url"])
                found.add(url.hostname if url.scheme in ("http", "https", "ws", "wss") else f"{url.scheme}:")
        return {host for host in found if host}

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.script("return document.documentElement.scrollWidth - window.innerWidth"))

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        height = int(self.script("return document.documentElement.scrollHeight"))
        width = int(self.script("return window.innerWidth"))
        self.resize((width, min(height, 6000)))
        time.sleep(0.3)
        path.write_bytes(self.driver.get_screenshot_as_png())
        self.resize((width, WIDE[1] if width == WIDE[0] else NARROW[1]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A fresh window with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver") or "")
    driver = webdriver.Chrome(options, service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _quietly(until: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException

    try:
        return until()
    except StaleElementReferenceException:  # drawn anew in between
        return None
