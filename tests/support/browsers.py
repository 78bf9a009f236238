"""A real browser for the tests of the service, and the page in it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from served import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """Chromium without a screen, for which `evil.example` is this machine; it downloads into the folder."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    words = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={folder}/profile")
    for word in (*words, "host-resolver-rules=MAP evil.example 127.0.0.1"):
        options.add_argument(f"--{word}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """The service's page, opened in a browser that has no key yet."""

    def __init__(self, browser: Any, client: httpx.Client, width: int = 1280) -> None:
        self.browser = browser
        metrics = {"width": width, "height": 860, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(str(client.base_url))
        self.run("sessionStorage.clear()")
        browser.get_log("browser")  # what earlier pages have left there

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def choose(self, name: str, value: str) -> None:
        """One of several that exclude each other."""
        self.click(f'input[name="{name}"][value="{value}"]')

    def enter(self, identifier: str, value: str) -> None:
        """A value, as if it had been typed or slid to."""
        script = """
        const input = document.getElementById(arguments[0]);
        input.value = arguments[1];
        input.dispatchEvent(new Event("input", { bubbles: true }));
        """
        self.run(script, identifier, value)

    def drop(self, *paths: Path) -> None:
        """Files and folders, as from a file manager."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 200, "y": 200, "data": data}
            self.browser.execute_cdp_cmd("Input.dispatchDragEvent", event)

    def states(self) -> list[str]:
        """Of the pictures, one after the other, as the strip tells."""
        marks = self.run("return [...document.querySelectorAll('.thumb .mark')].map((mark) => mark.textContent)")
        return [mark.removeprefix("✓ ").removeprefix("! ") for mark in marks]

    def ends(self, *states: str) -> None:
        """Wait until the pictures are so."""
        until(lambda: self.states() == list(states) and not self.find("#doing").is_displayed())
