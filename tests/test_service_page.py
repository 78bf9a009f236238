"""The web page in a real browser."""

from __future__ import annotations

import base64
import io
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from served import served, until

from cutout.service.engine import Engine
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DROP = """
const [name, data] = arguments, bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Any]:
    """Chromium without a screen."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={profile}"):
        options.add_argument(f"--{word}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def _text(browser: Any, selector: str) -> str:
    return " ".join(element.text for element in browser.find_elements("css selector", selector))


def test_drop_a_picture_see_the_cutout_download_it(
    browser: Any, downloads: Path, examples: Path, tmp_path: Path
) -> None:
    """The file is what the interface gives, byte for byte; the page asks nobody but the service."""
    data = (examples / "chelsea.jpg").read_bytes()
    settings = Settings(device="cpu", workers=2, folder=tmp_path / "jobs")
    with served(settings, Engine(settings)) as client:
        browser.get(str(client.base_url))
        find = browser.find_element
        until(lambda: "waiting in the queue" in find("id", "queue").text)
        until(lambda: len(browser.find_elements("css selector", "#options [name]")) > 8)
        browser.execute_script(_DROP, "chelsea.jpg", base64.b64encode(data).decode())
        link = until(lambda: next(iter(browser.find_elements("css selector", "a.download")), None))
        seen = find("css selector", "img.after")
        assert until(lambda: seen.get_property("naturalWidth")) == 451
        assert seen.is_displayed()
        assert "1 of 1 done" in find("id", "told").text
        slider = find("css selector", ".card input[type=range]")
        slider.send_keys("\ue014" * 5)  # the right arrow
        assert slider.get_property("value") == "40"
        assert "40%" in find("css selector", ".view").get_attribute("style")
        find("css selector", "input[value=black]").click()
        assert "black" in find("css selector", ".view").get_attribute("class")
        link.click()
        expected = client.post("/remove-background", files={"file": data}).content
        file = downloads / "chelsea-cutout.png"
        until(lambda: file.exists() and len(file.read_bytes()) == len(expected))
        assert file.read_bytes() == expected
        find("id", "all").click()
        packed = downloads / "cutouts.zip"
        until(lambda: packed.exists() and packed.stat().st_size > len(expected))
        with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
            assert archive.testzip() is None
            assert archive.read("chelsea-cutout.png") == expected
        browser.set_window_size(500, 800)
        inner, body = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert body <= inner, "nothing sticks out at the width of a phone"
        bad = [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
        assert not bad
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert all(name.startswith((str(client.base_url), "blob:")) for name in asked)


def test_what_cannot_be_done_is_told_beside_its_picture(browser: Any, tmp_path: Path) -> None:
    settings = Settings(device="cpu", workers=2, folder=tmp_path / "jobs", api_keys=("some-key",))
    with served(settings, Engine(settings)) as client:
        browser.get(str(client.base_url))
        browser.execute_script(_DROP, "broken.jpg", base64.b64encode(b"no picture").decode())
        until(lambda: "API key" in _text(browser, ".card .error"))
        key = browser.find_element("id", "key")
        until(key.is_displayed)
        key.send_keys("some-key\t")
        browser.find_element("css selector", ".card button").click()
        until(lambda: "not a picture" in _text(browser, ".card .error"))
